"""Download of packages for an interpreter, by uv or pip of the host.

Nothing of a package runs here: only wheels are taken, and they are unpacked into a folder.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import anyio
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from cci_plugins.common.limits import MIB
from cci_plugins.common.packages import LIST_CODE, parse_packages
from cci_plugins.errors import ConfigurationError, PoolUnavailableError
from cci_plugins.pools.local.isolation.interpreter import inspect
from cci_plugins.pools.local.isolation.managed_process import run_program
from cci_plugins.redaction import redact

from .supervised import SupervisedProgram

DOWNLOAD_SECONDS = 600
MAX_PACKAGES, MAX_CHARACTERS = 100, 200
MAX_BYTES = 2048 * MIB
_REASON_CHARACTERS = 600


@dataclass(frozen=True, slots=True)
class PackageSource:
    """Where the packages of a pool come from.

    Attributes:
        python: The interpreter of the sessions, which the wheels must fit.
        index: A folder of wheels or the address of an index. None for the default one.
    """

    python: Path
    index: str | None = None

    async def find_python(self) -> str:
        """Return the path of the interpreter's real program."""
        return (await inspect(self.python)).executable


def check_specifications(specifications: Sequence[str]) -> list[Requirement]:
    """Parse specifications of packages: names, extras and versions.

    Raises:
        ConfigurationError: One of them is anything else.
    """
    if not specifications or len(specifications) > MAX_PACKAGES:
        raise ConfigurationError(
            f"cannot install {len(specifications)} packages at once",
            hint=f"name 1 to {MAX_PACKAGES} packages",
        )
    return [_parse(specification) for specification in specifications]


def _parse(specification: object) -> Requirement:
    if isinstance(specification, str) and len(specification) <= MAX_CHARACTERS:
        with suppress(InvalidRequirement):
            requirement = Requirement(specification)
            if requirement.url is None and requirement.marker is None:
                return requirement
    raise ConfigurationError(
        f"cannot install {redact(str(specification)[:MAX_CHARACTERS])!r}: "
        "it is not the name of a package",
        hint='pass names and versions only, such as "polars" or "duckdb>=1"',
    )


async def list_installed(python: Path) -> Mapping[str, str]:
    """Return the versions of an interpreter's packages by name."""
    paths = list((await inspect(python)).paths)
    code = f"import sys; sys.path.extend({paths!r})\n{LIST_CODE}"
    _, printed = await run_program(python, "-I", "-c", code)
    return parse_packages(printed.decode())


def select_missing(
    requirements: Sequence[Requirement], present: Mapping[str, str]
) -> list[Requirement]:
    """Return what is not present yet.

    Raises:
        ConfigurationError: Another version is present.
    """
    missing = []
    for requirement in requirements:
        version = present.get(canonicalize_name(requirement.name))
        if version is None or requirement.extras:
            missing.append(requirement)
        if version is not None and not requirement.specifier.contains(version, prereleases=True):
            raise ConfigurationError(
                f"cannot install '{requirement}': the session has {requirement.name} {version}",
                hint="use that version, or give the sessions another interpreter (CCI_PYTHON)",
            )
    return missing


async def download(
    source: PackageSource,
    requirements: Sequence[Requirement],
    present: Mapping[str, str],
    target: Path,
) -> dict[str, str]:
    """Unpack packages and what they need into a new folder, without what is present.

    Args:
        source: Where they come from.
        requirements: The packages.
        present: Versions that must not change, by name.
        target: The folder to create. Its parent also gets one for temporary files.

    Returns:
        The new versions by name.

    Raises:
        ConfigurationError: They cannot be had together with what is present.
        PoolUnavailableError: It took too long.
    """
    scratch = target.with_name("scratch")
    for folder in (target, scratch):
        await anyio.Path(folder).mkdir()
    constraints = scratch / "constraints.txt"
    lines = [f"{name}=={version}\n" for name, version in present.items() if "+" not in version]
    await anyio.Path(constraints).write_text("".join(lines), encoding="utf-8")
    command = [
        *_build_installer(source.python, source.index),
        *("--only-binary", ":all:", "--target", str(target), "--constraint", str(constraints)),
        *map(str, requirements),
    ]
    status, output = await _run(command, scratch)
    if status:
        names = ", ".join(f"'{requirement}'" for requirement in requirements)
        raise ConfigurationError(
            f"cannot install {names}: {redact(_shorten(output))}",
            hint="check the names and versions, and what the session has already",
        )
    return await anyio.to_thread.run_sync(_inspect_target, target, present)


def _build_installer(python: Path, index: str | None) -> list[str]:
    source: list[str] = []
    if index is not None:
        is_folder = Path(index).is_dir()
        source = ["--no-index", "--find-links", index] if is_folder else ["--index-url", index]
    if uv := shutil.which("uv"):
        options = ["--no-config", "--quiet", "--python", str(python)]
        return [str(Path(uv).absolute()), "pip", "install", *options, *source]
    found = shutil.which("pip")
    pip = [str(Path(found).absolute())] if found else []
    pip = [sys.executable, "-m", "pip"] if find_spec("pip") else pip
    if python != Path(sys.executable) or not pip:
        raise ConfigurationError(
            "installing packages into this interpreter needs uv, which is not on PATH",
            hint="pip install uv",
        )
    options = ["--isolated", "--quiet", "--no-input", "--disable-pip-version-check"]
    return [*pip, *options, "--python", str(python), "install", "--no-compile", *source]


async def _run(command: Sequence[str], scratch: Path) -> tuple[int, str]:
    """Run an installer, and return its exit status and the end of its standard error."""
    environment = {**os.environ, "TMPDIR": str(scratch)}
    program = SupervisedProgram(sys.executable, scratch, command, environment)
    try:
        child = await program.get_child()
        with anyio.fail_after(DOWNLOAD_SECONDS):
            return await child.wait(), await child.read_stderr_tail()
    except TimeoutError:
        raise PoolUnavailableError(
            f"the packages did not arrive within {DOWNLOAD_SECONDS} s", hint="try again"
        ) from None
    finally:
        await program.close()


def _shorten(output: str) -> str:
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR")] or lines
    return " ".join(errors)[:_REASON_CHARACTERS] or "the installer gave no reason"


def _inspect_target(target: Path, present: Mapping[str, str]) -> dict[str, str]:
    """Remove what the session has already, check the size, and return the versions by name."""
    from importlib.metadata import distributions  # noqa: PLC0415 - it is slow to load

    versions: dict[str, str] = {}
    for found in list(distributions(path=[str(target)])):
        name = canonicalize_name(found.metadata["Name"])
        if name not in present:
            versions[name] = found.version
            continue
        for file in found.files or ():
            path = Path(str(found.locate_file(file)))
            if path.resolve().is_relative_to(target.resolve()):
                path.unlink(missing_ok=True)
    size = sum(path.stat().st_size for path in target.rglob("*") if path.is_file())
    if size > MAX_BYTES:
        raise ConfigurationError(
            f"the packages have {size:,} bytes, and a session takes {MAX_BYTES:,}",
            hint="install fewer packages, or an interpreter that has them (CCI_PYTHON)",
        )
    return versions

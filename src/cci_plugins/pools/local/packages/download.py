"""Download of packages for an interpreter, by uv or pip of the host.

First the versions are resolved together with those that are present, which downloads little. Then
what is missing is unpacked into a folder. Nothing of a package runs here: only wheels are taken.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import anyio

from cci_plugins.common.limits import MIB
from cci_plugins.common.packages import LIST_CODE, parse_packages
from cci_plugins.common.threads import run_in_thread
from cci_plugins.errors import ConfigurationError, PoolUnavailableError
from cci_plugins.pools.local.isolation.interpreter import inspect
from cci_plugins.pools.local.isolation.managed_process import run_program
from cci_plugins.redaction import redact

from .names import canonicalize_name
from .source import PackageSource

if TYPE_CHECKING:
    from packaging.requirements import Requirement
from .supervised import SupervisedProgram

DOWNLOAD_SECONDS = 600
MAX_BYTES = 2048 * MIB
_REASON_CHARACTERS = 600
_NAMES_SOURCE = re.compile(r"(?:UV|PIP)_.*(?:INDEX|FIND_LINKS)")


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
    folder: Path,
) -> Path:
    """Unpack packages and what they need into a folder, without what is present.

    Args:
        source: Where they come from.
        requirements: The packages.
        present: Versions that must not change, by name.
        folder: An empty folder for this download.

    Returns:
        The folder of the packages.

    Raises:
        ConfigurationError: They do not exist, or not together with what is present.
        PoolUnavailableError: It took too long.
    """
    installer = _Installer(source, requirements, folder)
    target = folder / "target"
    await anyio.Path(target).mkdir()
    try:
        with anyio.fail_after(DOWNLOAD_SECONDS):
            resolved = await installer.resolve(present)
            missing = {name: each for name, each in resolved.items() if name not in present}
            if missing:
                await installer.install(missing, target)
    except TimeoutError:
        raise PoolUnavailableError(
            f"the packages did not arrive within {DOWNLOAD_SECONDS} s", hint="try again"
        ) from None
    await run_in_thread(_check_size, target)
    return target


def list_versions(folder: Path) -> dict[str, str]:
    """Return the versions of the packages in a folder by name."""
    from importlib.metadata import distributions  # noqa: PLC0415 - it is slow to load

    return {
        canonicalize_name(each.metadata["Name"]): each.version
        for each in distributions(path=[str(folder)])
    }


class _Installer:
    """The host's uv or pip, for one download.

    Raises:
        ConfigurationError: Neither of them can serve this interpreter.
    """

    def __init__(
        self, source: PackageSource, requirements: Sequence[Requirement], folder: Path
    ) -> None:
        self._source = source
        self._requirements = requirements
        self._folder = folder
        self._uv = shutil.which("uv")
        self._command = _find_uv(self._uv) if self._uv else _find_pip(source)

    async def resolve(self, present: Mapping[str, str]) -> dict[str, str]:
        """Return the versions of the packages and what they need, by normalized name.

        Raises:
            ConfigurationError: No versions fit.
        """
        locked = [str(each.requirement) for each in self._source.iter_lock()]
        pins = [f"{name}=={_drop_label(version)}" for name, version in present.items()]
        constraints = await self._write("constraints.txt", [*pins, *locked])
        wanted = await self._write_requirements("wanted.txt", map(str, self._requirements))
        report = self._folder / "resolved.txt"
        options = ("--constraint", constraints, *self._list_options())
        if self._uv:
            command = (*self._command, "compile", "--no-header", "--no-annotate", *options)
            await self._run(*command, "--output-file", str(report), wanted)
        else:
            command = (*self._command, "install", "--dry-run", "--ignore-installed", *options)
            await self._run(*command, "--report", str(report), "--requirement", wanted)
        text = await anyio.Path(report).read_text(encoding="utf-8")
        return _parse_lines(text) if self._uv else _parse_report(text)

    async def install(self, versions: Mapping[str, str], target: Path) -> None:
        """Unpack these versions into a folder.

        Raises:
            ConfigurationError: The lock does not have one of them, or it has other hashes.
        """
        lock = self._source.lock
        for name in versions:
            if lock is not None and name not in lock:
                raise ConfigurationError(
                    f"cannot install {self._describe()}: the lock does not have {name}",
                    hint="add it to package_lock, which names every package that these need",
                )
        lines = (
            [f"{name}=={version}" for name, version in versions.items()]
            if lock is None
            else [entry.line for name in versions for entry in lock[name]]
        )
        exact = ("--no-deps", *(() if lock is None else ("--require-hashes",)))
        options = (*exact, *self._list_options(), *(() if self._uv else ("--no-compile",)))
        versions_file = await self._write_requirements("versions.txt", lines)
        command = (*self._command, "install", *options, "--target", str(target))
        await self._run(*command, "--requirement", versions_file)

    def _list_options(self) -> tuple[str, ...]:
        python = ("--python", str(self._source.python), *self._source.target)
        uv = ("--quiet", *python) if self._uv else ("--quiet",)
        folder = self._source.index_folder
        source = () if folder is None else ("--no-index", "--find-links", folder)
        return (*uv, *source, "--only-binary", ":all:")

    async def _write_requirements(self, name: str, lines: Iterable[str]) -> str:
        """Write a file of requirements that names the index, and return its path.

        The address of an index may hold a password. No command line should show that.
        """
        is_address = self._source.index is not None and self._source.index_folder is None
        options = [f"--index-url {self._source.index}"] if is_address else []
        return await self._write(name, [*options, *lines])

    async def _write(self, name: str, lines: Iterable[str]) -> str:
        path = anyio.Path(self._folder / name)
        await path.touch(0o600)
        await path.write_text("\n".join([*lines, ""]), encoding="utf-8")
        return str(path)

    async def _run(self, *command: str) -> None:
        scratch = Path(tempfile.mkdtemp(dir=self._folder))
        environment = _build_environment(scratch, has_index=self._source.index is not None)
        program = SupervisedProgram(sys.executable, scratch, command, environment)
        try:
            child = await program.get_child()
            status, output = await child.wait(), await child.read_stderr_tail()
        finally:
            await program.close()
        if status:
            raise ConfigurationError(
                f"cannot install {self._describe()}: {redact(_shorten(output))}",
                hint="check the names and versions, and what the session has already",
            )

    def _describe(self) -> str:
        return ", ".join(f"'{requirement}'" for requirement in self._requirements)


def _find_uv(path: str) -> tuple[str, ...]:
    return (str(Path(path).absolute()), "--no-config", "pip")


def _find_pip(source: PackageSource) -> tuple[str, ...]:
    """Return the command of pip, which serves only this application's own interpreter."""
    python, found = source.python, shutil.which("pip")
    pip: tuple[str, ...] = (str(Path(found).absolute()),) if found else ()
    pip = (sys.executable, "-m", "pip") if find_spec("pip") else pip
    if python != Path(sys.executable) or source.target or not pip:
        raise ConfigurationError(
            "installing packages into this interpreter needs uv, which is not on PATH",
            hint="pip install uv",
        )
    options = ("--no-input", "--disable-pip-version-check", "--python", str(python))
    return (*pip, *options)


def _build_environment(scratch: Path, *, has_index: bool) -> dict[str, str]:
    """Build the environment of an installer. It names the index unless the application does.

    Files of settings do not count for pip here, nor for uv by `--no-config`.
    """
    kept = {
        name: value
        for name, value in os.environ.items()
        if not (has_index and _NAMES_SOURCE.match(name))
    }
    own = {"PIP_CONFIG_FILE": os.devnull, "PIP_USER": "0", "PIP_REQUIRE_VIRTUALENV": "0"}
    return {**kept, **own, "TMPDIR": str(scratch)}


def _drop_label(version: str) -> str:
    """Return a version without its local label, which an index does not have."""
    return version.partition("+")[0]


def _parse_lines(text: str) -> dict[str, str]:
    """Parse what uv resolved: one `name==version` a line."""
    from packaging.requirements import Requirement  # noqa: PLC0415 - not at the start

    found = [Requirement(line) for line in text.splitlines() if "==" in line]
    return {canonicalize_name(each.name): next(iter(each.specifier)).version for each in found}


def _parse_report(text: str) -> dict[str, str]:
    """Parse pip's report."""
    found = [each["metadata"] for each in json.loads(text)["install"]]
    return {canonicalize_name(each["name"]): each["version"] for each in found}


def _shorten(output: str) -> str:
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR")] or lines
    return " ".join(errors)[:_REASON_CHARACTERS] or "the installer gave no reason"


def _check_size(folder: Path) -> None:
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    if size > MAX_BYTES:
        raise ConfigurationError(
            f"the packages have {size:,} bytes, and a session takes {MAX_BYTES:,}",
            hint="install fewer packages, or an interpreter that has them (CCI_PYTHON)",
        )

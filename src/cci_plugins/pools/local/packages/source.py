"""Where packages come from, and which of them the application allows."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from cci_plugins.errors import ConfigurationError
from cci_plugins.pools.local.isolation.interpreter import inspect
from cci_plugins.redaction import redact

from .names import canonicalize_name, parse_requirement

if TYPE_CHECKING:
    from packaging.requirements import Requirement

MAX_PACKAGES, MAX_CHARACTERS = 100, 200
MAX_LOCK_BYTES = 4 << 20
_SHOWN_NAMES = 10
_ADDRESS = re.compile(r"https?://\S+")
_HASH = re.compile(r"\s--hash[= ](?:sha256|sha384|sha512):[0-9a-f]{64,128}(?=\s|$)")


@dataclass(frozen=True, slots=True)
class LockedPackage:
    """One entry of a lock.

    Attributes:
        requirement: Its name and the one version.
        line: The entry with its hashes.
    """

    requirement: Requirement
    line: str


@dataclass(frozen=True, slots=True)
class PackageSource:
    """Where the packages of a pool come from.

    Attributes:
        python: The interpreter of the sessions, which the wheels must fit.
        index: A folder of wheels or the address of an index. None for the default one.
        allowed: Normalized names that may be installed. None for any.
        lock: The only versions, by normalized name, with their hashes. None for any.
        target: Options of uv for the Python of another machine. Empty for `python`.
    """

    python: Path
    index: str | None = field(default=None, repr=False)
    allowed: frozenset[str] | None = None
    lock: Mapping[str, Sequence[LockedPackage]] | None = None
    target: tuple[str, ...] = ()

    @property
    def index_folder(self) -> str | None:
        """The index if it is a folder of this machine."""
        return self.index if self.index is not None and Path(self.index).is_dir() else None

    def iter_lock(self) -> Iterator[LockedPackage]:
        """Yield every entry of the lock."""
        for entries in (self.lock or {}).values():
            yield from entries

    async def find_python(self) -> str:
        """Return the path of the interpreter's real program."""
        return (await inspect(self.python)).executable

    def check(self, specifications: Sequence[str]) -> list[Requirement]:
        """Parse specifications of packages: names, extras and versions.

        Raises:
            ConfigurationError: One of them is anything else, or the application does not allow it.
        """
        if not specifications or len(specifications) > MAX_PACKAGES:
            raise ConfigurationError(
                f"cannot install {len(specifications)} packages at once",
                hint=f"name 1 to {MAX_PACKAGES} packages",
            )
        requirements = [_parse(specification) for specification in specifications]
        for requirement in requirements:
            self._check_allowed(requirement)
        return requirements

    def _check_allowed(self, requirement: Requirement) -> None:
        name = canonicalize_name(requirement.name)
        if self.allowed is not None and name not in self.allowed:
            raise ConfigurationError(
                f"cannot install '{requirement}': the application does not allow {name}",
                hint=f"add it to allowed_packages, which has {_join(self.allowed)}",
            )
        if self.lock is None:
            return
        entries = [entry.requirement for entry in self.lock.get(name, ())]
        if not entries:
            raise ConfigurationError(
                f"cannot install '{requirement}': the lock does not have {name}",
                hint=f"add it to package_lock, which has {_join(self.lock)}",
            )
        versions = [_get_version(entry) for entry in entries]
        if not any(requirement.specifier.contains(each, prereleases=True) for each in versions):
            raise ConfigurationError(
                f"cannot install '{requirement}': the lock has {name} {versions[0]}",
                hint="install that version, or update package_lock",
            )

    def describe(self) -> str:
        """Return which packages may be installed, as a clause. Empty for any."""
        if self.allowed is None and self.lock is None:
            return ""
        names = set(self.lock or ()) if self.allowed is None else set(self.allowed)
        return f", and allows {_join(names if self.lock is None else names & set(self.lock))}"


def build_source(
    python: Path,
    index: str | os.PathLike[str] | None,
    allowed: Sequence[str] | None,
    lock: str | os.PathLike[str] | None,
) -> PackageSource:
    """Build the source of a pool's packages from the options of the pool.

    Raises:
        ConfigurationError: A name or the lock is invalid.
    """
    place = None if index is None else os.fspath(index)
    if place is not None and Path(place).is_dir():
        place = str(Path(place).absolute())
    elif place is not None and not _ADDRESS.fullmatch(place):
        raise ConfigurationError(
            f"package_index {redact(place)!r} is neither a folder nor the address of an index",
            hint="pass a folder of wheels, or an address such as https://pypi.org/simple",
        )
    if isinstance(allowed, str):
        raise ConfigurationError(
            f"allowed_packages is the text {allowed!r}", hint="pass a list of names"
        )
    names = None if allowed is None else frozenset(map(_normalize, allowed))
    return PackageSource(python, place, names, None if lock is None else _read_lock(Path(lock)))


def _parse(specification: object) -> Requirement:
    if isinstance(specification, str) and len(specification) <= MAX_CHARACTERS:
        requirement = parse_requirement(specification)
        if requirement and requirement.url is None and requirement.marker is None:
            return requirement
    raise ConfigurationError(
        f"cannot install {redact(str(specification)[:MAX_CHARACTERS])!r}: "
        "it is not the name of a package",
        hint='pass names and versions only, such as "polars" or "duckdb>=1"',
    )


def _normalize(name: str) -> str:
    requirement = _parse(name)
    if requirement.specifier or requirement.extras:
        raise ConfigurationError(
            f"allowed_packages names {name!r}, which is more than a name",
            hint="name packages only, and pin versions in package_lock",
        )
    return canonicalize_name(requirement.name)


def _read_lock(path: Path) -> Mapping[str, Sequence[LockedPackage]]:
    """Read a requirements file that has one version and its hashes for each package.

    Options of an index in it do not count: `package_index` names where packages come from.
    """
    try:
        if path.stat().st_size > MAX_LOCK_BYTES:
            raise ConfigurationError(
                f"the package lock {path} has more than {MAX_LOCK_BYTES:,} bytes",
                hint="write a shorter one, such as with `uv pip compile --generate-hashes`",
            )
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(
            f"cannot read the package lock {path}: {error}",
            hint="pass the path of a requirements file with hashes",
        ) from error
    entries: dict[str, list[LockedPackage]] = {}
    for line in re.sub(r"\\\r?\n", " ", text).splitlines():
        entry = re.sub(r"(^|\s)#.*", "", line).strip()
        if entry and not entry.startswith("-"):
            locked = _parse_entry(path, entry)
            entries.setdefault(canonicalize_name(locked.requirement.name), []).append(locked)
    return entries


def _parse_entry(path: Path, entry: str) -> LockedPackage:
    text = _HASH.sub("", entry)
    if text != entry:
        requirement = parse_requirement(text)
        specifier = requirement.specifier if requirement and requirement.url is None else ()
        is_pinned = [each.operator for each in specifier] == ["=="] and "*" not in str(specifier)
        if requirement and is_pinned:
            return LockedPackage(requirement, entry)
    raise ConfigurationError(
        f"the package lock {path} has {redact(text[:MAX_CHARACTERS])!r}, which does not name one "
        "version and its hashes",
        hint="write the lock with `uv pip compile --generate-hashes`",
    )


def _get_version(requirement: Requirement) -> str:
    return next(iter(requirement.specifier)).version


def _join(names: Mapping[str, object] | frozenset[str] | set[str]) -> str:
    shown = sorted(names)[:_SHOWN_NAMES]
    more = [f"{len(names) - len(shown)} more"] if len(names) > len(shown) else []
    return ", ".join([*shown, *more]) or "no package"

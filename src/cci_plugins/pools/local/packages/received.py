"""Wheels that a host sends to a session of this machine, in parts.

Nothing that arrives is trusted. A file is named as a wheel, no part leaves its folder, and sizes
are counted while bytes arrive and while wheels are unpacked, because a small archive may hold much.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import stat
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from secrets import token_hex
from typing import TYPE_CHECKING

from cci_plugins.common.limits import MIB
from cci_plugins.errors import ConfigurationError, SessionLostError
from cci_plugins.pools.package_pools import MAX_WHEELS, PART_BYTES

if TYPE_CHECKING:
    from cci_plugins.pools.package_exchange import WheelFile, WheelPart

MAX_SESSION_BYTES = 2048 * MIB
MAX_TOTAL_BYTES = 4 * MAX_SESSION_BYTES  # of all sessions of a pool
_READ_BYTES = MIB
_DATA_SUFFIX = ".data"
_LIBRARIES = frozenset({"purelib", "platlib"})


class ByteBudget:
    """Bytes that may be stored, of one session below those of all sessions.

    Args:
        limit: Most bytes.
        whose: Whose bytes these are, for the error.
        parent: The budget of all sessions.
    """

    def __init__(self, limit: int, whose: str, parent: ByteBudget | None = None) -> None:
        self.used = 0
        self._limit = limit
        self._whose = whose
        self._parent = parent

    def take(self, size: int) -> None:
        """Reserve bytes.

        Raises:
            ConfigurationError: They would be too many.
        """
        if self.used + size > self._limit:
            raise ConfigurationError(
                f"packages of {self._whose} may have {self._limit:,} bytes in all",
                hint="install fewer packages, or build the image of the sessions with them",
            )
        if self._parent is not None:
            self._parent.take(size)
        self.used += size

    def release(self, size: int | None = None) -> None:
        """Give bytes back, or all of them."""
        size = self.used if size is None else size
        self.used -= size
        if self._parent is not None:
            self._parent.release(size)


class WheelUpload:
    """The wheels of one upload, until they are installed.

    Args:
        folder: An empty folder of its own.
        budget: Bytes that the session may store.
    """

    def __init__(self, folder: Path, budget: ByteBudget) -> None:
        self.name = token_hex(16)
        self._folder = folder
        self._budget = budget
        self._sizes: dict[str, int] = {}

    @property
    def size(self) -> int:
        """Bytes that arrived so far."""
        return sum(self._sizes.values())

    def add(self, part: WheelPart) -> None:
        """Write a part. One that is there already changes nothing.

        Raises:
            ConfigurationError: It is not the next part of a wheel.
        """
        check_wheel_name(part.name)
        content = _decode(part)
        size = self._sizes.get(part.name, 0)
        if part.at < size and part.at + len(content) <= size:
            return
        if part.at != size or (part.name not in self._sizes and len(self._sizes) >= MAX_WHEELS):
            raise ConfigurationError(
                f"the part of {part.name!r} at byte {part.at:,} does not follow {size:,} bytes",
                hint="install the packages again",
            )
        self._budget.take(len(content))
        self._sizes[part.name] = size + len(content)
        with (self._folder / part.name).open("ab") as file:
            file.write(content)

    def check(self, wheels: list[WheelFile]) -> None:
        """Compare what arrived with sizes and hashes.

        Raises:
            ConfigurationError: Something is missing, is too much or has changed on the way.
        """
        if {wheel.name: wheel.size for wheel in wheels} != self._sizes:
            raise ConfigurationError(
                "the wheels that arrived are not those of the list",
                hint="install the packages again",
            )
        for wheel in wheels:
            with (self._folder / wheel.name).open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            if digest != wheel.sha256:
                raise ConfigurationError(
                    f"{wheel.name!r} has changed on the way: its sha256 is {digest}",
                    hint="install the packages again",
                )

    def unpack(self, target: Path) -> None:
        """Unpack all wheels into a folder.

        Raises:
            ConfigurationError: One of them is not a wheel, or it is too large.
        """
        for name in self._sizes:
            try:
                with zipfile.ZipFile(self._folder / name) as wheel:
                    self._unpack_wheel(wheel, name, target)
            except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError) as error:
                raise _build_invalid_error(name, str(error)) from error

    def _unpack_wheel(self, wheel: zipfile.ZipFile, name: str, target: Path) -> None:
        for entry, path in _iter_files(wheel, name):
            file = target / path
            file.parent.mkdir(parents=True, exist_ok=True)
            with wheel.open(entry) as source, file.open("wb") as copy:
                while chunk := source.read(_READ_BYTES):
                    self._budget.take(len(chunk))
                    copy.write(chunk)
            file.chmod(0o755 if (entry.external_attr >> 16) & 0o100 else 0o644)


def check_wheel_name(name: str) -> None:
    """Check that a file is named as a wheel, and lies in no other folder.

    Raises:
        ConfigurationError: It is not.
    """
    from packaging.utils import InvalidWheelFilename, parse_wheel_filename  # noqa: PLC0415 - not at the start

    try:
        parse_wheel_filename(name)
    except (InvalidWheelFilename, ValueError):
        is_wheel = False
    else:
        is_wheel = name.isascii() and name.isprintable() and not set(name) & set("/\\: ")
    if not is_wheel:
        raise ConfigurationError(
            f"{name[:100]!a} is not the name of a wheel", hint="send wheels only"
        )


def build_unknown_upload_error() -> SessionLostError:
    """Build the error for a part of an upload that this session does not have."""
    return SessionLostError(
        "the session was replaced while packages were sent, so nothing was installed",
        hint="install the packages again",
    )


def _decode(part: WheelPart) -> bytes:
    try:
        content = base64.b64decode(part.data, validate=True)
    except (binascii.Error, ValueError):
        content = b""
    if not content or len(content) > PART_BYTES:
        raise ConfigurationError(
            f"a part of {part.name!r} is not base64 of 1 to {PART_BYTES:,} bytes",
            hint="install the same version of cci-plugins here and in the pool",
        )
    return content


def _iter_files(wheel: zipfile.ZipFile, name: str) -> Iterator[tuple[zipfile.ZipInfo, Path]]:
    """Yield the files of a wheel that belong into a folder of packages, and where.

    Scripts and data files belong elsewhere, and are left out.
    """
    for entry in wheel.infolist():
        path = PurePosixPath(entry.filename)
        is_link = stat.S_ISLNK(entry.external_attr >> 16)
        if path.is_absolute() or ".." in path.parts or "\\" in entry.filename or is_link:
            raise _build_invalid_error(name, f"it has {entry.filename[:100]!a}")
        if entry.is_dir() or not path.parts:
            continue
        if path.parts[0].endswith(_DATA_SUFFIX):
            if len(path.parts) < 3 or path.parts[1] not in _LIBRARIES:  # noqa: PLR2004
                continue
            path = PurePosixPath(*path.parts[2:])
        yield entry, Path(path)


def _build_invalid_error(name: str, reason: str) -> ConfigurationError:
    return ConfigurationError(
        f"{name!r} cannot be unpacked as a wheel: {reason}", hint="check the source of the wheel"
    )

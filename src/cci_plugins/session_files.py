"""The files of one session, and the inputs that are put back after a loss."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Protocol

import anyio

from . import portal
from .errors import FileTooLargeError, FileTransferError
from .files.names import safe_name
from .limits import MIB, Limits
from .models import FileInfo
from .pools.base import SessionPool

CHUNK = 256 * 1024
KEPT_BYTES = 64 * MIB  # of inputs that were given as bytes, so that they can be put back


class Owner(Protocol):
    """What a session needs of the interpreter that made it."""

    @property
    def limits(self) -> Limits:
        """Bounds of runs and files."""
        ...

    async def pool(self) -> SessionPool:
        """The started pool."""
        ...


class SessionFiles:
    """The files of one session; they lie in its working directory, `/mnt/data`."""

    def __init__(self, owner: Owner, identifier: str, use: Callable[[int], None]) -> None:
        self._owner = owner
        self._id = identifier
        self._use = use
        self._inputs: dict[str, _Input | None] = {}

    async def upload(
        self, source: str | PathLike[str] | bytes, *, name: str | None = None
    ) -> FileInfo:
        """Write a file into the session.

        Args:
            source: A path on this machine, or the bytes themselves.
            name: Its name in the session; a path keeps its own file name.

        Raises:
            UnsafeNameError: The name would leave the session's folder.
            FileTooLargeError: It is larger than `Limits.file_bytes`, or does not fit.
            FileTransferError: The file cannot be read.
        """
        if isinstance(source, bytes):
            if name is None:
                raise FileTransferError("bytes need a name", hint="pass name='data.csv'")
            given = _Input(source)
        else:
            path = Path(source)
            given = _Input(path, await anyio.to_thread.run_sync(_stamp, path))
            name = path.name if name is None else name
        self._check_size(name, given.size)
        return await portal.carry(self._upload, safe_name(name), given)

    async def download(self, name: str, *, to: str | PathLike[str] | None = None) -> bytes:
        """Read a file out of the session.

        Args:
            name: Its name in the session.
            to: Where to write it as well: a file path on this machine; folders are made.

        Raises:
            SessionFileNotFoundError: The session has no such file.
            FileTooLargeError: It is larger than `Limits.file_bytes`.
            FileTransferError: The target cannot be written.
        """
        data = await portal.carry(self._download, safe_name(name))
        if to is not None:
            await anyio.to_thread.run_sync(_write, Path(to), data)
        return data

    async def list(self) -> Sequence[FileInfo]:
        """List the session's files by name."""
        return await portal.carry(self._list)

    async def remove(self, name: str) -> None:
        """Remove a file from the session.

        Raises:
            SessionFileNotFoundError: The session has no such file.
        """
        await portal.carry(self._remove, safe_name(name))

    async def put_back(self) -> tuple[Sequence[str], Sequence[str]]:
        """Upload again what was uploaded to a session that is gone.

        Returns:
            Names of the files that are back, and of those that are no longer at hand.
        """
        names = sorted(self._inputs)
        gone = [name for name in names if not await self._is_back(name)]
        for name in gone:
            del self._inputs[name]
        return [name for name in names if name not in gone], gone

    async def _is_back(self, name: str) -> bool:
        given = self._inputs[name]
        if given is None:
            return False
        try:
            if given.stamp != await anyio.to_thread.run_sync(given.stamp_now):
                return False  # the file changed since: its content would be another one
            await self._write(name, given)
        except FileTransferError:
            return False
        return True

    def forget(self) -> None:
        """Forget what was uploaded."""
        self._inputs.clear()

    async def _upload(self, name: str, given: _Input) -> FileInfo:
        info = await self._write(name, given)
        self._inputs.pop(name, None)
        kept = sum(old.held for old in self._inputs.values() if old is not None)
        self._inputs[name] = given if kept + given.held <= KEPT_BYTES else None
        return info

    async def _write(self, name: str, given: _Input) -> FileInfo:
        async with _Using(self._use):
            return await (await self._owner.pool()).upload(self._id, name, given.pieces())

    async def _download(self, name: str) -> bytes:
        data = bytearray()
        async with _Using(self._use):
            async for piece in (await self._owner.pool()).download(self._id, name):
                data += piece
                self._check_size(name, len(data))
        return bytes(data)

    async def _list(self) -> Sequence[FileInfo]:
        async with _Using(self._use):
            return await (await self._owner.pool()).list_files(self._id)

    async def _remove(self, name: str) -> None:
        async with _Using(self._use):
            await (await self._owner.pool()).delete_file(self._id, name)
        self._inputs.pop(name, None)

    def _check_size(self, name: str, size: int) -> None:
        limit = self._owner.limits.file_bytes
        if size > limit:
            raise FileTooLargeError(
                f"{name} is larger than {limit:,} bytes",
                size=size,
                limit=limit,
                hint="raise Limits.file_bytes",
            )


class _Using:
    """Marks a session as in use during a transfer."""

    def __init__(self, use: Callable[[int], None]) -> None:
        self._use = use

    async def __aenter__(self) -> None:
        self._use(1)

    async def __aexit__(self, *_: object) -> None:
        self._use(-1)


@dataclass(frozen=True, slots=True)
class _Input:
    """What an uploaded file was made of: bytes, or a file on this machine as it was then."""

    source: bytes | Path
    stamp: tuple[int, int] | None = None

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return len(self.source) if isinstance(self.source, bytes) else (self.stamp or (0, 0))[0]

    @property
    def held(self) -> int:
        """Bytes of memory that keeping it takes."""
        return len(self.source) if isinstance(self.source, bytes) else 0

    def stamp_now(self) -> tuple[int, int] | None:
        """The stamp as it is now."""
        return None if isinstance(self.source, bytes) else _stamp(self.source)

    def pieces(self) -> AsyncIterator[bytes]:
        """The content."""
        return _pieces(self.source) if isinstance(self.source, bytes) else _read(self.source)


async def _pieces(data: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(data), CHUNK):
        yield data[start : start + CHUNK]


def _stamp(path: Path) -> tuple[int, int]:
    """Size and time of a file: the same as long as nobody writes to it."""
    try:
        stat = path.stat()
    except OSError as error:
        raise FileTransferError(f"cannot read {path}: {error.strerror}") from error
    return stat.st_size, stat.st_mtime_ns


async def _read(path: Path) -> AsyncIterator[bytes]:
    try:
        async with await anyio.open_file(path, "rb") as file:
            while piece := await file.read(CHUNK):
                yield piece
    except OSError as error:
        raise FileTransferError(f"cannot read {path}: {error.strerror}") from error


def _write(path: Path, data: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    except OSError as error:
        raise FileTransferError(f"cannot write {path}: {error.strerror}") from error

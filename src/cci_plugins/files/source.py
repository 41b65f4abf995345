"""What an uploaded file is made of, kept so that it can be put back after a loss."""

from __future__ import annotations

import inspect
import os
import tempfile
import zipfile
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import anyio
from typing_extensions import override

from cci_plugins.errors import FileTooLargeError, FileTransferError

CHUNK = 256 * 1024
FOLDER_FILES = 10_000  # that go into one zip


@runtime_checkable
class Readable(Protocol):
    """A binary file object."""

    def read(self, size: int = ..., /) -> bytes:
        """Up to so many bytes; none at the end."""
        ...


Given = str | os.PathLike[str] | bytes | Readable | AsyncIterable[bytes]
"""What may be uploaded: a path, the bytes, an open binary file, or pieces as they come."""


class Source(ABC):
    """Content that can be read more than once.

    Attributes:
        size: Bytes.
        held: Bytes of memory that keeping it takes.
    """

    size: int
    held = 0

    @abstractmethod
    def pieces(self) -> AsyncIterator[bytes]:
        """The content from its start."""

    @abstractmethod
    def path(self) -> Any:
        """A context with a file on this machine that has the content."""

    def unchanged(self) -> bool:
        """Whether it still has the content of the first time."""
        return True

    def close(self) -> None:  # noqa: B027 - most hold nothing
        """Let go of it."""


class BytesSource(Source):
    """Bytes in memory."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.size = self.held = len(data)

    @override
    async def pieces(self) -> AsyncIterator[bytes]:
        for start in range(0, len(self._data), CHUNK):
            yield self._data[start : start + CHUNK]

    @override
    @asynccontextmanager
    async def path(self) -> AsyncGenerator[Path]:
        with tempfile.TemporaryDirectory(prefix="cci-") as folder:
            path = Path(folder, "content")
            await anyio.to_thread.run_sync(path.write_bytes, self._data)
            yield path


class PathSource(Source):
    """A file on this machine, as it was when it was given."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp = self._look()
        self.size = self._stamp[0]

    @override
    async def pieces(self) -> AsyncIterator[bytes]:
        try:
            async with await anyio.open_file(self._path, "rb") as file:
                while piece := await file.read(CHUNK):
                    yield piece
        except OSError as error:
            raise _unreadable(self._path, error) from error

    @override
    @asynccontextmanager
    async def path(self) -> AsyncGenerator[Path]:
        yield self._path

    @override
    def unchanged(self) -> bool:
        return self._look() == self._stamp

    def _look(self) -> tuple[int, int]:
        """Size and time: the same as long as nobody writes to it."""
        try:
            stat = self._path.stat()
            if not self._path.is_file():
                raise IsADirectoryError(21, "it is no regular file")
        except (OSError, ValueError) as error:  # ValueError: a NUL in the path
            raise _unreadable(self._path, error) from error
        return stat.st_size, stat.st_mtime_ns


class SpooledSource(PathSource):
    """A copy on this machine's disk of what could be read only once; removed when closed."""

    def __init__(self, folder: tempfile.TemporaryDirectory[str], path: Path) -> None:
        self._folder = folder
        super().__init__(path)

    @override
    def close(self) -> None:
        self._folder.cleanup()


def default_name(given: Given) -> str | None:
    """The file name that comes with it; a folder's has `.zip` behind it."""
    if isinstance(given, (str, os.PathLike)):
        path = _path(given)
        return f"{path.resolve().name}.zip" if path.is_dir() else path.name
    name = getattr(given, "name", None)
    return Path(name).name if isinstance(name, str) else None


async def make_source(given: Given, *, limit: int) -> Source:
    """Take what is to be uploaded; on the loop that it belongs to.

    Args:
        given: What was passed.
        limit: Most bytes.

    Raises:
        FileTooLargeError: It has more.
        FileTransferError: It cannot be read.
    """
    if isinstance(given, bytes):
        source: Source = BytesSource(given)
    elif isinstance(given, (str, os.PathLike)):
        source = await anyio.to_thread.run_sync(_from_path, _path(given), limit)
    elif isinstance(given, (Readable, AsyncIterable)):
        source = await _spool(given, limit)
    else:
        raise FileTransferError(f"a {type(given).__name__} cannot be uploaded")
    return source


def _path(given: str | os.PathLike[str]) -> Path:
    if os.fspath(given) in {"", b""}:  # Path takes it for the working directory
        raise FileTransferError("an empty path cannot be uploaded")
    return Path(given)


def _from_path(path: Path, limit: int) -> Source:
    if not os.path.isdir(path):  # noqa: PTH112 - it is not stopped by a name that is too long
        return PathSource(path)
    folder = tempfile.TemporaryDirectory(prefix="cci-")
    try:
        packed = Path(folder.name, "content")
        _zip_folder(path, packed, limit)
        return SpooledSource(folder, packed)
    except BaseException:
        folder.cleanup()
        raise


def _zip_folder(folder: Path, target: Path, limit: int) -> None:
    """Put a folder of this machine into a zip; links are left out."""
    try:
        files = [
            Path(place, name)
            for place, _, names in os.walk(folder, onerror=_raise)
            for name in sorted(names)
            if not Path(place, name).is_symlink() and Path(place, name).is_file()
        ]
        bound_folder(len(files), sum(path.stat().st_size for path in files), limit)
        with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, strict_timestamps=False) as packed:
            for path in files:
                packed.write(path, path.relative_to(folder))
    except FileTransferError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a name that is no text
        raise _unreadable(folder, error) from error


def bound_folder(files: int, size: int, limit: int) -> None:
    """Refuse a folder with too many files or bytes.

    Raises:
        FileTooLargeError: It has.
    """
    if files > FOLDER_FILES:
        raise FileTooLargeError(
            f"the folder has {files:,} files, more than {FOLDER_FILES:,}",
            size=size,
            limit=limit,
            hint="pack it yourself",
        )
    if size > limit:
        raise FileTooLargeError(
            f"the folder has {size:,} bytes, more than {limit:,}", size=size, limit=limit
        )


async def _spool(given: Readable | AsyncIterable[bytes], limit: int) -> Source:
    folder = tempfile.TemporaryDirectory(prefix="cci-")
    path = Path(folder.name, "content")
    try:
        async with await anyio.open_file(path, "xb") as file:
            if isinstance(given, AsyncIterable):
                pieces: AsyncIterable[bytes] = given
            else:
                pieces = _read(given)
            size = 0
            async for piece in pieces:
                size = _counted(size, piece, limit)
                await file.write(piece)
        return SpooledSource(folder, path)
    except BaseException:
        folder.cleanup()
        raise


async def _read(given: Readable) -> AsyncIterator[bytes]:
    """The content of a file object, whose `read` may be awaited, as that of web frameworks."""
    read: Any = given.read
    awaited = inspect.iscoroutinefunction(read)
    try:
        while True:
            piece = await (read(CHUNK) if awaited else anyio.to_thread.run_sync(read, CHUNK))
            if not piece:
                return
            yield piece
    except (OSError, ValueError) as error:  # ValueError: it is closed
        raise FileTransferError(f"the file object cannot be read: {error}") from error


def _counted(size: int, piece: object, limit: int) -> int:
    if not isinstance(piece, bytes):
        raise FileTransferError(
            f"files are made of bytes, not of {type(piece).__name__}",
            hint="open the file in binary mode",
        )
    if size + len(piece) > limit:
        raise FileTooLargeError(
            f"it is larger than {limit:,} bytes", size=size + len(piece), limit=limit
        )
    return size + len(piece)


def _raise(error: OSError) -> None:
    raise error


def _unreadable(path: Path, error: OSError | ValueError) -> FileTransferError:
    why = getattr(error, "strerror", None) or type(error).__name__
    return FileTransferError(f"cannot read {str(path)!a}: {why}")

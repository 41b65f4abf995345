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
MAX_FOLDER_FILES = 10_000  # that go into one zip


@runtime_checkable
class Readable(Protocol):
    """A binary file object."""

    def read(self, size: int = ..., /) -> bytes:
        """Up to so many bytes; none at the end."""
        ...


Uploadable = str | os.PathLike[str] | bytes | Readable | AsyncIterable[bytes]
"""What may be uploaded: a path, the bytes, an open binary file, or pieces as they come."""


class UploadSource(ABC):
    """Content that can be read more than once.

    Attributes:
        size: Bytes.
        held: Bytes of memory that keeping it takes.
    """

    size: int
    memory_bytes = 0

    @abstractmethod
    def chunks(self) -> AsyncIterator[bytes]:
        """The content from its start."""

    @abstractmethod
    def path(self) -> Any:
        """A context with a file on this machine that has the content."""

    def is_unchanged(self) -> bool:
        """Whether it still has the content of the first time."""
        return True

    def close(self) -> None:  # noqa: B027 - most hold nothing
        """Let go of it."""


class BytesSource(UploadSource):
    """Bytes in memory."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.size = self.memory_bytes = len(data)

    @override
    async def chunks(self) -> AsyncIterator[bytes]:
        for start in range(0, len(self._data), CHUNK):
            yield self._data[start : start + CHUNK]

    @override
    @asynccontextmanager
    async def path(self) -> AsyncGenerator[Path]:
        with tempfile.TemporaryDirectory(prefix="cci-") as folder:
            path = Path(folder, "content")
            await anyio.to_thread.run_sync(path.write_bytes, self._data)
            yield path


class PathSource(UploadSource):
    """A file on this machine, as it was when it was given."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp = self._read_stat()
        self.size = self._stamp[0]

    @override
    async def chunks(self) -> AsyncIterator[bytes]:
        try:
            async with await anyio.open_file(self._path, "rb") as file:
                while chunk := await file.read(CHUNK):
                    yield chunk
        except OSError as error:
            raise _build_read_error(self._path, error) from error

    @override
    @asynccontextmanager
    async def path(self) -> AsyncGenerator[Path]:
        yield self._path

    @override
    def is_unchanged(self) -> bool:
        return self._read_stat() == self._stamp

    def _read_stat(self) -> tuple[int, int]:
        """Size and time: the same as long as nobody writes to it."""
        try:
            stat = self._path.stat()
            if not self._path.is_file():
                raise IsADirectoryError(21, "it is no regular file")
        except (OSError, ValueError) as error:  # ValueError: a NUL in the path
            raise _build_read_error(self._path, error) from error
        return stat.st_size, stat.st_mtime_ns


class SpooledSource(PathSource):
    """A copy on this machine's disk of what could be read only once; removed when closed."""

    def __init__(self, folder: tempfile.TemporaryDirectory[str], path: Path) -> None:
        self._folder = folder
        super().__init__(path)

    @override
    def close(self) -> None:
        self._folder.cleanup()


def get_default_name(content: Uploadable) -> str | None:
    """The file name that comes with it; a folder's has `.zip` behind it."""
    if isinstance(content, (str, os.PathLike)):
        path = _check_path(content)
        return f"{path.resolve().name}.zip" if path.is_dir() else path.name
    name = getattr(content, "name", None)
    return Path(name).name if isinstance(name, str) else None


async def make_source(content: Uploadable, *, limit: int) -> UploadSource:
    """Take what is to be uploaded; on the loop that it belongs to.

    Args:
        given: What was passed.
        limit: Most bytes.

    Raises:
        FileTooLargeError: It has more.
        FileTransferError: It cannot be read.
    """
    if isinstance(content, bytes):
        source: UploadSource = BytesSource(content)
    elif isinstance(content, (str, os.PathLike)):
        source = await anyio.to_thread.run_sync(_open_path, _check_path(content), limit)
    elif isinstance(content, (Readable, AsyncIterable)):
        source = await _spool(content, limit)
    else:
        raise FileTransferError(f"a {type(content).__name__} cannot be uploaded")
    return source


def _check_path(content: str | os.PathLike[str]) -> Path:
    if os.fspath(content) in {"", b""}:  # Path takes it for the working directory
        raise FileTransferError("an empty path cannot be uploaded")
    return Path(content)


def _open_path(path: Path, limit: int) -> UploadSource:
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
        check_folder_size(len(files), sum(path.stat().st_size for path in files), limit)
        with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, strict_timestamps=False) as packed:
            for path in files:
                packed.write(path, path.relative_to(folder))
    except FileTransferError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a name that is no text
        raise _build_read_error(folder, error) from error


def check_folder_size(files: int, size: int, limit: int) -> None:
    """Refuse a folder with too many files or bytes.

    Raises:
        FileTooLargeError: It has.
    """
    if files > MAX_FOLDER_FILES:
        raise FileTooLargeError(
            f"the folder has {files:,} files, more than {MAX_FOLDER_FILES:,}",
            size=size,
            limit=limit,
            hint="pack it yourself",
        )
    if size > limit:
        raise FileTooLargeError(
            f"the folder has {size:,} bytes, more than {limit:,}", size=size, limit=limit
        )


async def _spool(content: Readable | AsyncIterable[bytes], limit: int) -> UploadSource:
    folder = tempfile.TemporaryDirectory(prefix="cci-")
    path = Path(folder.name, "content")
    try:
        async with await anyio.open_file(path, "xb") as file:
            if isinstance(content, AsyncIterable):
                chunks: AsyncIterable[bytes] = content
            else:
                chunks = _read(content)
            size = 0
            async for chunk in chunks:
                size = _check_chunk(size, chunk, limit)
                await file.write(chunk)
        return SpooledSource(folder, path)
    except BaseException:
        folder.cleanup()
        raise


async def _read(content: Readable) -> AsyncIterator[bytes]:
    """The content of a file object, whose `read` may be awaited, as that of web frameworks."""
    read: Any = content.read
    is_async = inspect.iscoroutinefunction(read)
    try:
        while True:
            chunk = await (read(CHUNK) if is_async else anyio.to_thread.run_sync(read, CHUNK))
            if not chunk:
                return
            yield chunk
    except (OSError, ValueError) as error:  # ValueError: it is closed
        raise FileTransferError(f"the file object cannot be read: {error}") from error


def _check_chunk(size: int, chunk: object, limit: int) -> int:
    if not isinstance(chunk, bytes):
        raise FileTransferError(
            f"files are made of bytes, not of {type(chunk).__name__}",
            hint="open the file in binary mode",
        )
    if size + len(chunk) > limit:
        raise FileTooLargeError(
            f"it is larger than {limit:,} bytes", size=size + len(chunk), limit=limit
        )
    return size + len(chunk)


def _raise(error: OSError) -> None:
    raise error


def _build_read_error(path: Path, error: OSError | ValueError) -> FileTransferError:
    why = getattr(error, "strerror", None) or type(error).__name__
    return FileTransferError(f"cannot read {str(path)!a}: {why}")

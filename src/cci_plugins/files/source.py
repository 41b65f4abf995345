"""Sources of uploads, which can be read again to restore a file after a session was lost."""

from __future__ import annotations

import inspect
import os
import shutil
import tempfile
import weakref
import zipfile
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Protocol, cast, runtime_checkable

import anyio
from typing_extensions import override

from cci_plugins.common.async_files import open_file
from cci_plugins.common.log import logger
from cci_plugins.common.temporary import make_temporary_folder
from cci_plugins.common.threads import run_in_thread
from cci_plugins.errors import FileTooLargeError, FileTransferError

CHUNK = 256 * 1024
MAX_FOLDER_FILES = 10_000  # in one zip


@runtime_checkable
class Readable(Protocol):
    """A binary file object."""

    def read(self, size: int = ..., /) -> bytes:
        """Return up to `size` bytes, or none at the end."""
        ...


Buffer = bytes | bytearray | memoryview
Uploadable = str | os.PathLike[str] | Buffer | Readable | AsyncIterable[Buffer] | Iterable[Buffer]
"""Content that may be uploaded: a path, bytes, an open binary file, or an iterable of chunks."""


class UploadSource(ABC):
    """Content that can be read more than once.

    Attributes:
        size: Size in bytes.
        memory_bytes: Bytes of memory that keeping it takes.
    """

    size: int
    memory_bytes = 0

    @abstractmethod
    def chunks(self) -> AsyncIterator[bytes]:
        """Yield the content from its start."""

    @abstractmethod
    def path(self) -> Any:
        """Return a context with a file on this machine that has the content."""

    def is_unchanged(self) -> bool:
        """Return whether the content is still the same as at first."""
        return True

    def close(self) -> None:  # noqa: B027 - most have none
        """Release its resources."""


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
        with make_temporary_folder() as folder:
            path = Path(folder, "content")
            await anyio.to_thread.run_sync(path.write_bytes, self._data)
            yield path


class PathSource(UploadSource):
    """A file on this machine, as it was at the start of the upload."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp = self._read_stat()
        self.size = self._stamp[0]

    @override
    async def chunks(self) -> AsyncIterator[bytes]:
        try:
            async with open_file(self._path, "rb") as file:
                while chunk := await file.read(CHUNK):
                    yield chunk
            if not await anyio.to_thread.run_sync(self.is_unchanged):
                raise FileTransferError(
                    f"{str(self._path)!a} changed while it was uploaded", hint="upload it again"
                )
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
        """Return the size and time of change, which stay the same until the file is written to."""
        try:
            stat = self._path.stat()
            if not self._path.is_file():
                raise IsADirectoryError(21, "it is not a regular file")
        except (OSError, ValueError) as error:  # ValueError: a NUL in the path
            raise _build_read_error(self._path, error) from error
        return stat.st_size, stat.st_mtime_ns


class _CopyFolder:
    """A temporary folder that its own process deletes at last, and a forked child of it never."""

    def __init__(self) -> None:
        self.name = tempfile.mkdtemp(prefix="cci-")
        self.cleanup = weakref.finalize(self, _remove_folder, self.name, os.getpid())


def _remove_folder(name: str, pid: int) -> None:
    if pid == os.getpid():
        shutil.rmtree(name, ignore_errors=True)


class SpooledSource(PathSource):
    """A temporary copy of content that could be read only once. Closing it deletes the copy."""

    def __init__(self, folder: _CopyFolder, path: Path) -> None:
        self._folder = folder
        super().__init__(path)

    @override
    def close(self) -> None:
        self._folder.cleanup()


def get_default_name(content: Uploadable) -> str | None:
    """Return the file name that the content has, or None. A folder's ends in `.zip`.

    Args:
        content: The content to upload.

    Raises:
        FileTransferError: The path is empty.
    """
    if isinstance(content, (str, os.PathLike)):
        path = _check_path(content)
        return f"{path.resolve().name}.zip" if path.is_dir() else path.name
    name = getattr(content, "name", None)
    return Path(name).name if isinstance(name, str) else None


async def make_source(content: Uploadable, *, limit: int) -> UploadSource:
    """Prepare content for an upload. Call this on the event loop that the content belongs to.

    Args:
        content: The content to upload.
        limit: Largest size in bytes.

    Raises:
        FileTooLargeError: The content is larger.
        FileTransferError: The content cannot be read.
    """
    if isinstance(content, Buffer):
        source: UploadSource = BytesSource(bytes(content))
    elif isinstance(content, (str, os.PathLike)):
        source = await run_in_thread(_open_path, _check_path(content), limit)
    elif isinstance(content, (Readable, AsyncIterable, Iterable)):
        chunks = cast("Readable | AsyncIterable[Buffer] | Iterable[Buffer]", content)
        source = await _spool(chunks, limit)
    else:
        raise FileTransferError(
            f"cannot upload a {type(content).__name__}",
            hint="pass a path, bytes, an open binary file or an iterator of bytes",
        )
    return source


def _check_path(content: str | os.PathLike[str]) -> Path:
    if os.fspath(content) in {"", b""}:  # for Path it is the working directory
        raise FileTransferError("cannot upload an empty path")
    return Path(content)


def _open_path(path: Path, limit: int) -> UploadSource:
    if not os.path.isdir(path):  # noqa: PTH112 - unlike Path, it accepts a name that is too long
        return PathSource(path)
    folder = _CopyFolder()
    try:
        packed = Path(folder.name, "content")
        _zip_folder(path, packed, limit)
        return SpooledSource(folder, packed)
    except BaseException:
        folder.cleanup()
        raise


def _zip_folder(folder: Path, target: Path, limit: int) -> None:
    """Write a folder of this machine into a zip, without its links."""
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
                name = path.relative_to(folder).as_posix()
                if _is_utf8(name):
                    packed.write(path, name)
                else:
                    logger.warning("the zip leaves out %r: its name is not UTF-8", name)
    except FileTransferError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a name that is not text
        raise _build_read_error(folder, error) from error


def _is_utf8(name: str) -> bool:
    try:
        return bool(name.encode())
    except UnicodeEncodeError:
        return False


def check_folder_size(files: int, size: int, limit: int) -> None:
    """Refuse a folder with too many files or bytes.

    Args:
        files: Number of files.
        size: Size of all files in bytes.
        limit: Largest size in bytes.

    Raises:
        FileTooLargeError: The folder has more than `MAX_FOLDER_FILES` files or `limit` bytes.
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


async def _spool(
    content: Readable | AsyncIterable[Buffer] | Iterable[Buffer], limit: int
) -> UploadSource:
    folder = _CopyFolder()
    path = Path(folder.name, "content")
    try:
        async with open_file(path, "xb") as file:
            if isinstance(content, AsyncIterable):
                chunks: AsyncIterable[Buffer] = content
            else:
                chunks = _read(content) if isinstance(content, Readable) else _iterate(content)
            size = 0
            async for chunk in chunks:
                size = _check_chunk(size, chunk, limit)
                await file.write(chunk)
        return SpooledSource(folder, path)
    except BaseException:
        folder.cleanup()
        raise


async def _iterate(content: Iterable[Buffer]) -> AsyncIterator[Buffer]:
    """Yield the chunks of a generator, which may block, from a worker thread."""
    chunks, end = iter(content), object()
    while (chunk := await anyio.to_thread.run_sync(next, chunks, end)) is not end:
        yield cast("Buffer", chunk)


async def _read(content: Readable) -> AsyncIterator[bytes]:
    """Yield the content of a file object. Its `read` may be async, as in web frameworks."""
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
    if not isinstance(chunk, Buffer):
        raise FileTransferError(
            f"the file returned {type(chunk).__name__} instead of bytes",
            hint="open the file in binary mode",
        )
    size += chunk.nbytes if isinstance(chunk, memoryview) else len(chunk)
    if size > limit:
        raise FileTooLargeError(f"the file is larger than {limit:,} bytes", size=size, limit=limit)
    return size


def _raise(error: OSError) -> None:
    raise error


def _build_read_error(path: Path, error: OSError | ValueError) -> FileTransferError:
    reason = getattr(error, "strerror", None) or type(error).__name__
    return FileTransferError(f"cannot read {str(path)!a}: {reason}")

"""A session's folder on Windows, where directories have no descriptors."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from cci_plugins.common.file_names import validate_name
from cci_plugins.errors import FileTransferError

from .session_folder import CHUNK_BYTES, SessionFolder
from .writer import TEMPORARY_PREFIX, FolderWriter, Stat, build_not_found_error


class PathWriter(FolderWriter):
    """A writer that addresses its file by path."""

    def __init__(self, target: Path) -> None:
        """Open a temporary file next to the target."""
        self.size = 0
        self._target = target
        self._temporary_path = target.with_name(TEMPORARY_PREFIX + secrets.token_hex(8))
        self._stream = self._temporary_path.open("xb")

    def write(self, data: bytes) -> None:
        """Append bytes."""
        self.size += len(data)
        try:
            self._stream.write(data)
        except OSError as error:
            raise _build_write_error(self._target.name, error) from error

    def commit(self) -> Stat:
        """Move the file to its name."""
        self._stream.close()
        try:
            self._temporary_path.replace(self._target)
            return Stat.from_stat(self._target.stat())
        except OSError as error:
            self.abort()
            raise _build_write_error(self._target.name, error) from error

    def abort(self) -> None:
        """Discard the file."""
        self._stream.close()
        with contextlib.suppress(OSError):
            self._temporary_path.unlink(missing_ok=True)


class PathFolder(SessionFolder):
    """Regular files below a path.

    A path is checked before use, and code of the session could replace it with a link in between.
    So only the isolation `process` uses this class.
    """

    def __init__(self, root: Path) -> None:
        self._path = root.resolve()

    def open_read(self, name: str) -> int:
        """Open a regular file. The caller closes the descriptor."""
        path = self._resolve(name)
        if not path.is_file():
            raise build_not_found_error(name)
        return os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))

    def create(self, name: str) -> FolderWriter:
        """Start writing a file. Create the folders above it."""
        path = self._resolve(name)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            return PathWriter(path)
        except OSError as error:
            raise _build_write_error(name, error) from error

    def copy_to(self, target: SessionFolder, limit: int) -> None:
        """Copy at most `limit` regular files to another folder."""
        for name in self.scan(limit):
            with target.create(name) as writer, (self._path / name).open("rb") as stream:
                while data := stream.read(CHUNK_BYTES):
                    writer.write(data)

    def remove(self, name: str) -> None:
        """Delete a file."""
        try:
            self._resolve(name).unlink()
        except OSError as error:
            raise build_not_found_error(name) from error

    def scan(self, limit: int = 1000) -> dict[str, Stat]:
        """Return at most `limit` regular files by name."""
        files: dict[str, Stat] = {}
        for path in self._iter_files():
            if len(files) >= limit:
                break
            if not path.name.startswith(TEMPORARY_PREFIX):
                with contextlib.suppress(OSError):
                    files[path.relative_to(self._path).as_posix()] = Stat.from_stat(path.stat())
        return dict(sorted(files.items()))

    def measure_usage(self, limit: int = 100_000) -> tuple[int, int]:
        """Return the bytes and number of files. More than `limit` files count as `limit + 1`."""
        size = count = 0
        for path in self._iter_files():
            count += 1
            if count > limit:
                break
            with contextlib.suppress(OSError):
                size += path.stat().st_size
        return size, count

    def close(self) -> None:
        """Do nothing, because no descriptor is open."""

    def _iter_files(self) -> Iterator[Path]:
        for folder, _, names in os.walk(self._path):
            for name in names:
                path = Path(folder, name)
                if path.is_file() and not path.is_symlink():
                    yield path

    def _resolve(self, name: str) -> Path:
        path = (self._path / validate_name(name)).resolve()
        if not path.is_relative_to(self._path):
            raise build_not_found_error(name)
        return path


def _build_write_error(name: str, error: OSError) -> FileTransferError:
    return FileTransferError(f"cannot write {name!r}: {error.strerror or error}")

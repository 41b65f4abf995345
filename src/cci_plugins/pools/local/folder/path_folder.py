"""A session's folder where directories have no descriptors (Windows): paths, checked each time."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Self

from cci_plugins.common.file_names import validate_name
from cci_plugins.errors import FileTransferError, SessionFileNotFoundError

from .session_folder import CHUNK_BYTES, TEMPORARY_PREFIX, FolderWriter, SessionFolder, Stat


class PathWriter(FolderWriter):
    """A file on its way into a folder, by path."""

    def __init__(self, target: Path) -> None:
        """Open a temporary file beside the target."""
        self.size = 0
        self._target = target
        self._temporary_path = target.with_name(TEMPORARY_PREFIX + secrets.token_hex(8))
        self._stream = self._temporary_path.open("xb")

    def write(self, data: bytes) -> None:
        """Add bytes."""
        self.size += len(data)
        try:
            self._stream.write(data)
        except OSError as error:
            raise FileTransferError(f"cannot write {self._target.name!r}") from error

    def commit(self) -> Stat:
        """Put the file in its place."""
        self._stream.close()
        try:
            self._temporary_path.replace(self._target)
            return Stat.from_stat(self._target.stat())
        except OSError as error:
            self.abort()
            raise FileTransferError(f"cannot write {self._target.name!r}") from error

    def abort(self) -> None:
        """Forget what was written."""
        self._stream.close()
        with contextlib.suppress(OSError):
            self._temporary_path.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self


class PathFolder(SessionFolder):
    """Regular files below a path. For the unfenced tier only: links are checked, not locked out."""

    def __init__(self, root: Path) -> None:
        self._path = root.resolve()

    def open_read(self, name: str) -> int:
        """Open a regular file; the caller closes the descriptor."""
        path = self._resolve(name)
        if not path.is_file():
            raise SessionFileNotFoundError(f"the session has no file {name!r}")
        return os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))

    def read(self, name: str, *, chunk_bytes: int = CHUNK_BYTES) -> Iterator[bytes]:
        """Read a regular file in pieces."""
        return super().read(name, chunk_bytes=chunk_bytes)

    def create(self, name: str) -> FolderWriter:
        """Start writing a file, making the folders above it."""
        path = self._resolve(name)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            return PathWriter(path)
        except OSError as error:
            raise FileTransferError(f"cannot write {name!r}") from error

    def remove(self, name: str) -> None:
        """Remove a file."""
        try:
            self._resolve(name).unlink()
        except OSError as error:
            raise SessionFileNotFoundError(f"the session has no file {name!r}") from error

    def scan(self, limit: int = 1000) -> dict[str, Stat]:
        """Regular files by name, at most `limit` of them."""
        found: dict[str, Stat] = {}
        for path in self._iter_files():
            if len(found) >= limit:
                break
            if not path.name.startswith(TEMPORARY_PREFIX):
                with contextlib.suppress(OSError):
                    found[path.relative_to(self._path).as_posix()] = Stat.from_stat(path.stat())
        return dict(sorted(found.items()))

    def measure_usage(self, limit: int = 100_000) -> tuple[int, int]:
        """Bytes and number of files; one more than `limit` when there are too many."""
        size = count = 0
        for path in self._iter_files():
            count += 1
            if count > limit:
                break
            with contextlib.suppress(OSError):
                size += path.stat().st_size
        return size, count

    def close(self) -> None:
        """Nothing is held open."""

    def _iter_files(self) -> Iterator[Path]:
        for folder, _, names in os.walk(self._path):
            for name in names:
                path = Path(folder, name)
                if path.is_file() and not path.is_symlink():
                    yield path

    def _resolve(self, name: str) -> Path:
        path = (self._path / validate_name(name)).resolve()
        if not path.is_relative_to(self._path):
            raise SessionFileNotFoundError(f"the session has no file {name!r}")
        return path

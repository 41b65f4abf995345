"""A session's files, reached by the host through descriptors that cannot leave the folder."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import stat
import threading
from collections.abc import Iterator

from cci_plugins.common.file_names import validate_name
from cci_plugins.errors import FileTransferError

from .writer import (
    NO_FOLLOW,
    TEMPORARY_PREFIX,
    FolderWriter,
    Stat,
    build_not_found_error,
    translate_errors,
)

__all__ = ["CHUNK_BYTES", "MAX_DEPTH", "TEMPORARY_PREFIX", "FolderWriter", "SessionFolder", "Stat"]

CHUNK_BYTES = 1024**2
MAX_DEPTH = 32
_DIRECTORY_FLAGS = os.O_RDONLY | NO_FOLLOW | getattr(os, "O_DIRECTORY", 0)
_NON_BLOCK = getattr(os, "O_NONBLOCK", 0)


class SessionFolder:
    """Regular files below one directory that untrusted code writes to at the same time.

    Every step opens one component without following links; only regular files are opened, and
    never in a way that waits. All methods are synchronous.
    """

    def __init__(
        self,
        root: int,
        *,
        owner: tuple[int, int] | None = None,
        capacity: int | None = None,
        scratch: tuple[int, ...] = (),
        has_own_filesystems: bool = False,
    ) -> None:
        """Take over a directory.

        Args:
            root: Its descriptor; `close` closes it.
            owner: User and group id for what is created here, when not our own.
            capacity: Bytes one file may have; None where the file system sets the bound.
            scratch: Descriptors of the session's other folders, counted by `usage`, closed too.
            whole_mounts: Each of them is a file system of its own, so `usage` need not walk.
        """
        self._root, self._owner, self._capacity = root, owner, capacity
        self._descriptors = (root, *scratch)
        self._has_own_filesystems = has_own_filesystems
        self._closed = False
        self._lock = threading.Lock()

    def open_read(self, name: str) -> int:
        """Open a regular file; the caller closes the descriptor.

        Raises:
            UnsafeNameError: The name would leave the folder.
            SessionFileNotFoundError: There is no such regular file.
        """
        folder, part = self._open_parent(name)
        try:
            with translate_errors(name, folder):
                file = os.open(part, os.O_RDONLY | NO_FOLLOW | _NON_BLOCK, dir_fd=folder)
        finally:
            os.close(folder)
        if not stat.S_ISREG(os.fstat(file).st_mode):
            os.close(file)
            raise build_not_found_error(name)
        return file

    def read(self, name: str, *, chunk_bytes: int = CHUNK_BYTES) -> Iterator[bytes]:
        """Read a regular file in pieces; it is opened before the first piece is asked for.

        Raises:
            UnsafeNameError: The name would leave the folder.
            SessionFileNotFoundError: There is no such regular file.
        """
        return _iter_chunks(os.fdopen(self.open_read(name), "rb", buffering=0), chunk_bytes)

    def stat(self, name: str) -> Stat:
        """Size and times of a regular file.

        Raises:
            SessionFileNotFoundError: There is no such regular file.
        """
        file = self.open_read(name)
        try:
            return Stat.from_stat(os.fstat(file))
        finally:
            os.close(file)

    def create(self, name: str) -> FolderWriter:
        """Start writing a file, making the folders above it.

        Raises:
            UnsafeNameError: The name would leave the folder.
            FileTransferError: The file cannot be made there.
        """
        folder, part = self._open_parent(name, create=True)
        return FolderWriter(folder, part, name, capacity=self._capacity, owner=self._owner)

    def write(self, name: str, data: bytes) -> Stat:
        """Write a whole file at once, replacing one of that name."""
        writer = self.create(name)
        try:
            writer.write(data)
            return writer.commit()
        finally:
            writer.abort()

    def remove(self, name: str) -> None:
        """Remove a file (or a link, never what it points to).

        Raises:
            UnsafeNameError: The name would leave the folder.
            SessionFileNotFoundError: There is no such file.
        """
        folder, part = self._open_parent(name)
        try:
            with translate_errors(name, folder):
                os.unlink(part, dir_fd=folder)
        finally:
            os.close(folder)

    def scan(self, limit: int = 1000) -> dict[str, Stat]:
        """Regular files by name, at most `limit` of them, to a depth of `MAX_DEPTH` folders."""
        found: dict[str, Stat] = {}
        for name, status in self._walk(self._root):
            if status is not None and stat.S_ISREG(status.st_mode):
                if len(found) >= limit:
                    break
                found[name] = Stat.from_stat(status)
        return dict(sorted(found.items()))

    def measure_usage(self, limit: int = 100_000) -> tuple[int, int]:
        """Bytes to hold against the limit of the disk, and the number of files everywhere.

        Where each place is a file system of its own, scratch space has its own bound, and only
        the folder's bytes are told; otherwise scratch space counts as well. What cannot be
        counted (too many, too deep, unreadable) makes the number `limit + 1`.
        """
        if self._has_own_filesystems:
            states = self._stat_filesystems()
            return _compute_used_bytes(states[0]), sum(
                state.f_files - state.f_ffree for state in states
            )
        size = count = 0
        for descriptor in self._descriptors:
            for _, status in self._walk(descriptor):
                count += 1
                if status is None or count > limit:
                    return size, limit + 1
                size += status.st_blocks * 512
        return size, count

    def measure_bytes(self) -> int:
        """Bytes of every file of the session, where each place is a file system of its own."""
        return sum(map(_compute_used_bytes, self._stat_filesystems()))

    def _stat_filesystems(self) -> list[os.statvfs_result]:
        with self._lock:
            if self._closed:
                raise _build_ended_error()
            return [os.fstatvfs(descriptor) for descriptor in self._descriptors]

    def close(self) -> None:
        """Close every descriptor; calling it twice is no error."""
        with self._lock:
            descriptors = () if self._closed else self._descriptors
            self._closed = True
            for descriptor in descriptors:
                os.close(descriptor)

    def _duplicate(self, descriptor: int) -> int:
        """A copy of a descriptor, which stays right when `close` is called in between."""
        with self._lock:
            if self._closed:
                raise _build_ended_error()
            return os.dup(descriptor)

    def _open_parent(self, name: str, *, create: bool = False) -> tuple[int, str]:
        """The folder of a name, as a new descriptor, and the name's last part."""
        *above, part = validate_name(name).split("/")
        with translate_errors(name):
            folder = self._duplicate(self._root)
            for step in above:
                try:
                    deeper = self._open_subfolder(folder, step, create=create)
                finally:
                    os.close(folder)
                folder = deeper
        return folder, part

    def _open_subfolder(self, folder: int, step: str, *, create: bool) -> int:
        if create:
            try:
                os.mkdir(step, 0o755, dir_fd=folder)
            except FileExistsError:
                create = False
        entered = os.open(step, _DIRECTORY_FLAGS, dir_fd=folder)
        if create and self._owner is not None:
            os.fchown(entered, *self._owner)
        return entered

    def _walk(self, root: int) -> Iterator[tuple[str, os.stat_result | None]]:
        """Every entry below a folder; the status is None for a folder that cannot be entered."""
        root = self._duplicate(root)
        try:
            waiting: list[tuple[str, ...]] = [()]
            while waiting:
                parts = waiting.pop()
                for name, status in _iter_entries(root, parts):
                    yield "/".join((*parts, name)), status
                    if status is not None and stat.S_ISDIR(status.st_mode):
                        waiting.append((*parts, name))
        finally:
            os.close(root)


def _iter_entries(root: int, parts: tuple[str, ...]) -> Iterator[tuple[str, os.stat_result | None]]:
    """What one folder holds, our own temporary files aside."""
    try:
        folder = _descend(root, parts)
    except OSError:
        yield "", None
        return
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if not entry.name.startswith(TEMPORARY_PREFIX):
                    with contextlib.suppress(OSError):
                        status = os.stat(entry.name, dir_fd=folder, follow_symlinks=False)
                        yield entry.name, status
    finally:
        os.close(folder)


def _descend(root: int, parts: tuple[str, ...]) -> int:
    if len(parts) > MAX_DEPTH:
        raise OSError(errno.ENAMETOOLONG, "too deep")
    folder = os.dup(root)
    if not parts:
        os.close(folder)
        return os.open(".", _DIRECTORY_FLAGS, dir_fd=root)
    for part in parts:
        try:
            deeper = os.open(part, _DIRECTORY_FLAGS, dir_fd=folder)
        finally:
            os.close(folder)
        folder = deeper
    return folder


def _iter_chunks(stream: io.FileIO, chunk_bytes: int) -> Iterator[bytes]:
    with stream:
        while data := stream.read(chunk_bytes):
            yield data


def _compute_used_bytes(state: os.statvfs_result) -> int:
    return (state.f_blocks - state.f_bfree) * state.f_frsize


def _build_ended_error() -> FileTransferError:
    return FileTransferError("the session has ended and its files are gone")

"""A session's folder, opened by the host through descriptors that cannot leave it.

The session's code changes the folder while the host reads and writes it. So these rules hold:
- A path is opened one component at a time, relative to a descriptor and with `O_NOFOLLOW`. A link
  in any component is an error, however late it was put there.
- Only regular files are opened, and with `O_NONBLOCK`. A FIFO would block the host otherwise.
- A written file appears under its name whole or not at all. See `FolderWriter`.
- Every walk is bounded in number, because a session can create endless folders. One that lists
  files is also bounded in depth. One that measures is not, and it sees what the list leaves out:
  see `usage.py`.
- `close` may be called while another thread works here. `_duplicate` copies a descriptor under the
  lock, so that no method uses a number that the system has given to another file meanwhile.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import stat
import threading
from collections.abc import Callable, Iterator, Sequence

from cci_plugins.common.file_names import validate_name
from cci_plugins.common.shortages import is_shortage
from cci_plugins.errors import FileTransferError, SessionFileNotFoundError

from .usage import measure_folders
from .writer import (
    NO_FOLLOW,
    TEMPORARY_PREFIX,
    FolderWriter,
    Stat,
    build_not_found_error,
    translate_errors,
)

CHUNK_BYTES = 1024**2
MAX_DEPTH = 32
_DIRECTORY_FLAGS = os.O_RDONLY | NO_FOLLOW | getattr(os, "O_DIRECTORY", 0)
_NON_BLOCK = getattr(os, "O_NONBLOCK", 0)


class SessionFolder:
    """Regular files below one directory that untrusted code changes at the same time.

    All methods are synchronous. Call them in a worker thread.
    """

    def __init__(
        self,
        root: int,
        *,
        owner: tuple[int, int] | None = None,
        capacity: int | None = None,
        scratch: tuple[int, ...] = (),
        has_own_filesystems: bool = False,
        measure_nameless: Callable[[], tuple[int, int]] | None = None,
    ) -> None:
        """Create the folder from open descriptors, which `close` closes.

        Args:
            root: Descriptor of the directory.
            owner: User and group id of created files. None keeps those of this process.
            capacity: Largest file in bytes. None leaves the limit to the file system.
            scratch: Descriptors of the session's other directories, for `measure_usage`.
            has_own_filesystems: True if each directory is a file system of its own. Then
                `measure_usage` need not walk.
            measure_nameless: Returns the bytes and number of the files that the session's
                processes hold without a name. None where the file systems count them.
        """
        self._root, self._owner, self._capacity = root, owner, capacity
        self._descriptors = (root, *scratch)
        self._has_own_filesystems = has_own_filesystems
        self._measure_nameless = measure_nameless
        self._closed = False
        self._lock = threading.Lock()

    def open_read(self, name: str) -> int:
        """Open a regular file. The caller closes the descriptor.

        Raises:
            UnsafeNameError: The name would leave the folder.
            SessionFileNotFoundError: The folder has no such regular file.
        """
        return self._open_file(name, validate_name(name).split("/"))

    def _open_file(self, name: str, parts: list[str]) -> int:
        folder, part = self._open_folder(name, parts)
        try:
            with translate_errors(name, folder):
                file = os.open(part, os.O_RDONLY | NO_FOLLOW | _NON_BLOCK, dir_fd=folder)
        finally:
            os.close(folder)
        is_regular = False
        try:
            is_regular = stat.S_ISREG(os.fstat(file).st_mode)
        finally:
            if not is_regular:
                os.close(file)
        if not is_regular:
            raise build_not_found_error(name)
        return file

    def read(self, name: str, *, chunk_bytes: int = CHUNK_BYTES) -> Iterator[bytes]:
        """Read a regular file in chunks. It is opened at once, before the first chunk is read.

        Raises:
            UnsafeNameError: The name would leave the folder.
            SessionFileNotFoundError: The folder has no such regular file.
        """
        return _iter_chunks(os.fdopen(self.open_read(name), "rb", buffering=0), chunk_bytes)

    def stat(self, name: str) -> Stat:
        """Return the size and times of a regular file.

        Raises:
            SessionFileNotFoundError: The folder has no such regular file.
        """
        file = self.open_read(name)
        try:
            return Stat.from_stat(os.fstat(file))
        finally:
            os.close(file)

    def create(self, name: str) -> FolderWriter:
        """Start writing a file. Create the folders above it.

        Raises:
            UnsafeNameError: The name would leave the folder.
            FileTransferError: The file cannot be created there.
        """
        folder, part = self._open_parent(name, create=True)
        return FolderWriter(folder, part, name, capacity=self._capacity, owner=self._owner)

    def write(self, name: str, data: bytes) -> Stat:
        """Write a whole file at once. Replace a file of the same name."""
        writer = self.create(name)
        try:
            writer.write(data)
            return writer.commit()
        finally:
            writer.abort()

    def copy_to(self, target: SessionFolder, limit: int) -> None:
        """Copy at most `limit` regular files to another folder, whatever their names are.

        Raises:
            FileTransferError: A file does not fit or cannot be written.
        """
        for name in self.scan(limit):
            try:
                file = self._open_file(name, name.split("/"))
            except SessionFileNotFoundError:  # deleted since
                continue
            with os.fdopen(file, "rb") as stream, target.create_copy(name) as writer:
                while data := stream.read(CHUNK_BYTES):
                    writer.write(data)
                writer.copy_attributes(os.fstat(stream.fileno()))

    def create_copy(self, name: str) -> FolderWriter:
        """Start writing a file that has a name of another session's folder, as `scan` lists it."""
        folder, part = self._open_folder(name, name.split("/"), create=True)
        return FolderWriter(folder, part, name, capacity=self._capacity, owner=self._owner)

    def remove(self, name: str) -> None:
        """Delete a file, or a link but never its target.

        Raises:
            UnsafeNameError: The name would leave the folder.
            SessionFileNotFoundError: The folder has no such file.
        """
        folder, part = self._open_parent(name)
        try:
            with translate_errors(name, folder):
                os.unlink(part, dir_fd=folder)
        finally:
            os.close(folder)

    def scan(self, limit: int = 1000) -> dict[str, Stat]:
        """Return at most `limit` regular files by name, at most `MAX_DEPTH` folders deep."""
        files: dict[str, Stat] = {}
        with translate_errors("."):
            for name, status in self._walk(self._root):
                if status is not None and stat.S_ISREG(status.st_mode):
                    if len(files) >= limit:
                        break
                    files[name] = Stat.from_stat(status)
        return dict(sorted(files.items()))

    def measure_usage(self, limit: int = 100_000) -> tuple[int, int]:
        """Return the bytes that count against the disk limit, and the number of all files.

        If each directory is a file system of its own, scratch space has its own limit and only
        the folder's bytes are returned. Otherwise scratch space counts as well, and so do files
        without a name. More than `limit` entries make the number `limit + 1`.
        """
        if self._has_own_filesystems:
            states = self._stat_filesystems()
            return _compute_used_bytes(states[0]), sum(
                state.f_files - state.f_ffree for state in states
            )
        with contextlib.ExitStack() as stack:
            roots = []
            for descriptor in self._descriptors:
                roots.append(self._duplicate(descriptor))
                stack.callback(os.close, roots[-1])
            size, count = measure_folders(roots, limit)
        if count > limit:
            return size, limit + 1
        if self._measure_nameless is not None:
            used = self._measure_nameless()
            size, count = size + used[0], count + used[1]
        return size, count

    def measure_bytes(self) -> int:
        """Return the bytes of all files if each directory is a file system of its own."""
        return sum(map(_compute_used_bytes, self._stat_filesystems()))

    def _stat_filesystems(self) -> list[os.statvfs_result]:
        with self._lock:
            if self._closed:
                raise _build_ended_error()
            return [os.fstatvfs(descriptor) for descriptor in self._descriptors]

    def close(self) -> None:
        """Close every descriptor. A second call does nothing."""
        with self._lock:
            descriptors = () if self._closed else self._descriptors
            self._closed = True
            for descriptor in descriptors:
                os.close(descriptor)

    def _duplicate(self, descriptor: int) -> int:
        """Return a copy of a descriptor, which stays valid if `close` is called meanwhile."""
        with self._lock:
            if self._closed:
                raise _build_ended_error()
            return os.dup(descriptor)

    def _open_parent(self, name: str, *, create: bool = False) -> tuple[int, str]:
        """Return a new descriptor of a name's parent folder, and the name's last part."""
        return self._open_folder(name, validate_name(name).split("/"), create=create)

    def _open_folder(self, name: str, parts: list[str], *, create: bool = False) -> tuple[int, str]:
        *parents, part = parts
        with translate_errors(name):
            folder = self._duplicate(self._root)
            for parent in parents:
                try:
                    subfolder = self._open_subfolder(folder, parent, create=create)
                finally:
                    os.close(folder)
                folder = subfolder
        return folder, part

    def _open_subfolder(self, folder: int, name: str, *, create: bool) -> int:
        if create:
            try:
                os.mkdir(name, 0o755, dir_fd=folder)
            except FileExistsError:
                create = False
        subfolder = os.open(name, _DIRECTORY_FLAGS, dir_fd=folder)
        if create and self._owner is not None:
            try:
                os.fchown(subfolder, *self._owner)
            except BaseException:
                os.close(subfolder)
                raise
        return subfolder

    def _walk(self, root: int) -> Iterator[tuple[str, os.stat_result | None]]:
        """Yield every entry below a folder. A folder that cannot be entered has the status None."""
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
    """Yield the entries of one folder except the temporary files of unfinished writes."""
    try:
        folder = _descend(root, parts)
    except OSError as error:
        if is_shortage(error):  # else files would seem to be gone
            raise
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
    folder = os.open(".", _DIRECTORY_FLAGS, dir_fd=root)  # a copy would share its read position
    for part in parts:
        try:
            subfolder = os.open(part, _DIRECTORY_FLAGS, dir_fd=folder)
        finally:
            os.close(folder)
        folder = subfolder
    return folder


def open_all(openers: Sequence[Callable[[], int]]) -> list[int]:
    """Open several descriptors, or none."""
    with contextlib.ExitStack() as stack:
        descriptors = []
        for opener in openers:
            descriptors.append(opener())
            stack.callback(os.close, descriptors[-1])
        stack.pop_all()
        return descriptors


def _iter_chunks(stream: io.FileIO, chunk_bytes: int) -> Iterator[bytes]:
    with stream:
        while data := stream.read(chunk_bytes):
            yield data


def _compute_used_bytes(state: os.statvfs_result) -> int:
    return (state.f_blocks - state.f_bfree) * state.f_frsize


def _build_ended_error() -> FileTransferError:
    return FileTransferError("the session has ended and its files are gone")

"""The writer of one file in a session's folder, and the translation of its errors."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

from cci_plugins.common.shortages import find_hint, is_shortage
from cci_plugins.errors import FileTooLargeError, FileTransferError, SessionFileNotFoundError

TEMPORARY_PREFIX = ".cci-part-"
NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)  # Windows has none and uses `path_folder.py`
_FULL_HINT = "remove files, or raise SandboxLimits.disk_bytes"
_DISK_FULL_ERRNOS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@dataclass(frozen=True, slots=True)
class Stat:
    """Values that differ between two versions of a file. Times are in nanoseconds."""

    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int

    @classmethod
    def from_stat(cls, status: os.stat_result) -> Self:
        """Build the value from the result of `os.stat`."""
        return cls(status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)


class FolderWriter:
    """A file that is being written. It gets its name, and its whole content, with `commit`.

    As a context manager it commits at the end of the block, or aborts if the block raised.
    """

    def __init__(
        self,
        folder: int,
        part: str,
        name: str,
        *,
        capacity: int | None,
        owner: tuple[int, int] | None,
    ) -> None:
        """Open a temporary file next to the target.

        Args:
            folder: Descriptor of the target's parent folder. The writer closes it.
            part: Last part of the target's name.
            name: The whole name, for messages.
            capacity: Largest size of the file in bytes, or None.
            owner: User and group id of the file. None keeps those of this process.
        """
        self._folder, self._part, self._name, self._capacity = folder, part, name, capacity
        self._temporary_name = TEMPORARY_PREFIX + secrets.token_hex(8)
        self.size = 0
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | NO_FOLLOW
        try:
            with translate_errors(name, folder):
                self._file = os.open(self._temporary_name, flags, 0o644, dir_fd=folder)
        except BaseException:
            os.close(folder)
            raise
        self._is_open = True
        if owner is not None:
            try:
                with translate_errors(name, folder):
                    os.fchown(self._file, *owner)
            except BaseException:
                self.abort()
                raise

    def write(self, data: bytes) -> None:
        """Append bytes.

        Raises:
            FileTooLargeError: The disk is full, or the file would exceed its capacity.
        """
        self.size += len(data)
        if self._capacity is not None and self.size > self._capacity:
            raise FileTooLargeError(
                f"{self._name!r} is larger than {self._capacity:,} bytes, the limit of the session",
                size=self.size,
                limit=self._capacity,
            )
        view = memoryview(data)
        with translate_errors(self._name, self._folder, self.size):
            while view:
                view = view[os.write(self._file, view) :]

    def copy_attributes(self, status: os.stat_result) -> None:
        """Give the file the permissions and times of another one. It stays readable."""
        with contextlib.suppress(OSError):
            os.fchmod(self._file, (status.st_mode & 0o777) | 0o400)
            os.utime(self._file, ns=(status.st_atime_ns, status.st_mtime_ns))

    def commit(self) -> Stat:
        """Move the file to its name. Replace a file of the same name."""
        try:
            with translate_errors(self._name, self._folder, self.size):
                os.replace(
                    self._temporary_name,
                    self._part,
                    src_dir_fd=self._folder,
                    dst_dir_fd=self._folder,
                )
                status = os.fstat(self._file)
        except BaseException:
            self.abort()
            raise
        self._close()
        return Stat.from_stat(status)

    def abort(self) -> None:
        """Discard the file. After `commit` this does nothing."""
        if self._is_open:
            with contextlib.suppress(OSError):
                os.unlink(self._temporary_name, dir_fd=self._folder)
            self._close()

    def _close(self) -> None:
        self._is_open = False
        os.close(self._file)
        os.close(self._folder)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        if kind is None:
            self.commit()
        else:
            self.abort()


def build_not_found_error(name: str) -> SessionFileNotFoundError:
    """Build the error for a file that is missing or not a regular file."""
    return SessionFileNotFoundError(
        f"the session has no file {name!r}", hint="list the session's files to see their names"
    )


@contextlib.contextmanager
def translate_errors(name: str, folder: int | None = None, size: int = 0) -> Iterator[None]:
    """Raise errors of the operating system as errors of this package.

    Args:
        name: The file, for messages.
        folder: A descriptor on the same file system. The error of a full disk reports its size.
        size: Bytes that the file would have had.

    Raises:
        SessionFileNotFoundError: The file is missing or not a regular file.
        FileTooLargeError: The disk is full.
        FileTransferError: Any other error of the system.
    """
    try:
        yield
    except (FileTransferError, FileExistsError):
        raise
    except OSError as error:
        if error.errno in {errno.ENOENT, errno.ELOOP, errno.ENOTDIR, errno.ENXIO}:
            raise build_not_found_error(name) from error
        if error.errno in _DISK_FULL_ERRNOS and folder is not None:
            state = os.fstatvfs(folder)
            raise FileTooLargeError(
                f"the session's disk is full: {name!r} does not fit",
                size=size,
                limit=state.f_blocks * state.f_frsize,
                hint=_FULL_HINT,
            ) from error
        hint = find_hint(error) if is_shortage(error) else None
        if error.errno in _DISK_FULL_ERRNOS:
            hint = _FULL_HINT
        raise FileTransferError(f"cannot access {name!r}: {error.strerror}", hint=hint) from error

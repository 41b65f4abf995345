"""One file on its way into a session's folder, and what can go wrong with it."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

from cci_plugins.errors import FileTooLargeError, FileTransferError, SessionFileNotFoundError

TEMPORARY_PREFIX = ".cci-part-"
NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)  # Windows has none; there, folder_paths.py takes over
_DISK_FULL_ERRNOS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@dataclass(frozen=True, slots=True)
class Stat:
    """What tells one version of a file from the next; times in nanoseconds."""

    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int

    @classmethod
    def from_stat(cls, status: os.stat_result) -> Self:
        """Take it from `os.stat`."""
        return cls(status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)


class FolderWriter:
    """A file on its way into a folder: seen whole after `commit`, or never.

    Used as a context manager it commits, or aborts when the block raised.
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
        """Open a temporary file beside the target.

        Args:
            folder: Descriptor of the target's own folder; the writer closes it.
            part: The target's last part.
            name: The whole name, for messages.
            capacity: Bytes the file may have.
            owner: User and group id of the file, when not our own.
        """
        self._folder, self._part, self._name, self._capacity = folder, part, name, capacity
        self._temporary_name = TEMPORARY_PREFIX + secrets.token_hex(8)
        self.size = 0
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | NO_FOLLOW
        try:
            with translate_errors(name, folder):
                self._file = os.open(self._temporary_name, flags, 0o644, dir_fd=folder)
                if owner is not None:
                    os.fchown(self._file, *owner)
        except BaseException:
            os.close(folder)
            raise
        self._is_open = True

    def write(self, data: bytes) -> None:
        """Add bytes.

        Raises:
            FileTooLargeError: The folder is full, or the file would be larger than it may be.
        """
        self.size += len(data)
        if self._capacity is not None and self.size > self._capacity:
            raise FileTooLargeError(
                f"{self._name!r} is larger than a session's folder may hold",
                size=self.size,
                limit=self._capacity,
            )
        view = memoryview(data)
        with translate_errors(self._name, self._folder, self.size):
            while view:
                view = view[os.write(self._file, view) :]

    def commit(self) -> Stat:
        """Put the file in its place, replacing one of the same name."""
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
        """Forget what was written; harmless after `commit`."""
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
    """The error for a file that is not there, or is not a regular file."""
    return SessionFileNotFoundError(
        f"the session has no file {name!r}", hint="list the session's files to see their names"
    )


@contextlib.contextmanager
def translate_errors(name: str, folder: int | None = None, size: int = 0) -> Iterator[None]:
    """Turn errors of the system into ours.

    Args:
        name: The file, for messages.
        folder: A descriptor on the same file system, to tell how large a full disk is.
        size: Bytes that were to be written.
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
                hint="remove files, or raise SandboxLimits.disk_bytes",
            ) from error
        raise FileTransferError(f"cannot reach {name!r}: {error.strerror}") from error

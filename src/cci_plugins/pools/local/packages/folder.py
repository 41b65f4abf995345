"""A folder of packages on the host. Sessions can read it and not write to it.

The folder is locked while its owner lives, so that the next start finds and removes leftovers.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import anyio

PREFIX = "cci-packages-"
_NEW_SECONDS = 60  # another process may not have locked its new folder yet


class PackageFolder:
    """A folder whose content every user of this machine may read."""

    def __init__(self) -> None:
        self.path = Path(os.path.realpath(tempfile.mkdtemp(prefix=PREFIX)))
        self.path.chmod(0o755)
        self._lock = _lock(self.path)

    def add(self, source: Path) -> None:
        """Copy the content of a folder into this one. Files that are there stay."""
        for folder, _, names in os.walk(source):
            target = self.path / Path(folder).relative_to(source)
            target.mkdir(mode=0o755, exist_ok=True)
            for name in names:
                file, copy = Path(folder, name), target / name
                if copy.exists():
                    continue
                shutil.copyfile(file, copy, follow_symlinks=False)
                copy.chmod(0o755 if file.stat().st_mode & 0o100 else 0o644)

    def _remove(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    async def close(self) -> None:
        """Remove the folder. A second call does nothing."""
        try:
            await anyio.to_thread.run_sync(self._remove)
        except RuntimeError:  # from Python 3.12 on no thread starts at exit
            self._remove()


def remove_leftovers() -> None:
    """Remove the folders whose owner has ended without removing them."""
    for path in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with suppress(OSError):
            status = path.lstat()
            is_new = time.time() - status.st_mtime < _NEW_SECONDS
            if is_new or path.is_symlink() or status.st_uid != _get_user():
                continue
            lock = _lock(path)
            if lock is not None:
                shutil.rmtree(path, ignore_errors=True)
                os.close(lock)


def _get_user() -> int:
    return os.getuid() if hasattr(os, "getuid") else 0


def _lock(path: Path) -> int | None:
    """Lock a folder. Return None where another process holds it, or no folder can be locked."""
    try:
        import fcntl  # noqa: PLC0415 - it does not exist on Windows
    except ImportError:
        return None
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor

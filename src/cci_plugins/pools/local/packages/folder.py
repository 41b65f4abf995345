"""Folders of packages on the host. Sessions can read them and not write to them.

All folders of a pool lie in one, which a process of its own removes when the application ends, also
by SIGKILL. It is locked while the application lives. So the next start finds and removes what is
left where that process was killed, too.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import anyio

from cci_plugins.common.threads import run_in_thread
from cci_plugins.errors import PoolUnavailableError
from cci_plugins.pools.local.isolation.launcher import supervisor

from .supervised import SupervisedProgram

PREFIX = "cci-packages-"
_NEW_SECONDS = 60  # another process may not have locked its new folder yet


class PackageRoot:
    """The folder of all packages of one pool. `start` creates it."""

    def __init__(self) -> None:
        self._path: Path | None = None
        self._lock: int | None = None
        self._guard: SupervisedProgram | None = None

    async def start(self, python: str) -> None:
        """Create the folder, and start the process that removes it.

        Args:
            python: The interpreter of that process.

        Raises:
            IsolationError: The process could not be started.
        """
        await run_in_thread(remove_leftovers)
        self._path = _create_root()
        self._lock = _lock(self._path)
        if sys.platform == "win32":
            return  # the supervisor does not run there
        self._guard = SupervisedProgram(python, self._path)
        try:
            await self._guard.get_child()
        except BaseException:
            with anyio.CancelScope(shield=True):
                await self.close()
            raise

    def create(self) -> Path:
        """Create a folder in it.

        Raises:
            PoolUnavailableError: It was closed.
        """
        if self._path is None:
            raise PoolUnavailableError("this pool is closed", retryable=False)
        return Path(tempfile.mkdtemp(dir=self._path))

    async def close(self) -> None:
        """Remove everything. A second call does nothing."""
        guard, self._guard = self._guard, None
        if guard is not None:
            await guard.close()
        path, self._path = self._path, None
        if path is not None:
            await _remove(path)
        lock, self._lock = self._lock, None
        if lock is not None:
            os.close(lock)


class PackageFolder:
    """A folder whose content every user of this machine may read."""

    def __init__(self, root: PackageRoot) -> None:
        self.path = root.create()
        self.path.chmod(0o755)

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

    async def close(self) -> None:
        """Remove the folder. A second call does nothing."""
        await _remove(self.path)


def _create_root() -> Path:
    path = Path(os.path.realpath(tempfile.mkdtemp(prefix=PREFIX)))
    path.chmod(0o711)  # the user of a session may not list it
    return path


async def _remove(path: Path) -> None:
    await run_in_thread(supervisor.remove_folder, str(path))


def remove_leftovers() -> None:
    """Remove the folders of applications that have ended without removing them."""
    for path in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with suppress(OSError):
            status = path.lstat()
            is_new = time.time() - status.st_mtime < _NEW_SECONDS
            if is_new or path.is_symlink() or status.st_uid != _get_user():
                continue
            lock = _lock(path)
            if lock is not None:
                supervisor.remove_folder(str(path))
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

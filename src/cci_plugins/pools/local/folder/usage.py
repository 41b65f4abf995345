"""Measurement of a folder that untrusted code changes at the same time.

The walk counts every entry at any depth, whatever its name and mode. It holds two descriptors, and
goes up by `..`, so that its time grows with the number of entries and not with their depth. A
folder that the code moves meanwhile has another parent then. The walk notices that by the device
and inode, and comes back from the root by names. Code that moves folders all the time could keep it
busy and hide files from it, so after `MAX_MOVES` the number of entries counts as too large. So it
does where a folder cannot be entered.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass

from .writer import NO_FOLLOW

_FLAGS = os.O_RDONLY | NO_FOLLOW | getattr(os, "O_DIRECTORY", 0)
_ENTER_FLAGS = getattr(os, "O_PATH", 0) | NO_FOLLOW | getattr(os, "O_DIRECTORY", 0)
_BLOCK = 512
MAX_MOVES = 200


@dataclass(slots=True)
class _Folder:
    """A folder on the way from the root to the current one.

    Attributes:
        name: Its name in its parent.
        identity: Its device and inode.
        waiting: Names of its folders that were not visited yet.
    """

    name: str
    identity: tuple[int, int]
    waiting: list[str]


def measure_folders(roots: Iterable[int], limit: int) -> tuple[int, int]:
    """Return the bytes and number of entries below folders. Stop after more than `limit`.

    A file with several names counts once with its bytes, and with each of its names as an entry.

    Args:
        roots: Descriptors of the folders.
        limit: Entries after which to stop.
    """
    size = count = 0
    linked: set[tuple[int, int]] = set()
    for root in roots:
        walk = _Walk(root, limit - count, linked)
        try:
            walk.run()
        finally:
            walk.close()
        size, count = size + walk.size, count + walk.count
        if count > limit:
            break
    return size, count


class _Walk:
    """One walk, with a descriptor of the current folder."""

    def __init__(self, root: int, limit: int, linked: set[tuple[int, int]]) -> None:
        self.size = self.count = 0
        self._root, self._limit, self._linked = root, limit, linked
        self._moves = 0
        self._current = os.open(".", _FLAGS, dir_fd=root)  # a copy would share its read position
        self._path = [self._count_entries("")]

    def run(self) -> None:
        """Visit every folder."""
        while self._path and self.count <= self._limit:
            if not self._path[-1].waiting:
                self._go_up()
                continue
            name = self._path[-1].waiting.pop()
            try:
                self._replace_current(_open_folder(name, self._current))
            except PermissionError:
                self.count = self._limit + 1
            except OSError:  # removed or moved meanwhile
                continue
            self._path.append(self._count_entries(name))

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self._current)

    def _replace_current(self, descriptor: int) -> None:
        os.close(self._current)
        self._current = descriptor

    def _go_up(self) -> None:
        self._path.pop()
        if not self._path:
            return
        with contextlib.suppress(OSError):
            parent = os.open("..", _FLAGS, dir_fd=self._current)
            if _identify(parent) == self._path[-1].identity:
                self._replace_current(parent)
                return
            os.close(parent)
        self._come_from_root()

    def _come_from_root(self) -> None:
        """Open the last folder of the path that is still where it was."""
        self._moves += 1
        if self._moves > MAX_MOVES:
            self.count = self._limit + 1
        self._replace_current(os.open(".", _FLAGS, dir_fd=self._root))
        for depth, folder in enumerate(self._path[1:], 1):
            try:
                found = os.open(folder.name, _FLAGS, dir_fd=self._current)
            except OSError:
                del self._path[depth:]
                return
            self._replace_current(found)
            if _identify(found) != folder.identity:  # another one has that name now
                folder.identity, folder.waiting = _identify(found), []

    def _count_entries(self, name: str) -> _Folder:
        """Count the entries of the current folder."""
        folder = _Folder(name, _identify(self._current), [])
        with os.scandir(self._current) as entries:
            for entry in entries:
                self.count += 1
                if self.count > self._limit:
                    break
                with contextlib.suppress(OSError):
                    status = entry.stat(follow_symlinks=False)
                    if stat.S_ISDIR(status.st_mode):
                        folder.waiting.append(entry.name)
                    elif status.st_nlink > 1:
                        if (status.st_dev, status.st_ino) in self._linked:
                            continue
                        self._linked.add((status.st_dev, status.st_ino))
                    self.size += status.st_blocks * _BLOCK
        return folder


def _identify(descriptor: int) -> tuple[int, int]:
    status = os.fstat(descriptor)
    return status.st_dev, status.st_ino


def _open_folder(name: str, parent: int) -> int:
    """Open a folder, and make it accessible first if its mode keeps its own user out."""
    try:
        return os.open(name, _FLAGS, dir_fd=parent)
    except PermissionError:
        folder = os.open(name, _ENTER_FLAGS, dir_fd=parent)
        try:
            os.chmod(f"/proc/self/fd/{folder}", stat.S_IRWXU)  # noqa: PTH101 - no link can be followed
            return os.open(name, _FLAGS, dir_fd=parent)
        finally:
            os.close(folder)

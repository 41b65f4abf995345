"""Files that a session on the host's disk holds without a name, read from /proc (Linux).

A file that was deleted while it is open or mapped is in no folder, and still takes its space. The
app can read the descriptors of the session's processes, since they run as its own user or it is
root. Two things it cannot read as an ordinary user:

- The size of a mapped file that no descriptor leads to. The first `FREE_FILES` of them count with
  what is mapped, each further one as the largest file that a session can write.
- The descriptors of a process whose program file may be run but not read. A session can write such
  a file. `find_hidden_process` reports it.
"""

# ruff: noqa: PTH116, PTH123, PTH208 - plain calls, made four times a second
from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterable, Iterator

from .launcher.supervisor import iter_descendants
from .memory import find_live_thread, list_descriptors

FREE_FILES = 2
_BLOCK = 512
_DELETED = b" (deleted)"


class OpenFiles:
    """The nameless files of one session.

    Args:
        folder: The session's folder on the host.
        file_bytes: The largest file that the session can write.
    """

    def __init__(self, folder: str, file_bytes: int) -> None:
        self._prefix = os.fsencode(os.path.realpath(folder)) + b"/"  # as the kernel shows it
        self._file_bytes = file_bytes
        self._hidden: set[int] = set()

    def measure(self, roots: Iterable[int]) -> tuple[int, int]:
        """Return the bytes and number of files that these processes and their descendants hold."""
        sizes: dict[tuple[int, int], int] = {}
        mapped: dict[bytes, int] = {}
        for pid in _iter_trees(roots):
            for path in list_descriptors(pid):
                _add_size(sizes, path)
            for line in _read_deleted_maps(pid):
                *fields, name = line.split(maxsplit=5)
                if name.startswith(self._prefix) and not _add_size(sizes, _build_path(pid, line)):
                    key = b" ".join(fields[3:])
                    mapped[key] = max(mapped.get(key, 0), _parse_end(fields))
        inodes = {b"%d" % inode for _, inode in sizes}
        unknown = sorted(size for key, size in mapped.items() if key.split()[1] not in inodes)
        total = sum(sizes.values()) + sum(unknown)
        total += sum(max(0, self._file_bytes - size) for size in unknown[FREE_FILES:])
        return total, len(sizes) + len(unknown)

    def find_hidden_process(self, roots: Iterable[int]) -> int | None:
        """Return a process whose descriptors could not be read now and at the last call.

        One that has just started a set-uid program is hidden for a moment.
        """
        hidden = {pid for pid in _iter_trees(roots) if _is_hidden(pid)}
        found = next(iter(hidden & self._hidden), None)
        self._hidden = hidden
        return found


def _iter_trees(roots: Iterable[int]) -> Iterator[int]:
    for root in roots:
        yield from iter_descendants(root)


def _is_hidden(pid: int) -> bool:
    place = find_live_thread(pid)
    if place is None:
        return False
    try:
        os.listdir(f"{place}/fd")
    except PermissionError:
        return True
    except OSError:  # it ended meanwhile
        pass
    return False


def _add_size(sizes: dict[tuple[int, int], int], path: str) -> bool:
    """Add the file at a path in /proc if it has no name. Return whether it could be read."""
    try:
        status = os.stat(path)
    except OSError:
        return False
    if stat.S_ISREG(status.st_mode) and not status.st_nlink:
        sizes[status.st_dev, status.st_ino] = status.st_blocks * _BLOCK
    return True


def _read_deleted_maps(pid: int) -> list[bytes]:
    """Return the lines of `maps` about files that have no name any longer."""
    place = find_live_thread(pid)
    with contextlib.suppress(OSError):
        if place is not None:
            with open(f"{place}/maps", "rb") as file:
                # of the characters that end a line elsewhere, a name is shown with all but \n
                return [line for line in file.read().split(b"\n") if line.endswith(_DELETED)]
    return []


def _build_path(pid: int, line: bytes) -> str:
    """Return the path of a mapped file in `map_files`, which only root can read."""
    start, _, end = line.split(maxsplit=1)[0].partition(b"-")
    place = find_live_thread(pid) or f"/proc/{pid}"
    return f"{place}/map_files/{int(start, 16):x}-{int(end, 16):x}"


def _parse_end(fields: list[bytes]) -> int:
    """Return where a mapping ends in its file."""
    start, _, end = fields[0].partition(b"-")
    return int(fields[2], 16) + int(end, 16) - int(start, 16)

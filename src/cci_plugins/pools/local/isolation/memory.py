"""How much memory a tree of processes uses (Linux)."""

# ruff: noqa: PTH116, PTH123, PTH208 - plain calls, made four times a second
from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

_PAGE = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096


def measure_tree(root: int) -> int:
    """Proportional set size of a process and all its descendants, in bytes."""
    return sum(_measure_process(pid) for pid in iter_descendants(root))


def iter_descendants(root: int) -> Iterator[int]:
    """A process and everything below it, parents first."""
    waiting, seen = [root], {root}
    while waiting:
        pid = waiting.pop()
        yield pid
        fresh = [child for child in list_children(pid) if child not in seen]
        seen.update(fresh)
        waiting += fresh


def list_children(pid: int) -> list[int]:
    """The processes started by any thread of a process."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            with contextlib.suppress(OSError):
                found += map(int, _read(f"/proc/{pid}/task/{thread}/children").split())
    return found


def count_own_threads() -> int:
    """Threads of this process's user, all of which count against its RLIMIT_NPROC."""
    count = 0
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError, ValueError, IndexError):
                if os.stat(f"/proc/{name}").st_uid == os.getuid():
                    count += int(_read(f"/proc/{name}/status").split(b"Threads:")[1].split()[0])
    return count


def _measure_process(pid: int) -> int:
    """PSS; or RSS where the process hides its maps; 0 once it is gone."""
    with contextlib.suppress(OSError, ValueError):
        for line in _read(f"/proc/{pid}/smaps_rollup").splitlines():
            if line.startswith(b"Pss:"):
                return int(line.split()[1]) * 1024
    with contextlib.suppress(OSError, ValueError):
        return int(_read(f"/proc/{pid}/statm").split()[1]) * _PAGE
    return 0


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()

"""Memory and thread counts of processes, read from /proc (Linux)."""

# ruff: noqa: PTH116, PTH123, PTH208 - plain calls, made four times a second
from __future__ import annotations

import contextlib
import os

from .launcher.supervisor import iter_descendants

_PAGE = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096


def measure_tree(root: int) -> int:
    """Return the proportional set size (PSS) of a process and its descendants, in bytes."""
    return sum(_measure_process(pid) for pid in iter_descendants(root))


def count_own_threads() -> int:
    """Count the threads of this process's user. All of them count against its RLIMIT_NPROC."""
    count = 0
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError, ValueError, IndexError):
                if os.stat(f"/proc/{name}").st_uid == os.getuid():
                    count += int(_read(f"/proc/{name}/status").split(b"Threads:")[1].split()[0])
    return count


def _measure_process(pid: int) -> int:
    """Return PSS, or RSS where the process hides its maps, or 0 once it has ended."""
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

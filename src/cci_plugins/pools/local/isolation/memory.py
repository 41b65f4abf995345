"""Memory, sockets and threads of processes, read from /proc (Linux).

The kernel counts none of it for a session as a whole, so the watchdog adds it up from /proc, four
times a second. The session's code tries to hide memory from it. These are the ways, and what is
done about each:

- A first thread that ends while others run on: /proc/PID is empty then, and another thread of the
  process is read.
- Page tables, which are in no resident size: `VmPTE`.
- Data that waits in sockets: each socket above `FREE_SOCKETS` counts with all it can hold. Its
  size cannot be raised (`seccomp.ignore_buffer_sizes`).
- Shared memory that is not mapped any longer, and descriptors on their way from one process to
  another: the seccomp programs refuse both.
"""

# ruff: noqa: PTH115, PTH116, PTH123, PTH208 - plain calls, made four times a second
from __future__ import annotations

import contextlib
import os
from functools import lru_cache

from .launcher.supervisor import iter_descendants

FREE_SOCKETS = 64  # a kernel has about 20
_DEFAULT_BUFFER = 212_992
_PAGE = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096
# Tables of the sockets of a network namespace. Those that name the bytes in both queues do so in
# the column with this index.
_SOCKET_TABLES = {"unix": 0, "netlink": 0, "tcp": 4, "tcp6": 4, "udp": 4, "udp6": 4}


def measure_tree(root: int) -> int:
    """Return the proportional set size (PSS) of a process and its descendants, in bytes."""
    return sum(_measure_process(pid) for pid in iter_descendants(root))


def measure_network(pid: int) -> int:
    """Return the bytes that the sockets of a process's own network namespace may hold."""
    count = queued = 0
    for name, column in _SOCKET_TABLES.items():
        with contextlib.suppress(OSError):
            _, *lines = _read(f"/proc/{pid}/net/{name}").splitlines()
            count += len(lines)
            if column:
                queued += sum(_parse_queues(line.split()[column]) for line in lines)
    return 2 * queued + _measure_sockets(count)


def measure_sockets(root: int) -> int:
    """Return the bytes that the sockets of a process and its descendants may hold."""
    sockets: set[str] = set()
    for pid in iter_descendants(root):
        for path in list_descriptors(pid):
            with contextlib.suppress(OSError):
                target = os.readlink(path)
                if target.startswith("socket:"):
                    sockets.add(target)
    return _measure_sockets(len(sockets))


def list_descriptors(pid: int) -> list[str]:
    """List the paths in /proc of a process's descriptors. Empty if they cannot be read."""
    place = find_live_thread(pid)
    with contextlib.suppress(OSError):
        return [] if place is None else [f"{place}/fd/{name}" for name in os.listdir(f"{place}/fd")]
    return []


def find_live_thread(pid: int) -> str | None:
    """Return the folder in /proc of a thread that has memory, most often the first. Or None."""
    first = f"/proc/{pid}"
    if _read_resident_pages(first):
        return first
    with contextlib.suppress(OSError):
        for thread in os.listdir(f"{first}/task"):
            if _read_resident_pages(f"/proc/{thread}"):
                return f"/proc/{thread}"
    return None


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
    place = find_live_thread(pid)
    if place is None:
        return 0
    page_tables = 0
    with contextlib.suppress(OSError, ValueError, IndexError):
        page_tables = 1024 * int(_read(f"{place}/status").split(b"VmPTE:")[1].split()[0])
    with contextlib.suppress(OSError, ValueError):
        for line in _read(f"{place}/smaps_rollup").splitlines():
            if line.startswith(b"Pss:"):
                return int(line.split()[1]) * 1024 + page_tables
    return _read_resident_pages(place) * _PAGE + page_tables


def _read_resident_pages(place: str) -> int:
    with contextlib.suppress(OSError, ValueError, IndexError):
        return int(_read(f"{place}/statm").split()[1])
    return 0


def _parse_queues(text: bytes) -> int:
    """Return the bytes of `TX:RX`, in hex."""
    sent, _, received = text.partition(b":")
    return int(sent, 16) + int(received, 16)


def _measure_sockets(count: int) -> int:
    return max(0, count - FREE_SOCKETS) * _get_buffer_bytes()


@lru_cache
def _get_buffer_bytes() -> int:
    """Return what a socket can hold by default."""
    with contextlib.suppress(OSError, ValueError):
        return int(_read("/proc/sys/net/core/wmem_default"))
    return _DEFAULT_BUFFER


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()

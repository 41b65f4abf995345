"""Memory, sockets and threads of processes, read from /proc (Linux).

The kernel counts none of it for a session as a whole, so the watchdog adds it up from /proc, four
times a second. The session's code tries to hide memory from it. These are the ways, and what is
done about each:

- A first thread that ends while others run on: /proc/PID is empty then, and another thread of the
  process is read.
- Page tables, which are in no resident size: `VmPTE`. Pages that were swapped out: `SwapPss`.
- Data that waits in sockets: each socket above `FREE_SOCKETS` counts with all it can hold. Its
  size cannot be raised (`seccomp.ignore_buffer_sizes`). A datagram socket also holds what was sent
  to it by sockets that are closed since, each of which filled its own buffer.
- What the kernel keeps for other descriptors, such as pipes, terminals and the lists of epoll: each
  above `FREE_DESCRIPTORS` of a process counts with `DESCRIPTOR_BYTES`.
- A process that names itself like a line of /proc/PID/status: a line is found by its start.
- Shared memory that is not mapped any longer, and descriptors on their way from one process to
  another: the seccomp programs refuse both.
"""

# ruff: noqa: PTH115, PTH116, PTH123, PTH208 - plain calls, made four times a second
from __future__ import annotations

import contextlib
import os
from functools import lru_cache
from typing import Any

from .launcher.supervisor import iter_descendants

FREE_SOCKETS = 64  # a kernel has about 20
FREE_DESCRIPTORS = 128  # of each process: a kernel has about 60, which its children inherit
DESCRIPTOR_BYTES = 32 * 1024  # a pipe or terminal can hold somewhat more, and has two
_MAPPED, _RESIDENT = 0, 1  # columns of /proc/PID/statm
_LARGE_BYTES = 16 * 1024**2  # a smaller process may count twice
_KCMP, _KCMP_VM = {"x86_64": 312, "aarch64": 272}, 1
_WAITING_DATAGRAMS = 10  # net.unix.max_dgram_qlen of a new network namespace
_DATAGRAM = b"0002"  # the type of a socket in /proc/net/unix
_DEFAULT_BUFFER = 212_992
_PAGE = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096
# Tables of the sockets of a network namespace. Those that name the bytes in both queues do so in
# the column with this index.
_SOCKET_TABLES = {"unix": 0, "netlink": 0, "tcp": 4, "tcp6": 4, "udp": 4, "udp6": 4}


def measure_tree(root: int) -> int:
    """Return the proportional set size (PSS) of a process and its descendants, in bytes.

    The child of a `vfork` has the memory of its parent, which counts once. Every program that
    Python starts is such a child for a moment. It is compared before it is measured, since it can
    leave that memory at any time and never comes back.
    """
    total, large = 0, list[int]()
    for pid in iter_descendants(root):
        if any(_have_same_memory(pid, other) for other in large):
            continue
        size = _measure_process(pid)
        total += size
        if size >= _LARGE_BYTES:
            large.append(pid)
    return total


@lru_cache
def _load_syscall() -> tuple[Any, int]:
    """Load the C library's `syscall` and the number of `kcmp`."""
    import ctypes  # noqa: PLC0415 - Linux only

    return ctypes.CDLL(None).syscall, _KCMP.get(os.uname().machine, -1)


def _have_same_memory(one: int, other: int) -> bool:
    """Return whether two processes share all their memory. False where that cannot be known."""
    call, number = _load_syscall()
    return bool(call(number, one, other, _KCMP_VM, 0, 0) == 0)


def measure_network(pid: int) -> int:
    """Return the bytes that the sockets of a process's own network namespace may hold."""
    count = queued = 0
    for name, column in _SOCKET_TABLES.items():
        with contextlib.suppress(OSError):
            _, *lines = _read(f"/proc/{pid}/net/{name}").splitlines()
            count += len(lines)
            if name == "unix":
                count += _WAITING_DATAGRAMS * sum(_is_datagram(line) for line in lines)
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
    if _read_pages(first, _MAPPED):
        return first
    with contextlib.suppress(OSError):
        for thread in os.listdir(f"{first}/task"):
            if _read_pages(f"/proc/{thread}", _MAPPED):
                return f"/proc/{thread}"
    return None


def count_own_threads() -> int:
    """Count the threads of this process's user. All of them count against its RLIMIT_NPROC."""
    count = 0
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError, ValueError, IndexError):
                if os.stat(f"/proc/{name}").st_uid == os.getuid():
                    count += _read_status_number(f"/proc/{name}", b"Threads")
    return count


def _read_status_number(place: str, name: bytes) -> int:
    """Return a number of a process's status. The process chooses only the text of its first line.

    Raises:
        OSError: The process has ended.
        ValueError: Its status has no such number.
    """
    _, found, rest = _read(f"{place}/status").partition(b"\n%b:" % name)
    return int((rest.split(maxsplit=1) or [b""])[0]) if found else 0


def _measure_process(pid: int) -> int:
    """Return PSS, or RSS where the process hides its maps, or 0 once it has ended.

    Page tables and what its descriptors may hold are added.
    """
    place = find_live_thread(pid)
    if place is None:
        return 0
    others = max(0, _count_descriptors(place) - FREE_DESCRIPTORS) * DESCRIPTOR_BYTES
    with contextlib.suppress(OSError, ValueError):
        others += 1024 * _read_status_number(place, b"VmPTE")
    with contextlib.suppress(OSError, ValueError):
        sizes = _read(f"{place}/smaps_rollup").splitlines()
        found = [int(line.split()[1]) for line in sizes if line.startswith((b"Pss:", b"SwapPss:"))]
        if found:
            return sum(found) * 1024 + others
    with contextlib.suppress(OSError, ValueError):
        others += 1024 * _read_status_number(place, b"VmSwap")
    return _read_pages(place, _RESIDENT) * _PAGE + others


def _count_descriptors(place: str) -> int:
    with contextlib.suppress(OSError):
        # the size is their number from Linux 6.2 on
        return os.stat(f"{place}/fd").st_size or len(os.listdir(f"{place}/fd"))
    return 0


def _read_pages(place: str, column: int) -> int:
    with contextlib.suppress(OSError, ValueError, IndexError):
        return int(_read(f"{place}/statm").split()[column])
    return 0


def _is_datagram(line: bytes) -> bool:
    return line.split(maxsplit=5)[4:5] == [_DATAGRAM]


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

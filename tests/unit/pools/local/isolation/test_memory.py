"""Tests of the numbers that are read from /proc about processes that choose their own names."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest

if sys.platform != "linux":
    pytest.skip("/proc exists on Linux only", allow_module_level=True)

from cci_plugins.pools.local.isolation import memory

NAMED_LIKE_A_LINE = """
import ctypes, sys
ctypes.CDLL(None).prctl(15, b"Threads: 99999", 0, 0, 0)
print(flush=True)
sys.stdin.read()
"""
TABLES = """
import ctypes, sys
libc = ctypes.CDLL(None)
libc.prctl(15, b"VmPTE: 0", 0, 0, 0)
libc.mmap.restype = ctypes.c_size_t
start = libc.mmap(None, ctypes.c_size_t(3 << 30), 1, 0x4022, -1, ctypes.c_long(0))
for at in range(start, start + (3 << 30), 2 << 20):
    ctypes.string_at(at, 1)
print(flush=True)
sys.stdin.read()
"""


@pytest.fixture
def start() -> Iterator[object]:
    started: list[subprocess.Popen[bytes]] = []

    def run(code: str) -> int:
        process = subprocess.Popen(
            [sys.executable, "-S", "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        started.append(process)
        assert process.stdout is not None
        process.stdout.readline()
        return process.pid

    yield run
    for process in started:
        process.communicate()


def test_a_process_cannot_name_itself_like_a_number_of_its_status(start) -> None:  # type: ignore[no-untyped-def]
    small = start(NAMED_LIKE_A_LINE)
    assert 0 < memory.count_own_threads() < 50_000
    assert memory.measure_tree(start(TABLES)) - memory.measure_tree(small) > 5 * 1024**2


def test_pages_that_were_swapped_out_count(monkeypatch: pytest.MonkeyPatch) -> None:
    files = {
        "statm": b"500 0 0 0 0 0 0",
        "status": b"Name:\tx\nVmSwap:\t  300 kB\nVmPTE:\t4 kB\n",
        "smaps_rollup": b"Rss: 0 kB\nPss: 100 kB\nPss_Anon: 7 kB\nSwapPss: 200 kB\n",
    }
    monkeypatch.setattr(memory, "_read", lambda path: files[path.rpartition("/")[2]])
    monkeypatch.setattr(memory, "_count_descriptors", lambda place: 0)
    assert memory._measure_process(1) == 304 * 1024
    files["smaps_rollup"] = b""
    assert memory._measure_process(1) == 304 * 1024

"""What only a memory cgroup bounds, and how a session that it ends is reported."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest

from cci_plugins import CodeInterpreter, SandboxLimits
from cci_plugins.pools.local.isolation.bubblewrap.sandbox import BwrapSandbox
from cci_plugins.pools.local.isolation.host_folder import HostFolderSandbox
from cci_plugins.pools.local.isolation.launcher.supervisor import iter_descendants
from cci_plugins.pools.local.isolation.memory_cgroup import find_cgroup_parent
from cci_plugins.pools.local.pool import LocalSessionPool

if sys.platform != "linux" or find_cgroup_parent() is None:
    pytest.skip("this process cannot create a memory cgroup", allow_module_level=True)

pytestmark = [pytest.mark.anyio, pytest.mark.quick("bwrap")]

MIB = 1024**2
Start = Callable[..., AbstractAsyncContextManager[Any]]
# Each takes kernel memory or shared memory that /proc shows of no process.
SOCKET_BUFFERS = """
import socket
held, count = [], 0
for _ in range(400):
    pair = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    pair[0].setblocking(False)
    try:
        while True: count += pair[0].send(b'x' * 65536)
    except BlockingIOError: held.append(pair)
print(count > 40 << 20)
"""
SHARED_PAGES = """
import mmap, os
file = os.open('pages', os.O_CREAT | os.O_RDWR)
os.ftruncate(file, 48 << 20)
shared = mmap.mmap(file, 48 << 20)
for at in range(0, 48 << 20, 4096): shared[at] = 1
shared.madvise(mmap.MADV_DONTNEED)
print('kept')
"""
EMPTY_FILES = """
import os
os.mkdir('many')
for number in range(40_000): os.close(os.open(f'many/{number}', os.O_CREAT | os.O_WRONLY))
print('made')
"""


def read(path: Path) -> str:
    return path.read_text(encoding="ascii").strip()


def read_usage(kernel: Any) -> int:
    return int(read(kernel.sandbox._cgroup.folder / "memory.usage_in_bytes"))


@pytest.fixture(scope="module", params=["bwrap", "landlock"])
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
async def kernel(backend: str, sandboxed_kernel: Start) -> AsyncIterator[Any]:
    async with sandboxed_kernel(backend) as started:
        yield started


@pytest.mark.parametrize(
    ("code", "least"), [(SOCKET_BUFFERS, 40), (SHARED_PAGES, 40), (EMPTY_FILES, 20)]
)
async def test_what_no_process_shows_is_charged_to_the_session(
    kernel: Any, code: str, least: int
) -> None:
    before = read_usage(kernel)
    output = await kernel.run(code)
    assert output in {"True", "kept", "made"}
    assert read_usage(kernel) - before > least * MIB


async def test_every_process_of_a_session_is_in_its_cgroup_with_its_limit(kernel: Any) -> None:
    await kernel.run("import subprocess; child = subprocess.Popen(['sleep', '60'])")
    cgroup = kernel.sandbox._cgroup
    limits = SandboxLimits()
    assert read(cgroup.folder / "memory.limit_in_bytes") == str(
        limits.memory_bytes + limits.disk_bytes
    )
    members = {int(pid) for pid in read(cgroup.folder / "cgroup.procs").split()}
    for root in kernel.sandbox.list_roots():
        tree = set(iter_descendants(root))
        assert len(tree) > 1
        assert tree <= members
    assert os.getpid() not in members


async def test_a_session_that_the_kernel_ends_names_memory_and_leaves_no_cgroup(
    backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    parent = find_cgroup_parent()
    assert parent is not None
    leftover = parent.folder / "cci-999999999-0"
    leftover.mkdir()
    parent.remove_leftovers()
    assert not leftover.exists()
    own = f"cci-{os.getpid()}-*"  # other workers of the tests have cgroups there, too
    before = set(parent.folder.glob(own))
    for kind in (BwrapSandbox, HostFolderSandbox):  # so that only the cgroup bounds it
        monkeypatch.setattr(kind, "measure_memory", lambda _: 0)
    limits = SandboxLimits(memory_bytes=32 * MIB, disk_bytes=16 * MIB)
    pool = LocalSessionPool(isolation=backend, limits=limits, preload=(), ready_sessions=0)  # type: ignore[arg-type]
    async with CodeInterpreter(pool) as interpreter:
        execution = await interpreter.session("s").run_code(SOCKET_BUFFERS)
        assert execution.status == "died", execution
        assert "it used 48 MiB of memory" in str(execution.error)
    assert set(parent.folder.glob(own)) == before

"""Attacks on what ends a session and on what counts its memory and disk, with real sandboxes."""

# ruff: noqa: ASYNC240 - short blocking calls on local files
from __future__ import annotations

import os
import shutil
import site
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import anyio
import pytest

import cci_plugins
from cci_plugins import CodeInterpreter, SandboxLimits
from cci_plugins.pools.local.pool import LocalSessionPool

if sys.platform != "linux":
    pytest.skip("these backends exist on Linux only", allow_module_level=True)

pytestmark = pytest.mark.anyio

MIB = 1024**2
ORDINARY_USER = 12345
Start = Callable[..., AbstractAsyncContextManager[Any]]

LOOK_AT_PROCESS_1 = """
import os
opened = []
for name in ('mem', 'environ', 'maps', 'oom_score_adj', 'fd/0', 'fd/1'):
    for mode in (os.O_RDONLY, os.O_RDWR):
        try: os.close(os.open(f'/proc/1/{name}', mode))
        except OSError: continue
        opened.append((name, mode))
print(sorted(opened))
"""
MAP_WITHOUT_A_FILE = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_ssize_t
print(libc.mmap(None, ctypes.c_size_t(4096), 3, 0x21, -1, ctypes.c_long(0)),
      libc.mmap(None, ctypes.c_size_t(4096), 3, 0x23, -1, ctypes.c_long(0)),
      libc.mmap(None, ctypes.c_size_t(4096), 3, 0x22, -1, ctypes.c_long(0)) > 0,
      libc.vmsplice(1, None, 0, 0), libc.prctl(4, 0, 0, 0, 0), libc.prctl(4, 1, 0, 0, 0))
for path in ('/dev/zero', '/dev/null'):
    try: os.close(os.open(path, os.O_RDWR))
    except OSError: print(path)
print(len(open('/dev/zero', 'rb').read(10)))
"""
REFUSED_CALLS = """
import ctypes, errno, os
libc = ctypes.CDLL(None, use_errno=True)
def call(number, *values):
    result = libc.syscall(*map(ctypes.c_long, (number, *values)))
    return result if result >= 0 else errno.errorcode[ctypes.get_errno()]
intel = os.uname().machine == 'x86_64'
print(call(436, 2000, 2001, 2), call(436, 2000, 2001, 0),
      call(294 if intel else 26, 0), call(206 if intel else 0, 1, 0),
      call(275 if intel else 76, 0, 0, 1, 0, 1, 0), call(276 if intel else 77, 0, 1, 1, 0))
"""
DATAGRAMS = """
import socket
receivers = []
for number in range(30):
    receiver = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    receiver.bind(f'/tmp/{number}')
    receivers.append(receiver)
    for _ in range(20):
        sender = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        sender.setblocking(False)
        try: sender.sendto(b'x' * 200_000, f'/tmp/{number}')
        except BlockingIOError: break
        finally: sender.close()
"""
SHARED_BY_TWO = """
import ctypes, os
libc = ctypes.CDLL(None)
held, stack = b'x' * (100 << 20), ctypes.create_string_buffer(1 << 16)
top = (ctypes.addressof(stack) + (1 << 16) - 64) & ~15
pause = ctypes.cast(libc.pause, ctypes.c_void_p)
child = libc.clone(pause, ctypes.c_void_p(top), 0x100 | 17, None)  # CLONE_VM, as vfork does
print(child > 0)
"""
MANY_SOCKETS = """
import socket
pairs = [socket.socketpair() for _ in range(300)]
pairs[0][0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 24)
print(pairs[0][0].getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) < 1 << 20)
"""
LEADER_THAT_EXITS = """
import subprocess, sys
code = '''
import ctypes, threading, time
def hold():
    data = b"x" * (120 << 20)
    print("held", flush=True)
    time.sleep(300)
threading.Thread(target=hold).start()
ctypes.CDLL(None).syscall(60 if __import__("os").uname().machine == "x86_64" else 93, 0)
'''
child = subprocess.Popen([sys.executable, '-c', code], stdout=subprocess.PIPE)
print(child.stdout.readline())
"""
# Each line hides 8 MiB or 100 files from a walk that has limits, skips names or sees names only.
HIDING_PLACES = """
import mmap, os
eight = b'x' * (8 << 20)
def write(path): open(path, 'wb').write(eight)
os.mkdir('.cci-part-x'); write('.cci-part-x/a')
write('.cci-part-y')
write('unlinked'); held = open('unlinked', 'rb'); os.unlink('unlinked')
nameless = os.open('.', os.O_TMPFILE | os.O_RDWR); os.write(nameless, eight)
os.mkdir('closed', 0o300); write('closed/a')
here = os.getcwd()
for _ in range(40):
    os.mkdir('deep'); os.chdir('deep')
write('a'); os.chdir(here)
write('../k/a')
for number in range(100): open(f'../k/{number}', 'w').close()
"""
HIDDEN_PROGRAM = """
import os, shutil, subprocess, sys
source = open(os.path.realpath(sys.executable), 'rb').read()
program = os.open('program', os.O_CREAT | os.O_WRONLY, 0o111)
os.write(program, source); os.close(program)
subprocess.run([os.path.abspath('program'), '-c', 'import time; time.sleep(20)'],
    env={'PYTHONHOME': sys.base_prefix})
"""


@pytest.fixture(scope="module", params=["bwrap", "landlock"])
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
async def kernel(backend: str, sandboxed_kernel: Start) -> AsyncIterator[Any]:
    async with sandboxed_kernel(backend) as started:
        yield started


@pytest.fixture
def measure(kernel: Any) -> Iterator[Callable[[], tuple[int, int]]]:
    """Return how much memory and how many bytes of disk were added since the test began."""

    def read() -> tuple[int, int]:
        return kernel.sandbox.measure_memory(), kernel.sandbox.folder.measure_usage()[0]

    memory, disk = read()
    return lambda: (read()[0] - memory, read()[1] - disk)


async def test_code_reaches_nothing_of_the_process_that_ends_its_session(kernel: Any) -> None:
    assert await kernel.run(LOOK_AT_PROCESS_1) in {"[]", "[('oom_score_adj', 0)]"}


async def test_the_first_process_has_the_sessions_limits(kernel: Any, backend: str) -> None:
    if backend != "bwrap":
        pytest.skip("only bwrap has a first process inside")
    limits = Path(f"/proc/{kernel.sandbox._init_pid}/limits").read_text(encoding="ascii")
    values = {line[:25].strip(): line.split()[-3] for line in limits.splitlines()[1:]}
    expected = SandboxLimits()
    assert values["Max address space"] == str(expected.address_space_bytes)
    assert values["Max file size"] == str(expected.file_bytes)
    assert "128" in limits.split("Max processes")[1].split("\n")[0]


async def test_code_stays_the_first_to_be_killed_without_memory(kernel: Any, backend: str) -> None:
    output = await kernel.run("open('/proc/self/oom_score_adj', 'w').write('0')")
    assert output.split(":")[0] in {"OSError", "PermissionError"}
    tree = kernel.sandbox.child.process.pid
    from cci_plugins.pools.local.isolation.launcher.supervisor import iter_descendants

    python = [
        pid
        for pid in iter_descendants(tree)
        if b"boot.py" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]
    assert Path(f"/proc/{python[-1]}/oom_score_adj").read_text(encoding="ascii") == "1000\n"


async def test_shared_memory_has_a_file_that_counts(kernel: Any) -> None:
    output = await kernel.run(MAP_WITHOUT_A_FILE)
    assert output.splitlines() == ["-1 -1 True -1 -1 0", "/dev/zero", "10"]


async def test_data_in_sockets_counts_as_memory(
    kernel: Any, measure: Callable[[], tuple[int, int]]
) -> None:
    assert await kernel.run(MANY_SOCKETS) == "True"
    assert measure()[0] > 500 * 200_000
    await kernel.run("del pairs")
    assert measure()[0] < 50 * MIB


async def test_calls_that_hide_or_use_up_what_cannot_be_counted_are_refused(kernel: Any) -> None:
    """Descriptors of one thread, queues of inotify, rings of the whole machine, pages in pipes."""
    assert await kernel.run(REFUSED_CALLS) == "EINVAL 0 ENOSYS ENOSYS EINVAL EINVAL"


async def test_datagrams_whose_senders_are_closed_count_as_memory(
    kernel: Any, backend: str, measure: Callable[[], tuple[int, int]]
) -> None:
    if backend != "bwrap":
        pytest.skip("no new sockets elsewhere")
    assert await kernel.run(DATAGRAMS) == ""
    assert measure()[0] > 30 * 9 * 200_000
    await kernel.run("del receivers, receiver, sender")
    assert measure()[0] < 20 * MIB


async def test_what_descriptors_may_hold_counts_as_memory(
    kernel: Any, measure: Callable[[], tuple[int, int]]
) -> None:
    await kernel.run("import os; pipes = [os.pipe() for _ in range(400)]")
    assert measure()[0] > 600 * 32 * 1024
    await kernel.run("for pipe in pipes: os.close(pipe[0]); os.close(pipe[1])")
    assert measure()[0] < 10 * MIB


async def test_memory_that_two_processes_share_counts_once(
    kernel: Any, measure: Callable[[], tuple[int, int]]
) -> None:
    """Each program that Python starts shares the session's memory for a moment."""
    assert await kernel.run(SHARED_BY_TWO) == "True"
    assert 95 * MIB < measure()[0] < 150 * MIB
    await kernel.run("os.kill(child, 9); os.waitpid(child, 0); del held")


async def test_a_process_whose_first_thread_ended_is_measured(
    kernel: Any, measure: Callable[[], tuple[int, int]]
) -> None:
    assert await kernel.run(LEADER_THAT_EXITS) == r"b'held\n'"
    assert measure()[0] > 115 * MIB
    await kernel.run("child.kill(); child.wait()")


async def test_every_file_of_a_session_counts(
    kernel: Any, backend: str, measure: Callable[[], tuple[int, int]]
) -> None:
    folder = kernel.sandbox.folder
    if backend == "bwrap":
        before = folder.measure_usage()[1]
        await kernel.run("for n in range(300): open(f'/run/k/{n}', 'w').close()")
        assert folder.measure_usage()[1] - before >= 300
        return
    files = folder.measure_usage()[1]
    assert await kernel.run(HIDING_PLACES) == ""
    assert measure()[1] >= 7 * 8 * MIB
    assert files + 140 < folder.measure_usage()[1] < files + 200
    await kernel.run("held.close(); os.close(nameless)")
    assert measure()[1] < 6 * 8 * MIB


async def test_a_deleted_file_that_is_mapped_counts(
    kernel: Any, backend: str, measure: Callable[[], tuple[int, int]]
) -> None:
    if backend != "landlock":
        pytest.skip("a file system of its own counts its deleted files itself")
    code = (
        "import ctypes, os\n"
        "libc = ctypes.CDLL(None); libc.mmap.restype = ctypes.c_ssize_t\n"
        "for number in range(6):\n"
        "    name = 'mapped\\r\\x1c (deleted)'\n"  # not an end of the line in /proc/PID/maps
        "    open(name, 'wb').write(b'x' * (8 << 20)); file = os.open(name, os.O_RDONLY)\n"
        "    libc.mmap(None, ctypes.c_size_t(4096), 1, 1, file, ctypes.c_long(0))\n"
        "    os.close(file); os.unlink(name)"
    )
    assert await kernel.run(code) == ""
    assert measure()[1] > 4 * 8 * MIB  # an ordinary user does not know the size of two


async def test_shared_maps_work_in_a_session(backend: str) -> None:
    pool = LocalSessionPool(isolation=backend, ready_sessions=0, preload=())  # type: ignore[arg-type]
    code = (
        "import mmap, os\n"
        "shared = mmap.mmap(-1, 4096)\n"
        "if os.fork() == 0:\n"
        "    shared[:5] = b'child'; os._exit(0)\n"
        "os.wait(); print(shared[:5])\n"
        "try: mmap.mmap(-1, 3 << 30)\n"
        "except OSError as error: print(error.errno)"
    )
    async with CodeInterpreter(pool) as interpreter:
        execution = await interpreter.run_code(code)
        assert execution.stdout == "b'child'\n12\n", execution.error
        deep = "import os\nfor _ in range(40):\n    os.mkdir('deep'); os.chdir('deep')\n"
        wait = "import time; time.sleep(1.5)"
        assert (await interpreter.run_code(deep + wait)).error is None
        assert (await interpreter.run_code("1")).text == "1"


@pytest.mark.full
@pytest.mark.parametrize(
    ("attack", "reason"),
    [
        ("held = [socket.socketpair() for _ in range(450)]", "memory"),
        ("[open(f'{place}/{n}', 'w').close() for n in range(3000)]", "files"),
    ],
)
async def test_the_watchdog_ends_an_idle_session(backend: str, attack: str, reason: str) -> None:
    """Code that goes on after its run is stopped as well, and the reason is the true one."""
    limits = SandboxLimits(memory_bytes=160 * MIB, file_count=2000)
    pool = LocalSessionPool(isolation=backend, ready_sessions=0, preload=(), limits=limits)  # type: ignore[arg-type]
    code = (
        "import os, socket, threading, time\n"
        "place = '/run/k' if os.path.isdir('/run/k') else '../k'\n"
        f"def attack():\n    global held\n    time.sleep(2)\n    {attack}\n    time.sleep(60)\n"
        "threading.Thread(target=attack, daemon=True).start()"
    )
    async with CodeInterpreter(pool) as interpreter:
        assert (await interpreter.run_code(code)).error is None
        with anyio.fail_after(30):
            while [each async for each in _iter_live(pool)]:
                await anyio.sleep(0.1)
        execution = await interpreter.run_code("1")
        assert any(reason in note for note in execution.notes), execution


async def _iter_live(pool: LocalSessionPool) -> AsyncIterator[object]:
    for kernel, _ in pool._iter_kernels():
        if kernel.is_alive:
            yield kernel


@pytest.mark.full
async def test_a_process_that_hides_its_files_ends_the_session() -> None:
    if os.geteuid() == 0:
        pytest.skip("nothing hides from root")
    pool = LocalSessionPool(isolation="landlock", ready_sessions=0, preload=())
    async with CodeInterpreter(pool) as interpreter:
        execution = await interpreter.run_code(HIDDEN_PROGRAM)
        assert execution.error is not None
        assert "hides its open files" in execution.error.message


SCRIPT = """
import asyncio, sys
from cci_plugins import CodeInterpreter
from cci_plugins.pools.local.pool import LocalSessionPool

async def main():
    pool = LocalSessionPool(isolation="bwrap", ready_sessions=0, preload=())
    async with CodeInterpreter(pool) as interpreter:
        print((await interpreter.run_code(sys.argv[1])).stdout)

asyncio.run(main())
"""


@pytest.fixture
def ordinary_user(tmp_path: Path) -> Iterator[Callable[..., str]]:
    """Run Python as a user without rights, with an interpreter that this user can read."""
    from cci_plugins.pools.local.isolation.interpreter import is_reachable_by_anyone

    if os.geteuid() != 0:
        pytest.skip("already an ordinary user")
    source = str(Path(cci_plugins.__file__).parents[1])
    python = sys.executable
    if not is_reachable_by_anyone(python) or not is_reachable_by_anyone(sys.base_prefix):
        python = f"/usr/bin/python{sys.version_info.major}.{sys.version_info.minor}"
    paths = (site.getsitepackages()[0], source, __file__, python)
    if not Path(python).exists() or not all(map(is_reachable_by_anyone, paths)):
        pytest.skip(f"user {ORDINARY_USER} cannot read the package or an interpreter")
    home = tempfile.mkdtemp(prefix="cci-test-")
    os.chown(home, ORDINARY_USER, ORDINARY_USER)

    def run(*arguments: str, seconds: float = 60) -> str:
        done = subprocess.run(
            [
                *("setpriv", f"--reuid={ORDINARY_USER}", f"--regid={ORDINARY_USER}"),
                *("--clear-groups", python, *arguments),
            ],
            cwd=Path(__file__).parents[2],
            env={
                "PATH": os.environ["PATH"],
                "HOME": home,
                "PYTHONPATH": f"{source}:{site.getsitepackages()[0]}",
                "PYTHONDONTWRITEBYTECODE": "1",
            },
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
        assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
        return done.stdout

    yield run
    shutil.rmtree(home, ignore_errors=True)


def test_an_ordinary_users_session_cannot_take_over_its_first_process(
    ordinary_user: Callable[..., str],
) -> None:
    assert ordinary_user("-c", SCRIPT, LOOK_AT_PROCESS_1).strip() in {
        "[]",
        "[('oom_score_adj', 0)]",
    }


@pytest.mark.full
@pytest.mark.timeout(300)
def test_the_same_attacks_fail_for_an_ordinary_user(ordinary_user: Callable[..., str]) -> None:
    output = ordinary_user("-m", "pytest", "-q", "-p", "no:cacheprovider", __file__, seconds=280)
    assert " passed" in output

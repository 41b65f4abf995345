"""Tests of the isolation backends: start, selection, and cleanup."""

# ruff: noqa: ASYNC220, ASYNC240, PTH101, PTH208 - short blocking calls on local files

import asyncio
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import anyio
import pytest

from cci_plugins.common.limits import SandboxLimits
from cci_plugins.errors import ConfigurationError, IsolationError
from cci_plugins.pools.local.isolation import KernelSpec, choose, selection

if sys.platform != "linux":
    pytest.skip("these backends exist on Linux only", allow_module_level=True)

pytestmark = pytest.mark.anyio
DAEMON = """
import os, sys
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.execv(sys.executable, [sys.executable, "-c", "import time; time.sleep(600)", {mark!r}])
    os._exit(0)
os.wait()
print("started")
"""
APP = """
import asyncio, sys
from pathlib import Path
import jupyter_client
from cci_plugins.pools.local.isolation import KernelSpec, choose

async def main():
    spec = KernelSpec(python=Path(sys.executable), key="00" * 16)
    isolation = await choose(sys.argv[1], spec)
    sandbox = await isolation.launch(spec)
    client = jupyter_client.AsyncKernelClient()
    client.load_connection_info(sandbox.connection)
    client.start_channels()
    await client.wait_for_ready(timeout=30)
    await client.execute_interactive(sys.argv[2], timeout=30, allow_stdin=False)
    if sys.argv[3] == "raise":
        raise SystemExit(7)
    await asyncio.sleep(600)

asyncio.run(main())
"""


@pytest.fixture(params=["bwrap", "landlock", "process"])
def backend(request):
    return request.param


@pytest.fixture
def mark():
    return f"cci-test-{os.getpid()}-{time.monotonic_ns()}"


@pytest.fixture
def short_folder():
    """A temporary folder with a path short enough for sockets."""
    folder = tempfile.mkdtemp(prefix="t-", dir="/tmp")
    os.chmod(folder, 0o755)
    yield Path(folder)
    shutil.rmtree(folder, ignore_errors=True)


def find_processes(mark: str) -> list[int]:
    """Find the processes that have this argument."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            arguments = (process / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if mark.encode() in arguments:
            found.append(int(process.name))
    return found


async def choose_or_skip(backend: str):
    try:
        return await choose(backend, KernelSpec(python=Path(sys.executable), key=""))
    except IsolationError as error:
        pytest.skip(f"{backend} does not hold on this machine: {error}")


async def wait_until(is_true, seconds: float = 20):
    with anyio.fail_after(seconds):
        while not is_true():
            await anyio.sleep(0.02)


@pytest.mark.full
async def test_a_kernel_answers(backend, sandboxed_kernel):
    async with sandboxed_kernel(backend) as kernel:
        assert await kernel.run("print(6 * 7)") == "42"
        assert kernel.sandbox.connection["signature_scheme"] == "hmac-sha256"


@pytest.mark.full
async def test_several_tasks_wait_for_the_end(backend, sandboxed_kernel):
    async with sandboxed_kernel(backend) as kernel:
        waits = [asyncio.create_task(kernel.sandbox.wait()) for _ in range(3)]
        kernel.send("import os; os._exit(3)")
        with anyio.fail_after(10):
            assert await asyncio.gather(*waits) == [3, 3, 3]


@pytest.mark.full
async def test_a_killed_kernel_reports_the_signal(backend, sandboxed_kernel):
    async with sandboxed_kernel(backend) as kernel:
        kernel.send("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
        with anyio.fail_after(10):
            assert await kernel.sandbox.wait() == 137


@pytest.mark.quick("bwrap")
async def test_a_run_can_be_interrupted(backend, sandboxed_kernel):
    async with sandboxed_kernel(backend) as kernel:

        async def interrupt():
            await wait_until(lambda: "begun" in kernel.sandbox.folder.scan())
            kernel.sandbox.interrupt()

        async with anyio.create_task_group() as group:
            group.start_soon(interrupt)
            output = await kernel.run("open('begun', 'w'); import time; time.sleep(60)", timeout=20)
        assert output.startswith("KeyboardInterrupt")
        assert await kernel.run("print('alive')") == "alive"


@pytest.mark.quick("bwrap", "landlock")
async def test_no_process_outlives_its_session(backend, sandboxed_kernel, mark):
    async with sandboxed_kernel(backend) as kernel:
        assert await kernel.run(DAEMON.format(mark=mark)) == "started"
        await wait_until(lambda: find_processes(mark))
        await kernel.kill()
        assert find_processes(mark) == []


@pytest.mark.quick("bwrap", "landlock")
async def test_no_process_outlives_its_kernel(backend, sandboxed_kernel, mark):
    async with sandboxed_kernel(backend) as kernel:
        assert await kernel.run(DAEMON.format(mark=mark)) == "started"
        kernel.send("import os; os._exit(0)")
        with anyio.fail_after(15):
            await kernel.sandbox.wait()
        assert find_processes(mark) == []


@pytest.mark.slow
@pytest.mark.quick("landlock")
@pytest.mark.parametrize("end", ["kill", pytest.param("raise", marks=pytest.mark.full)])
async def test_nothing_outlives_the_app(backend, mark, short_folder, end):
    command = [sys.executable, "-c", APP, backend, DAEMON.format(mark=mark), end]
    environment = {**os.environ, "TMPDIR": str(short_folder)}
    with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as app:
        try:
            if end == "kill":
                await wait_until(lambda: find_processes(mark) or app.poll() is not None, 60)
                if app.poll() is not None:
                    pytest.skip(f"{backend} does not work on this machine")
                app.send_signal(signal.SIGKILL)
            else:
                await wait_until(lambda: app.poll() is not None, 60)
        finally:
            app.kill()
    await wait_until(lambda: not find_processes(mark) and not list(short_folder.iterdir()))


@pytest.mark.slow
@pytest.mark.quick("0.005", "0.06")
@pytest.mark.parametrize("delay", [0, 0.0005, 0.001, 0.002, 0.003, 0.005, 0.008, 0.012, 0.02, 0.06])
async def test_a_cancelled_launch_leaves_nothing(backend, delay, short_folder, monkeypatch):
    isolation = await choose_or_skip(backend)
    monkeypatch.setattr(tempfile, "tempdir", str(short_folder))
    unique = 4096 * (100_000 + time.monotonic_ns() % 100_000)
    limits = SandboxLimits(disk_bytes=unique)
    spec = KernelSpec(python=Path(sys.executable), key="00" * 16, limits=limits)
    launch = asyncio.create_task(isolation.launch(spec))
    await asyncio.sleep(delay)
    launch.cancel()
    with pytest.raises(asyncio.CancelledError):
        await launch
    await wait_until(lambda: not find_processes(str(unique)) and not list(short_folder.iterdir()))


@pytest.mark.quick("bwrap", "landlock")
async def test_kill_removes_the_sessions_folder(
    backend, sandboxed_kernel, short_folder, monkeypatch
):
    monkeypatch.setattr(tempfile, "tempdir", str(short_folder))
    async with sandboxed_kernel(backend) as kernel:
        for folder in short_folder.iterdir():
            assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        await kernel.run(
            "import os\n"
            "for n in range(2000): os.mkdir('deep'); os.chdir('deep')\n"
            "os.mkdir('closed', 0)\nos.symlink('/etc', 'link')"
        )
        await kernel.kill()
        await kernel.kill()
    assert list(short_folder.iterdir()) == []
    assert Path("/etc/passwd").exists()


@pytest.mark.full
async def test_sessions_run_side_by_side(backend, sandboxed_kernel):
    async with sandboxed_kernel(backend) as one, sandboxed_kernel(backend) as two:
        await one.run("x = 1; open('f', 'w')")
        assert (await two.run("x")).startswith("NameError")
        assert two.sandbox.folder.scan() == {}


@pytest.mark.quick("landlock")
async def test_each_session_of_root_has_its_own_user(backend, sandboxed_kernel):
    if os.geteuid() != 0:
        pytest.skip("only root can give sessions user ids of their own")
    if backend == "process":
        pytest.skip("a session without isolation has the user of the application")
    async with sandboxed_kernel(backend) as one, sandboxed_kernel(backend) as two:
        ids = {await kernel.run("import os; print(os.getuid())") for kernel in (one, two)}
        assert len(ids) == 2
        assert all(20_000 <= int(uid) < 60_000 for uid in ids)


@pytest.mark.full
async def test_no_descriptor_is_left_open(backend, sandboxed_kernel):
    async with sandboxed_kernel(backend):
        pass
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        async with sandboxed_kernel(backend):
            pass
    await wait_until(lambda: len(os.listdir("/proc/self/fd")) <= before)


@pytest.mark.quick("bwrap")
async def test_a_kernel_that_cannot_start_reports_the_reason(backend):
    isolation = await choose_or_skip(backend)
    arguments = ("--IPKernelApp.transport=pigeon",)
    spec = KernelSpec(python=Path(sys.executable), key="00" * 16, arguments=arguments)
    with pytest.raises(IsolationError, match=r"(?s)the kernel ended with status 1.*pigeon"):
        await isolation.launch(spec)


async def test_auto_never_falls_back_to_no_isolation(monkeypatch):
    async def refuse(self, spec):
        raise IsolationError("not here", hint="do this")

    monkeypatch.setattr(selection, "_selections", {})
    for module, name in (
        ("bubblewrap.backend", "BwrapIsolation"),
        ("landlock", "LandlockIsolation"),
    ):
        monkeypatch.setattr(
            f"cci_plugins.pools.local.isolation.{module}.{name}.run_self_check", refuse
        )
    with pytest.raises(IsolationError, match=r"bwrap: not here; landlock: not here") as caught:
        await choose("auto", KernelSpec(python=Path(sys.executable), key=""))
    assert "CCI_ISOLATION=process" in str(caught.value.hint)
    assert "do this" in str(caught.value.hint)


async def test_auto_takes_the_strongest_backend_that_works(monkeypatch, caplog):
    async def refuse(self, spec):
        raise IsolationError("not here")

    monkeypatch.setattr(selection, "_selections", {})
    monkeypatch.setattr(
        "cci_plugins.pools.local.isolation.bubblewrap.backend.BwrapIsolation.run_self_check", refuse
    )
    spec = KernelSpec(python=Path(sys.executable), key="")
    with caplog.at_level("INFO", "cci_plugins"):
        try:
            isolation = await choose("auto", spec)
        except IsolationError as error:
            pytest.skip(str(error))
    assert isolation.name == "landlock"
    assert isolation.limitations
    assert "bwrap: not here" in caplog.text
    assert isolation.describe() in caplog.text
    assert await choose("auto", spec) is isolation


@pytest.mark.skipif(shutil.which("bwrap") is None, reason="needs bubblewrap")
async def test_a_self_check_that_ends_before_it_is_looked_at_passes(monkeypatch):
    from cci_plugins.pools.local.isolation.bubblewrap.backend import BwrapIsolation
    from cci_plugins.pools.local.isolation.bubblewrap.sandbox import BwrapSandbox

    start = BwrapSandbox.start

    async def start_on_a_busy_machine(sandbox, *arguments):
        await start(sandbox, *arguments)
        await sandbox.child.wait()

    monkeypatch.setattr(BwrapSandbox, "start", start_on_a_busy_machine)
    spec = KernelSpec(python=Path(sys.executable), key="00" * 16)
    with anyio.fail_after(60):
        await BwrapIsolation(SandboxLimits()).run_self_check(spec)


async def test_a_backend_of_another_system_or_an_unknown_name_is_refused():
    spec = KernelSpec(python=Path(sys.executable), key="")
    with pytest.raises(IsolationError, match="is not available on linux"):
        await choose("seatbelt", spec)
    with pytest.raises(ConfigurationError, match="unknown isolation"):
        await choose("paper", spec)


async def test_an_interpreter_without_a_kernel_is_refused(tmp_path):
    bare = tmp_path / "python"
    bare.write_text('#!/bin/sh\necho \'["/x", ["/usr"], false, []]\'\n')
    bare.chmod(0o755)
    with pytest.raises(ConfigurationError, match="has no ipykernel"):
        await choose("process", KernelSpec(python=bare, key=""))
    with pytest.raises(ConfigurationError, match="is not a Python interpreter"):
        await choose("process", KernelSpec(python=tmp_path / "none", key=""))

"""Tests of the embedded pool with real kernels: state, limits, losses and clean-up."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import subprocess
import sys
import textwrap
import time
from base64 import b64decode
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import anyio
import pytest

from cci_plugins import CodeInterpreter, SandboxLimits, Session
from cci_plugins.common import event_loop
from cci_plugins.errors import ConfigurationError, PoolExhaustedError
from cci_plugins.models import OutputEvent
from cci_plugins.pools.local.pool import LocalSessionPool

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

FULL = pytest.mark.full
LIMITS = SandboxLimits(
    memory_bytes=700 << 20, stream_characters=10_000, runaway_bytes=20 << 20, result_bytes=1 << 20
)


@pytest.fixture(scope="module")
async def interpreter(anyio_backend: str) -> AsyncIterator[CodeInterpreter]:
    pool = LocalSessionPool(preload=(), limits=LIMITS, max_sessions=30)
    async with CodeInterpreter(pool) as opened:
        yield opened


@pytest.fixture(scope="module")
def session(interpreter: CodeInterpreter) -> Session:
    """One session for every test that does not end it."""
    return interpreter.session("shared")


async def test_state_is_kept_in_a_conversation_and_not_shared(
    interpreter: CodeInterpreter, session: Session
) -> None:
    await session.run_code("x = 41")
    assert (await interpreter.session("shared").run_code("x + 1")).text == "42"
    other = await interpreter.session("user-0").run_code("x")
    assert other.error is not None
    assert other.error.name == "NameError"


@pytest.mark.quick("3")
@pytest.mark.parametrize("count", [3, 8])
async def test_conversations_run_at_once_and_do_not_mix(
    interpreter: CodeInterpreter, count: int
) -> None:
    running: set[str] = set()
    all_run = asyncio.Event()
    wait = "while not os.path.exists('go'): time.sleep(.01)"

    async def converse(key: str) -> str:
        session = interpreter.session(key)

        def handle_output(_: OutputEvent) -> None:
            running.add(key)
            if len(running) == count:
                all_run.set()

        code = f"import os, time; me = {key!r}; print(me)\n{wait}\nos.remove('go')"
        run = asyncio.create_task(session.run_code(code, on_output=handle_output))
        await all_run.wait()
        assert not run.done()
        await session.files.upload(b"", name="go")
        await run
        return (await session.run_code("print(me)")).stdout.strip()

    keys = [f"user-{number}" for number in range(count)]
    with anyio.fail_after(60):
        assert await asyncio.gather(*map(converse, keys)) == keys


async def test_output_streams_while_the_code_runs(session: Session) -> None:
    events: list[OutputEvent] = []
    first = asyncio.Event()

    def handle_output(event: OutputEvent) -> None:
        events.append(event)
        first.set()

    wait = "while not os.path.exists('go'): time.sleep(.01)"
    code = f"import os, time\nprint('one')\n{wait}\nprint('two')"
    with anyio.fail_after(30):
        run = asyncio.create_task(session.run_code(code, on_output=handle_output))
        await first.wait()
        assert not run.done()
        await session.files.upload(b"", name="go")
        execution = await run
    assert execution.stdout == "one\ntwo\n"
    assert "".join(event.text for event in events) == "one\ntwo\n"


PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNkYAAAAAYAAjCB0C8AAAAASUVORK5CYII="


async def test_rich_results_arrive_in_their_types(session: Session) -> None:
    code = f"""
        from IPython.display import HTML, JSON, SVG, Image, Latex, display
        from base64 import b64decode
        display(Image(b64decode({PNG!r})), HTML('<b>h</b>'), JSON({{'a': 1}}))
        display(SVG('<svg xmlns="http://www.w3.org/2000/svg"/>'), Latex('$x$'))
        6 * 7
    """
    execution = await session.run_code(textwrap.dedent(code))
    assert execution.error is None, execution.error
    png, html, data, svg, latex, answer = execution.results
    assert png.png == b64decode(PNG)
    assert html.html == "<b>h</b>"
    assert data.json == {"a": 1}
    assert svg.svg is not None
    assert latex.latex == "$x$"
    assert (answer.text, answer.is_main) == ("42", True)


@pytest.mark.full
async def test_a_plot_and_a_frame_arrive_in_one_run(session: Session) -> None:
    code = """
        import matplotlib.pyplot as plt, pandas as pd
        plt.plot([1, 2]); plt.show()
        pd.DataFrame({'a': range(60), 'b': 'x'})
    """
    execution = await session.run_code(textwrap.dedent(code))
    assert execution.error is None, execution.error
    png, frame = execution.results
    assert png.png is not None
    assert png.png.startswith(b"\x89PNG")
    assert frame.is_main
    assert frame.table is not None
    assert (frame.table.row_count, frame.table.column_count) == (60, 2)
    assert len(frame.table.rows) == 50
    assert [column.name for column in frame.table.columns] == ["index", "a", "b"]


async def test_changed_files_are_reported_once(session: Session) -> None:
    await session.files.upload(b"in", name="in.txt")
    write = "os.makedirs('sub')\nopen('sub/out.txt', 'w').write('x')"
    code = f"import os\n{write}\nos.symlink('/etc/passwd', 'link')"
    first = await session.run_code(code)
    assert [file.name for file in first.files] == ["sub/out.txt"]
    assert (await session.run_code("1")).files == ()
    assert await session.files.download("sub/out.txt") == b"x"


async def test_a_time_out_keeps_the_state_if_the_code_obeys_the_interrupt(
    session: Session,
) -> None:
    await session.run_code("x = 1")
    execution = await session.run_code("while True: pass", timeout=timedelta(seconds=0.5))
    assert execution.status == "timed_out"
    assert execution.state == "kept"
    assert execution.error is not None
    assert "was interrupted; variables and files are kept" in execution.error.message
    assert (await session.run_code("x")).text == "1"


async def test_code_that_cleans_up_after_an_interrupt_meets_the_next_one_later(
    session: Session,
) -> None:
    code = (
        "import time\ncaught = 0\nwhile caught < 3:\n    try: time.sleep(60)\n"
        "    except KeyboardInterrupt:\n        caught += 1\n        time.sleep(0.3)\nprint(caught)"
    )
    execution = await session.run_code(code, timeout=0.3)
    assert (execution.status, execution.state, execution.stdout) == ("timed_out", "kept", "3\n")


async def test_a_time_out_kills_the_session_if_the_code_ignores_the_interrupt(
    interpreter: CodeInterpreter,
) -> None:
    session = interpreter.session("lost")
    code = (
        "import signal, time\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "while True: time.sleep(0.1)"
    )
    execution = await session.run_code(code, timeout=timedelta(seconds=1))
    assert execution.status == "timed_out"
    assert execution.state == "lost"
    after = await session.run_code("'signal' in dir()")
    assert (after.text, after.state) == ("False", "kept")


@pytest.mark.quick("exit", "memory")
@pytest.mark.parametrize(
    ("code", "reason"),
    [
        pytest.param("import os; os._exit(3)", "exited with code 3", id="exit"),
        pytest.param("import ctypes; ctypes.string_at(0)", "SIGSEGV", id="crash"),
        pytest.param(
            "import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "killed", id="kill"
        ),
        pytest.param(
            "import time\nkeep = [bytearray(200 << 20) for _ in range(4)]\ntime.sleep(30)",
            "its limit is 700 MiB",
            id="memory",
        ),
    ],
)
async def test_the_death_of_a_kernel_is_reported_at_once_and_the_kernel_replaced(
    interpreter: CodeInterpreter, code: str, reason: str
) -> None:
    session = interpreter.session("lost")
    with anyio.fail_after(25):
        execution = await session.run_code(code)
        assert execution.status == "died"
        assert execution.state == "lost"
        assert execution.error is not None
        assert reason in execution.error.message
        assert (await session.run_code("1 + 1")).text == "2"


async def test_the_death_of_a_kernel_between_two_calls_is_reported_as_a_loss(
    interpreter: CodeInterpreter,
) -> None:
    session = interpreter.session("lost")
    await session.files.upload(b"1", name="data.csv")
    code = "def end():\n    while not os.path.exists('go'): time.sleep(.01)\n    os._exit(1)\n"
    await session.run_code(
        f"import os, threading, time\n{code}threading.Thread(target=end).start()"
    )
    pool: Any = interpreter._host.pool
    record = pool._sessions[session.id]
    record.kernel.sandbox.folder.write("go", b"")
    with anyio.fail_after(20):
        while record.kernel is not None and record.kernel.is_alive:
            await anyio.sleep(0.02)
        execution = await session.run_code("open('data.csv').read()")
    assert (execution.state, execution.text) == ("lost", "'1'")
    assert any("replaced" in note for note in execution.notes)
    assert "uploaded again: data.csv" in execution.notes


async def test_a_runaway_print_is_stopped_and_bounded(session: Session) -> None:
    with anyio.fail_after(60):
        execution = await session.run_code("while True: print('x' * 10_000)")
    assert execution.error is not None
    assert execution.error.name == "OutputLimitExceeded"
    assert execution.dropped_characters > 10 << 20
    assert len(execution.stdout) < 11_000


@pytest.mark.full
async def test_a_tight_print_loop_does_not_fail_because_of_the_sending_thread() -> None:
    wide = SandboxLimits(stream_characters=100_000, runaway_bytes=200 << 20)
    async with CodeInterpreter(LocalSessionPool(preload=(), limits=wide)) as interpreter:
        for _ in range(5):
            execution = await interpreter.run_code("for n in range(300_000): print(n)")
            assert execution.error is None


async def test_one_huge_print_is_cut_but_not_fatal(session: Session) -> None:
    execution = await session.run_code("print('a' + 'x' * 15_000_000 + 'z')")
    assert execution.status == "succeeded"
    assert execution.stdout.startswith("ax")
    assert execution.stdout.endswith("xz\n")
    assert execution.dropped_characters > 14_000_000


async def test_control_characters_and_emoji_are_kept(session: Session) -> None:
    execution = await session.run_code(r"print('\U0001f40d \x00\x07\x1b[31m \ud800')")
    assert execution.stdout == "\U0001f40d \x00\x07\x1b[31m \\ud800\n"


async def test_output_of_child_processes_is_captured(session: Session) -> None:
    execution = await session.run_code("import subprocess; subprocess.run(['echo', 'child'])")
    assert "child" in execution.stdout + (await session.run_code("1")).stdout


async def test_a_cancelled_call_interrupts_the_code(session: Session) -> None:
    await session.run_code("x = 1")
    started = asyncio.Event()
    run = asyncio.create_task(
        session.run_code("print('go')\nwhile True: pass", on_output=lambda _: started.set())
    )
    with anyio.fail_after(20):
        await started.wait()
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run
        assert (await session.run_code("x")).text == "1"


async def test_the_pool_rejects_more_sessions_than_its_limit() -> None:
    async with CodeInterpreter(LocalSessionPool(max_sessions=1, ready_sessions=0)) as interpreter:
        await interpreter.session("a").run_code("1")
        with pytest.raises(PoolExhaustedError) as caught:
            await interpreter.session("b").run_code("1")
        assert caught.value.retryable
        assert caught.value.retry_after is not None
        assert 0 < caught.value.retry_after <= 1800
        await interpreter.session("a").delete()
        assert (await interpreter.session("b").run_code("1 + 1")).text == "2"


async def test_an_idle_session_ends_and_the_next_call_reports_it() -> None:
    pool = LocalSessionPool(cooldown=timedelta(seconds=0.5), ready_sessions=0)
    async with CodeInterpreter(pool) as interpreter:
        session = interpreter.session("a")
        await session.run_code("x = 1")
        with anyio.fail_after(20):
            while await pool.list_sessions():
                await anyio.sleep(0.05)
        execution = await session.run_code("'x' in dir()")
    assert (execution.text, execution.state) == ("False", "lost")
    assert "not used for 0.5 s" in execution.notes[0]


async def test_a_host_with_thousands_of_descriptors_can_end_its_sessions(
    interpreter: CodeInterpreter,
) -> None:
    resource = pytest.importorskip("resource")
    if resource.getrlimit(resource.RLIMIT_NOFILE)[0] < 2048:
        pytest.skip("this host cannot open so many files")
    held = [os.open(os.devnull, os.O_RDONLY) for _ in range(1100)]
    try:
        session = interpreter.session("descriptors")
        assert (await session.run_code("1 + 1")).text == "2"
        await session.delete()
    finally:
        for descriptor in held:
            os.close(descriptor)


@pytest.mark.full
async def test_the_isolation_backend_is_named_by_the_execution_and_the_pool() -> None:
    pool = LocalSessionPool(isolation="process", ready_sessions=0)
    async with CodeInterpreter(pool) as interpreter:
        assert (await interpreter.run_code("1")).isolation == "process"
        assert "NONE" in pool.capabilities.isolation


def test_an_unknown_interpreter_raises_an_error_with_its_path(tmp_path: Path) -> None:
    async def run() -> None:
        pool = LocalSessionPool(python=tmp_path / "missing", ready_sessions=0)
        async with CodeInterpreter(pool) as interpreter:
            await interpreter.run_code("1")

    with pytest.raises((ConfigurationError, Exception)) as caught:
        asyncio.run(run())
    assert "missing" in str(caught.value)


ENDINGS = {
    "return": "",
    "exception": "raise SystemExit(3)",
    "exit": "import os; os._exit(0)",
    "kill": "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
}


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.quick("auto")
@pytest.mark.parametrize("isolation", ["auto", "landlock", "process"])
@pytest.mark.parametrize(
    "ending", [pytest.param(each, marks=() if each == "kill" else FULL) for each in ENDINGS]
)
def test_nothing_outlives_the_app(ending: str, isolation: str, tmp_path: Path) -> None:
    child = f"[sys.executable, '-c', 'import time; time.sleep(300)', 'cci-mark-{tmp_path.name}']"
    code = f"import subprocess, sys; subprocess.Popen({child}); 6 * 7"
    script = f"""
        from cci_plugins.pools.local.pool import LocalSessionPool
        from cci_plugins.sync import CodeInterpreter
        pool = LocalSessionPool(isolation={isolation!r}, preload=(), ready_sessions=0)
        interpreter = CodeInterpreter(pool)  # no spare kernel is half started when the app ends
        print(interpreter.run_code({code!r}).text, flush=True)
        {ENDINGS[ending]}
    """
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    app = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env=environment,
    )
    assert "42" in app.stdout, app.stderr
    if ending == "kill":
        assert app.returncode == -signal.SIGKILL
    deadline = time.monotonic() + 30
    while list_leftovers(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert list_leftovers(tmp_path) == []


def list_leftovers(folder: Path) -> list[str]:
    """List processes whose command names the folder or its mark, and entries of the folder."""
    mark = folder.name.encode()
    found = [str(path) for path in folder.iterdir()]
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                command = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if b"cci-mark-" + mark in command or bytes(folder) in command:
                found.append(command.decode(errors="replace"))
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
async def test_an_ended_session_leaves_no_descriptor_socket_or_task() -> None:
    async def count() -> tuple[int, int]:
        async def count_tasks() -> int:
            return len(asyncio.all_tasks())

        return count_descriptors(), await event_loop.dispatch(count_tasks)

    gc.collect()  # what earlier tests left is not counted
    async with CodeInterpreter(LocalSessionPool(preload=(), ready_sessions=0)) as interpreter:
        counts = []
        for number in range(3):
            session = interpreter.session(f"user-{number}")
            await session.run_code("1")
            await session.delete()
            counts.append(await count())
            with anyio.move_on_after(20):  # what ends a moment later is not left
                while any(now > before for now, before in zip(counts[-1], counts[0], strict=True)):
                    await anyio.sleep(0.1)
                    counts[-1] = await count()
    descriptors, tasks = zip(*counts, strict=True)
    assert max(descriptors) == descriptors[0], "an earlier test may still close some"
    assert max(tasks) == tasks[0]


def count_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))

"""Environment variables, restart, interrupt and usage of sessions, with real kernels."""

from __future__ import annotations

import logging
import shutil
import sys
from collections.abc import AsyncIterator

import anyio
import pytest

from cci_plugins import CodeInterpreter, Execution, LocalSessionPool, Secret, Session

if sys.platform != "linux":
    pytest.skip("these backends exist on Linux only", allow_module_level=True)

pytestmark = [pytest.mark.anyio, pytest.mark.slow]
TOKEN = "tok-planted-9f8e7d6c5b4a"
SHOW = """import os, subprocess, sys, time
child = [sys.executable, '-c', "import os; print(os.environ.get('NAME'))"]
print(os.environ.get('NAME'), subprocess.run(child, capture_output=True, text=True).stdout.strip())
"""


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module", params=["bwrap", "landlock"])
async def interpreter(request: pytest.FixtureRequest) -> AsyncIterator[CodeInterpreter]:
    if request.param == "bwrap" and shutil.which("bwrap") is None:
        pytest.skip("bubblewrap is not installed")
    pool = LocalSessionPool(
        isolation=request.param,
        ready_sessions=1,
        preload=(),
        environment={"TZ": "Europe/Berlin", "POOL_TOKEN": Secret(f"{TOKEN}-pool")},
    )
    async with CodeInterpreter(pool) as interpreter:
        yield interpreter


async def show(session: Session, name: str) -> str:
    execution = await session.run_code(SHOW.replace("NAME", name))
    assert execution.status == "succeeded", execution
    return execution.stdout.strip()


@pytest.mark.quick("bwrap")
async def test_the_code_and_its_child_processes_see_the_variables(
    interpreter: CodeInterpreter, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    session = interpreter.session("env", env={"COLOUR": "blue", "TOKEN": Secret(TOKEN)})
    assert await show(session, "COLOUR") == "blue blue"
    assert await show(session, "TZ") == "Europe/Berlin Europe/Berlin"
    execution = await session.run_code("time.tzname[0], len(os.environ['TOKEN'])")
    assert execution.text == f"('CET', {len(TOKEN)})"

    events: list[str] = []
    execution = await session.run_code(
        "print(os.environ['TOKEN'])\nprint(os.environ['POOL_TOKEN'], file=sys.stderr)\n"
        "for c in os.environ['TOKEN']: print(c, end='', flush=True)\n"
        "raise ValueError(os.environ['TOKEN'])",
        on_output=lambda event: events.append(event.text),
    )
    failed = await session.run_code("os.environ['TOKEN']")
    shown = f"{execution!r}{execution}{failed.results}{events}{caplog.text}{session.notebook()}"
    shown += f"{execution.stdout}{execution.stderr}{execution.error}{vars(session._handle)}"
    assert TOKEN not in shown
    assert TOKEN not in repr(vars(interpreter)) + repr(vars(interpreter._host.pool))

    assert (await session.run_code("os.environ['COLOUR'] = 'red'")).error is None
    assert await show(session, "COLOUR") == "red red"  # what the code sets stays
    await session.run_code("os._exit(3)")
    assert await show(session, "COLOUR") == "blue blue"  # a replacement gets them again
    interpreter.session("env", env={"OTHER": "1", "LD_PRELOAD": "/nowhere.so"})
    assert await show(session, "COLOUR") == "None None"
    assert (await show(session, "OTHER")).startswith("1 1")
    assert await show(interpreter.session("another"), "OTHER") == "None None"
    await session.delete()


@pytest.mark.quick("bwrap")
async def test_a_restart_keeps_files_and_variables_of_the_environment_only(
    interpreter: CodeInterpreter,
) -> None:
    session = interpreter.session("restart", env={"COLOUR": "blue"})
    await session.restart()  # of a session that has not begun
    await session.files.upload(b"1,2\n", name="in.csv")
    before = await session.run_code(
        "import os\nx = 1\nos.makedirs('a/b')\nopen('a/b/out.txt', 'w').write('made')\n"
        "open('in.csv', 'a').write('3,4')\nopen(b'odd\\n\\xff\\\\', 'w').write('odd')\n"
        "os.chmod('a/b/out.txt', 0o755)\nos.symlink('in.csv', 'link')\n"
        "print(oct(os.stat('a/b/out.txt').st_mode)[-3:])"  # landlock allows no chmod
    )
    assert before.usage is not None
    await session.restart()
    execution = await session.run_code(
        "import os\nprint('x' in dir(), open('in.csv').read(), open('a/b/out.txt').read(), "
        "os.environ['COLOUR'], open(b'odd\\n\\xff\\\\').read(), "
        "oct(os.stat('a/b/out.txt').st_mode)[-3:])"
    )
    assert execution.stdout == f"False 1,2\n3,4 made blue odd {before.stdout}"
    assert execution.notes[-1].startswith("the session was restarted")
    assert (execution.state, execution.files) == ("kept", ())
    assert execution.instance not in {"", before.instance}
    assert (await session.run_code("1")).notes == ()
    await session.delete()


@pytest.mark.quick("bwrap")
async def test_a_restart_ends_code_that_runs(interpreter: CodeInterpreter) -> None:
    session = interpreter.session("busy")
    stubborn = (
        "import time\nopen('kept.txt', 'w').write('kept')\nprint('go', flush=True)\n"
        "while True:\n    try:\n        while True: time.sleep(0.1)\n"
        "    except BaseException: pass"
    )
    execution = await run_until_started(session, stubborn, session.restart)
    assert (execution.status, execution.state) == ("died", "lost")
    assert execution.error is not None
    assert "the application restarted it; only files are kept" in execution.error.message
    after = await session.run_code("open('kept.txt').read()")
    assert (after.text, after.status) == ("'kept'", "succeeded")
    await session.delete()


@pytest.mark.quick("bwrap")
async def test_an_interrupt_stops_the_run_and_keeps_the_state(interpreter: CodeInterpreter) -> None:
    session = interpreter.session("interrupt")
    assert await session.interrupt() is False
    await session.run_code("x = 41")
    assert await session.interrupt() is False
    execution = await run_until_started(
        session, "import time\nprint('go', flush=True)\ntime.sleep(60)", session.interrupt
    )
    assert (execution.status, execution.state) == ("failed", "kept")
    assert execution.error is not None
    assert execution.error.name == "KeyboardInterrupt"
    assert execution.stdout == "go\n"
    assert (await session.run_code("x + 1")).text == "42"
    await session.delete()


@pytest.mark.quick("bwrap")
async def test_the_usage_of_a_run_counts_its_own_time_and_memory(
    interpreter: CodeInterpreter,
) -> None:
    session = interpreter.session("usage")
    code = "import time\nstart = time.process_time()\nwhile time.process_time() - start < 0.2: pass"
    busy = (await session.run_code(code)).usage
    assert busy is not None
    assert busy.cpu_seconds >= 0.2
    child = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {code!r}])"
    through_child = (await session.run_code(child)).usage
    assert through_child is not None
    assert through_child.cpu_seconds >= 0.2
    large = (await session.run_code("data = b'x' * 200_000_000\ndel data")).usage
    small = (await session.run_code("1")).usage
    assert large is not None
    assert small is not None
    assert large.peak_memory_bytes > 200_000_000
    assert small.cpu_seconds < busy.cpu_seconds
    await session.delete()


async def run_until_started(session: Session, code: str, act) -> Execution:  # type: ignore[no-untyped-def] # an async function
    """Run code that prints `go`, and call `act` then."""
    started = anyio.Event()
    found: list[Execution] = []

    async def run() -> None:
        found.append(await session.run_code(code, on_output=lambda _: started.set()))

    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run)
            await started.wait()
            await act()
    return found[0]

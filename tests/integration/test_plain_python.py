"""Ordinary Python in sessions of every kind: streams, exits, imports, event loops, interrupts."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta

import anyio
import pytest

from cci_plugins import CodeInterpreter
from cci_plugins.errors import ConfigurationError
from cci_plugins.models import Execution
from cci_plugins.pools.local import kernel as local_kernel
from cci_plugins.pools.local.pool import LocalSessionPool

from ._emulated import emulated

pytest.importorskip("mcp")
pytestmark = [
    pytest.mark.anyio,
    pytest.mark.slow,
    pytest.mark.quick("embedded", "managed-foreign-kernel", "bwrap"),
]

Run = Callable[..., Awaitable[Execution]]
POOLS = ["embedded", "landlock", "managed", "managed-foreign-kernel", "custom"]


NOTHING = "def install(*_): pass\ninstall_tools = install_environment = install_usage = install"


@asynccontextmanager
async def session_of(kind: str):
    """Open a pool of a kind and yield a function that runs code in one session."""
    backend = "landlock" if kind == "landlock" else "auto"
    local = LocalSessionPool(preload=(), ready_sessions=0, isolation=backend)  # type: ignore[arg-type] # from the list

    async def start(pool):
        async def run(code: str, seconds: float = 30) -> Execution:
            with anyio.fail_after(60):
                return await pool.execute("session", code, timeout=timedelta(seconds=seconds))

        with pytest.MonkeyPatch.context() as patch:
            if kind == "managed-foreign-kernel":  # a kernel that is not ours: only the agent helps
                patch.setattr(local_kernel, "build_session_source", lambda *_: NOTHING)
            await run("1")
        return run

    if kind in {"embedded", "landlock"}:
        async with local as pool:
            yield await start(pool)
    else:
        options = {"kind": kind.partition("-")[0]}
        async with emulated(local, **options) as azure, azure.client() as pool:
            yield await start(pool)


@pytest.fixture(scope="module", params=POOLS)
async def run(anyio_backend: str, request: pytest.FixtureRequest):
    """Run code in one session for all tests. None of them ends it."""
    async with session_of(request.param) as opened:
        yield opened


@pytest.fixture(scope="module")
async def interpreter(anyio_backend: str):
    async with CodeInterpreter(LocalSessionPool(preload=(), ready_sessions=0)) as opened:
        yield opened


def describe(execution: Execution) -> tuple[str, str, str]:
    name = "" if execution.error is None else execution.error.name
    return execution.status, name, execution.stdout


async def test_redirected_and_closed_streams_are_put_back_before_the_next_run(run: Run) -> None:
    redirect = "import io, sys\nsys.stdout = io.StringIO()\nprint('hidden')\n"
    restored = await run(f"{redirect}sys.stdout = sys.__stdout__\nprint('shown')")
    assert describe(restored) == ("succeeded", "", "shown\n")
    assert (await run(f"{redirect}1/0")).status == "failed"
    assert (await run("print('again')")).stdout == "again\n"
    closed = await run("sys.stdout.close()\nprint('lost')")
    assert closed.error is not None
    assert closed.error.message == "I/O operation on closed file."
    assert (await run("sys.stderr.close()")).status == "succeeded"
    terminal = await run(
        "sys.stdout.reconfigure(encoding='utf-8', line_buffering=True)\n"
        "_ = sys.stdout.buffer.write('é\\n'.encode())\n"
        "print(sys.stdout.fileno(), sys.stderr.fileno(), sys.stdout.closed)"
    )
    assert describe(terminal) == ("succeeded", "", "é\n1 2 False\n")


async def test_exits_end_the_cell_and_keep_the_session(run: Run) -> None:
    await run("import sys; x = 41")
    for ending in ("exit()", "quit()", "sys.exit()", "sys.exit(0)", "raise SystemExit"):
        execution = await run(f"{ending}\nprint('went on')")
        assert describe(execution) == ("succeeded", "", ""), ending
    assert describe(await run("exit")) == ("succeeded", "", "")
    failed = await run("sys.exit(3)")
    assert failed.error is not None
    assert (failed.error.name, failed.error.message) == ("SystemExit", "3")
    text = await run("sys.exit('3')")
    assert text.error is not None
    assert text.error.message == "'3'"
    await run("open('ends.py', 'w').write('def end(): exit(2)')")
    module = await run("import ends\nends.end()")
    assert module.error is not None
    assert module.error.message == "2"
    task = "import asyncio\nasync def end(): sys.exit(4)\nt = asyncio.create_task(end())\n"
    assert (await run(f"{task}await asyncio.sleep(0.05)")).state == "kept"
    assert (await run("x + 1")).text == "42"


async def test_arguments_and_imports_are_those_of_a_script(run: Run) -> None:
    assert (await run("import sys; sys.argv")).text == "['']"
    await run("open('helper.py', 'w').write('def double(x): return 2 * x')")
    assert (await run("import helper; helper.double(21)")).text == "42"
    changed = await run("2")
    assert changed.files == (), "an import must not report byte code as a file of the user"
    script = 'def f():\n    raise ValueError(sys.argv)\nf()\n# cci: script ["dir/a.py", "--n", "4"]'
    failed = await run(script)
    assert failed.error is not None
    assert failed.error.message == "['dir/a.py', '--n', '4']"
    assert "dir/a.py:2" in failed.error.traceback
    assert "raise ValueError(sys.argv)" in failed.error.traceback
    assert "# cci: script" not in failed.error.traceback
    assert (await run("(sys.argv, '__file__' in dir())")).text == "([''], False)"
    await run("sys.argv = ['prog', '--n', '5']")
    assert (await run("sys.argv")).text == "['prog', '--n', '5']"


async def test_event_loops_can_be_run_where_code_also_awaits(run: Run) -> None:
    define = "import asyncio\nasync def main():\n    await asyncio.sleep(0.01)\n    return 42\n"
    execution = await run(
        f"{define}print(asyncio.run(main()), await main(), asyncio.run(main()))\n"
        "print(asyncio.get_event_loop().run_until_complete(main()))"
    )
    assert describe(execution) == ("succeeded", "", "42 42 42\n42\n")
    plain = await run(
        "print(asyncio.run(main()), asyncio.new_event_loop().run_until_complete(main()))\n"
        "task = asyncio.create_task(main())"
    )
    assert describe(plain) == ("succeeded", "", "42 42\n")
    assert (await run("await task")).text == "42"
    assert (await run("import anyio; anyio.run(main)")).text == "42"


WAITING = [
    "await asyncio.sleep(60)",
    "await asyncio.sleep(0)\nwhile True: pass",
    "asyncio.run(asyncio.sleep(60))",
    "import os; os.system('sleep 60')",
    "import subprocess; subprocess.run(['sleep', '60'])",
    "import threading; threading.Event().wait()",
]


@pytest.mark.quick("embedded", "managed-foreign-kernel")
async def test_a_time_out_keeps_the_session_wherever_a_signal_reaches_the_code(run: Run) -> None:
    await run("import asyncio; x = 42")
    for code in WAITING:
        execution = await run(code, 0.5)
        assert (execution.status, execution.state) == ("timed_out", "kept"), code
        assert (await run("x")).text == "42", code


async def test_lone_surrogates_are_refused_in_code_and_escaped_elsewhere(run: Run) -> None:
    with pytest.raises(ConfigurationError, match=r"lone surrogate '\\ud83d' in line 2"):
        await run("print(1)\nprint('\ud83d')")
    raised = await run(r"raise ValueError('half \ud83d')")
    assert raised.error is not None
    assert (raised.error.name, raised.error.message) == ("ValueError", r"half \ud83d")
    printed = await run(
        r"from IPython.display import display; print('\ud83d'); "
        r"display({'text/plain': '\ud83d'}, raw=True); '\ud83d'"
    )
    assert printed.stdout == "\\ud83d\n"
    assert [result.text for result in printed.results] == [r"\ud83d", r"'\ud83d'"]


async def print_between_two_runs(run: Run) -> Execution:
    """Return the second of two runs. A busy machine may print during the first, or not yet."""
    with anyio.fail_after(60):
        while True:
            first = await run("threading.Timer(0.2, print, ['x' * 10_000_000]).start()")
            await anyio.sleep(1)
            second = await run("print('now')")
            if first.stdout == "" and second.stdout != "now\n":
                return second


async def test_output_of_the_background_comes_with_the_next_run(run: Run) -> None:
    define = (
        "import asyncio, threading, time\ngo = threading.Event()\n"
        "def thread():\n    go.wait()\n    time.sleep(0.2)\n    print('from a thread')\n"
        "async def task():\n    while not go.is_set(): await asyncio.sleep(0.05)\n"
        "    await asyncio.sleep(0.2)\n    print('from a task')\n"
    )
    start = "threading.Thread(target=thread).start(); t = asyncio.create_task(task())"
    assert (await run(define + start)).stdout == ""
    found = (await run("go.set()")).stdout
    with anyio.fail_after(30):
        while not ("from a thread" in found and "from a task" in found):
            await anyio.sleep(0.5)
            execution = await run("print('now')")
            assert execution.stdout.endswith("now\n")
            found += execution.stdout
    late = await print_between_two_runs(run)
    assert late.stdout.startswith("xxx")
    assert len(late.stdout) < 1_000_000
    assert any("threads or tasks of earlier runs" in note for note in late.notes)


@pytest.mark.quick("embedded")
async def test_a_long_traceback_a_debugger_a_pager_and_a_wide_frame_behave(run: Run) -> None:
    deep = await run("def f(n): return f(n + 1)\nf(0)")
    assert deep.error is not None
    assert deep.error.name == "RecursionError"
    assert "of the frames are left out" in deep.error.traceback
    for code in ("import pdb; pdb.set_trace(); 1", "breakpoint(); 1"):
        stopped = await run(code)
        assert stopped.error is not None
        assert stopped.error.name == "EOFError"
        assert "the debugger is not available here" in stopped.error.message
    assert "Return the number of items" in (await run("len?")).stdout
    frame = await run(
        "import pandas as pd\n"
        "df = pd.DataFrame([range(40)], columns=[f'c{i}' for i in range(40)])\n"
        "print(df)\ndf"
    )
    assert "c19" in frame.stdout
    assert "c19" in str(frame.results[0].text)


@pytest.mark.full
async def test_figures_are_shown_without_pyplot_and_by_any_backend(run: Run) -> None:
    figure = await run(
        "from matplotlib.figure import Figure\nfigure = Figure()\n_ = figure.subplots()\nfigure"
    )
    assert figure.results[0].png is not None
    magic = "%matplotlib notebook\nimport matplotlib.pyplot as plt\n_ = plt.plot([1])\nplt.show()"
    plotted = await run(magic)
    assert plotted.results[0].png is not None


@pytest.mark.parametrize("run", ["embedded", "landlock"], indirect=True)
async def test_an_allocation_beyond_the_memory_limit_raises_memory_error(run: Run) -> None:
    execution = await run("block = bytearray(3 << 30)")
    assert execution.error is not None
    assert (execution.error.name, execution.state) == ("MemoryError", "kept")


@pytest.mark.full
async def test_two_hundred_cancelled_short_runs_lose_no_session() -> None:
    pool = LocalSessionPool(preload=(), ready_sessions=0)
    codes = ("sum(range(100))", "print('x')", "1/0", "for i in range(50): print(i)")
    generator = random.Random(15)
    async with CodeInterpreter(pool) as interpreter:
        session = interpreter.session("a")
        first = await session.run_code("x = 42")
        for _ in range(200):
            with anyio.move_on_after(generator.random() * 0.02):
                await session.run_code(generator.choice(codes))
            with anyio.fail_after(30):
                after = await session.run_code("x")
            assert after.notes == ()  # the reason, if the session was lost
            assert (after.text, after.instance) == ("42", first.instance)


async def test_a_session_that_does_not_stop_is_reported_by_its_reason(
    interpreter: CodeInterpreter,
) -> None:
    code = "import time\nwhile True:\n    try: time.sleep(9)\n    except BaseException: pass"
    session = interpreter.session("a")
    await session.run_code("1")
    with anyio.move_on_after(1):
        await session.run_code(code)
    after = await session.run_code("1")
    assert any("did not stop when interrupted" in note for note in after.notes)


async def test_a_missing_network_is_reported_where_the_pool_knows_it(
    interpreter: CodeInterpreter,
) -> None:
    from cci_plugins.tools import execute_code

    description = execute_code.build_description(execute_code.DEFAULT_OPTIONS, interpreter)
    assert "neither network nor pip" in description
    session = interpreter.session("a")
    missing = await session.run_code("import not_installed_here")
    assert any("not_installed_here is not installed" in note for note in missing.notes)
    failed = await session.run_code("import urllib.request as r\nr.urlopen('http://example.com')")
    assert any("has no network" in note for note in failed.notes)
    assert (await session.run_code("1/0")).notes == ()
    unknown = execute_code.build_description(execute_code.DEFAULT_OPTIONS, None)
    assert "network" not in unknown


SHADOWS = (
    "ssl",
    "json",
    "token",
    "base64",
    "zlib",
    "asyncio",
    "secrets",
    "shutil",
    "http",
    "codecs",
)


@pytest.mark.quick("managed-foreign-kernel")
@pytest.mark.parametrize("kind", ["embedded", "managed-foreign-kernel"])
async def test_files_that_shadow_the_standard_library_break_nothing_of_ours(kind: str) -> None:
    async with session_of(kind) as run:
        write = f"for name in {SHADOWS}: _ = open(name + '.py', 'w').write('1/0')"
        assert (await run(write)).status == "succeeded"
        assert (await run("1 + 1")).text == "2"
        table = await run("import pandas as pd\npd.DataFrame({'a': [1]})")
        assert table.results[0].table is not None
        assert (await run("1/0")).status == "failed"

"""First results, and a call while other sessions print much."""

from __future__ import annotations

import asyncio
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable
from pathlib import Path

from cci_plugins import CodeInterpreter, LocalSessionPool, Session

from .embedded import start_bare_kernel
from .measure import Call, Ratio, in_turns

PRINTERS = 16
PRINT = "print('x' * 20_000_000)"
COMPUTE = "import time\nend = time.monotonic() + 3\nwhile time.monotonic() < end: pass"
MAX_CALL_MILLISECONDS = 1000


async def measure() -> list[Ratio]:
    return [
        *await measure_bystander(),
        await measure_new_session(),
        await measure_new_process(),
    ]


async def measure_bystander() -> list[Ratio]:
    """Compare `1+1` while sixteen other sessions print 20 MB each with `1+1` alone.

    Their processes need the processors, whatever they do. So it is also compared with `1+1` while
    sixteen sessions compute and print nothing.
    """
    pool = LocalSessionPool(ready_sessions=0, preload=())
    async with CodeInterpreter(pool) as interpreter:
        bystander = interpreter.session("bystander")
        printers = [interpreter.session(f"printer-{number}") for number in range(PRINTERS)]
        await asyncio.gather(*(one.run_code("1") for one in (bystander, *printers)))
        quiet = await _time_calls(bystander, asyncio.sleep(2))
        busy, computing = [
            await _time_calls(bystander, asyncio.gather(*(one.run_code(code) for one in printers)))
            for code in (PRINT, COMPUTE)
        ]
    name = f"1+1 while {PRINTERS} sessions print 20 MB each"
    ours, theirs = statistics.median(busy), statistics.median(quiet)
    slowest = Ratio("... the slowest such call", max(busy), MAX_CALL_MILLISECONDS, "its bound", 1.0)
    floor = statistics.median(computing)
    return [
        Ratio(name, ours, theirs, "the same alone", 2.0),
        Ratio("... the same call", ours, floor, "while they compute and print nothing", 1.5),
        slowest,
    ]


async def measure_new_session() -> Ratio:
    """Compare the first result of a session without a ready kernel with a new `ipykernel`."""

    async def run_bare() -> None:
        manager = await start_bare_kernel()
        client = manager.client()
        client.start_channels()
        await client.wait_for_ready()
        await client.execute_interactive("1+1", output_hook=lambda _: None)
        client.stop_channels()
        await manager.shutdown_kernel(now=True)

    async with CodeInterpreter(LocalSessionPool(ready_sessions=0)) as interpreter:

        async def run_new() -> None:
            session = interpreter.session("new")
            assert (await session.run_code("1+1")).text == "2"
            await session.delete()

        ours, theirs = await in_turns(run_new, run_bare, rounds=9, warm=1)
    name = "first result in a new session, no ready kernel"
    return Ratio(name, ours, theirs, "bare ipykernel", 1.3)


async def measure_new_process() -> Ratio:
    """Compare `cci run` with `ipython -c`, each in a new process."""
    ours, theirs = await in_turns(
        _run("cci_plugins", "run", "print(1)"), _run("IPython", "-c", "print(1)"), rounds=9, warm=1
    )
    return Ratio("cci run 'print(1)'", ours, theirs, "ipython -c 'print(1)'", 2.0)


def _run(*arguments: str) -> Call:
    async def run() -> None:
        command = [sys.executable, "-m", *arguments]
        result = await asyncio.to_thread(
            subprocess.run, command, capture_output=True, text=True, check=True, cwd=Path.home()
        )
        assert result.stdout.strip() == "1"

    return run


async def _time_calls(session: Session, work: Awaitable[object]) -> list[float]:
    """Return the milliseconds of each call until the work has ended."""
    task, times = asyncio.ensure_future(work), []
    while not task.done():
        started = time.perf_counter()
        await session.run_code("1+1")
        times.append((time.perf_counter() - started) * 1000)
    await task
    return times

"""Comparison of the embedded pool with a bare Jupyter kernel."""

from __future__ import annotations

import asyncio
import statistics
import time
from datetime import timedelta

from jupyter_client.manager import AsyncKernelManager

from cci_plugins import CodeInterpreter, LocalSessionPool
from cci_plugins.langchain import CodeInterpreterTool

from .measure import Ratio, in_turns

IMPORTS = "import numpy, pandas, matplotlib.pyplot"


async def measure() -> list[Ratio]:
    return [await measure_round_trip(), await measure_first_result(), await measure_concurrency()]


async def start_bare_kernel() -> AsyncKernelManager:
    manager = AsyncKernelManager(kernel_name="python3", transport="ipc")
    await manager.start_kernel(extra_arguments=["--HistoryManager.enabled=False"])
    return manager


async def measure_round_trip() -> Ratio:
    """Compare `1+1` by the LangChain tool with `execute_interactive` of `jupyter_client`."""
    manager = await start_bare_kernel()
    client = manager.client()
    client.start_channels()
    await client.wait_for_ready()

    async def run_bare() -> None:
        await client.execute_interactive("1+1", output_hook=lambda _: None)

    async with CodeInterpreter(LocalSessionPool()) as interpreter:
        tool = CodeInterpreterTool(interpreter=interpreter)
        await tool.ainvoke({"code": "1"})
        await _wait_for_warm_kernel(interpreter)  # so that its imports are not measured

        async def call_tool() -> None:
            assert await tool.ainvoke({"code": "1+1"}) == "2"

        ours, theirs = await in_turns(call_tool, run_bare, rounds=200)
    client.stop_channels()
    await manager.shutdown_kernel(now=True)
    return Ratio("1+1 by CodeInterpreterTool.ainvoke", ours, theirs, "bare jupyter_client", 1.12)


async def measure_first_result() -> Ratio:
    """Compare the first result of a new session with a warm kernel and with a new `ipykernel`."""
    ours, theirs = [], []
    pool = LocalSessionPool(ready_sessions=1)
    async with CodeInterpreter(pool) as interpreter:
        for turn in range(5):
            started = time.perf_counter()
            manager = await start_bare_kernel()
            client = manager.client()
            client.start_channels()
            await client.wait_for_ready()
            await client.execute_interactive(f"{IMPORTS}\n1+1", output_hook=lambda _: None)
            theirs.append((time.perf_counter() - started) * 1000)
            client.stop_channels()
            await manager.shutdown_kernel(now=True)
            await _wait_for_warm_kernel(interpreter)
            started = time.perf_counter()
            await interpreter.session(f"new-{turn}").run_code(f"{IMPORTS}\n1+1")
            ours.append((time.perf_counter() - started) * 1000)
    return Ratio(
        "first result in a new session, ready kernel",
        statistics.median(ours),
        statistics.median(theirs),
        "cold ipykernel with the same imports",
        0.05,
    )


async def _wait_for_warm_kernel(interpreter: CodeInterpreter) -> None:
    pool = interpreter._host.pool
    await interpreter.start()
    while not pool._warm_pool.list_ready_kernels():  # type: ignore[attr-defined]
        await asyncio.sleep(0.05)


async def measure_concurrency(count: int = 16) -> Ratio:
    """Compare many sessions that each sleep half a second with one such session."""
    code = "import time; time.sleep(0.5)"
    async with CodeInterpreter(LocalSessionPool(ready_sessions=0, preload=())) as interpreter:
        sessions = [interpreter.session(f"user-{number}") for number in range(count)]
        await asyncio.gather(*(session.run_code("1") for session in sessions))
        started = time.perf_counter()
        await sessions[0].run_code(code)
        one = (time.perf_counter() - started) * 1000
        started = time.perf_counter()
        await asyncio.gather(*(session.run_code(code) for session in sessions))
        many = (time.perf_counter() - started) * 1000
    return Ratio(f"{count} sessions at once", many, one, "one session", 2.0)


async def measure_memory() -> str:
    """Return the memory of a session, for the notes below the table."""
    async with CodeInterpreter(LocalSessionPool(ready_sessions=0)) as interpreter:
        run = interpreter.session("plain").run_code
        await run("1", timeout=timedelta(seconds=30))
        pool = interpreter._host.pool
        kernel = next(iter(pool._sessions.values())).kernel  # type: ignore[attr-defined]
        plain = kernel.sandbox.measure_memory() >> 20
        await run(IMPORTS)
        full = kernel.sandbox.measure_memory() >> 20
        return f"Memory of a session: {plain} MiB, {full} MiB with {IMPORTS[7:]}"

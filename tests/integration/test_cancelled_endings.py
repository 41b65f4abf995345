"""What a cancelled call began to end comes to its end, and what others use stays."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import anyio
import pytest

from cci_plugins import CodeInterpreter, Execution, LocalSessionPool
from cci_plugins.common.limits import SandboxLimits
from cci_plugins.core.session_host import SessionHost
from cci_plugins.errors import PoolUnavailableError
from cci_plugins.pools.local.isolation import Isolation
from cci_plugins.pools.local.isolation.process import ProcessIsolation

from ._processes import list_children

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="lists processes of Linux"),
]

# Of the loop before the call is cancelled.
STEPS = {"few": (0, 2, 8), "many": (1, 3, 5, 13, 21, 34)}


@pytest.fixture
async def pool() -> AsyncIterator[LocalSessionPool]:
    async with LocalSessionPool(ready_sessions=0, preload=(), isolation="process") as opened:
        yield opened


async def cancel_after(steps: int, call: Coroutine[Any, Any, object]) -> None:
    """Cancel a call after some steps of the loop, and wait for its end."""
    task = asyncio.create_task(call)
    for _ in range(steps):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait((task,))


async def wait_ended(before: set[str]) -> None:
    with anyio.fail_after(30):
        while list_children() - before:
            await anyio.sleep(0.02)


async def test_a_cancelled_start_leaves_the_session_to_the_calls_that_wait_for_it(
    pool: LocalSessionPool,
) -> None:
    before = list_children()
    first = asyncio.create_task(pool.execute("shared", "1", timeout=30))
    second = asyncio.create_task(pool.execute("shared", "x = 41", timeout=30))
    while not list_children() - before:  # its Python starts
        await anyio.sleep(0.01)
    first.cancel()
    await asyncio.wait((first,))
    assert (await second).error is None
    assert [info.identifier for info in await pool.list_sessions()] == ["shared"]
    assert (await pool.execute("shared", "x + 1", timeout=30)).text == "42"
    await pool.aclose()
    await wait_ended(before)


async def test_a_start_that_fails_for_all_leaves_no_session(
    pool: LocalSessionPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object) -> None:
        await anyio.sleep(0.01)
        raise PoolUnavailableError("no Python")

    monkeypatch.setattr("cci_plugins.pools.local.pool.launch", fail)
    calls = [pool.execute("shared", "1", timeout=30) for _ in range(3)]
    ends = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(end) for end in ends] == [PoolUnavailableError] * 3
    assert await pool.list_sessions() == []


async def begin(pool: LocalSessionPool, code: str) -> asyncio.Task[Execution]:
    """Start code that prints something, and wait for that."""
    has_begun = asyncio.Event()
    run = pool.execute("s", code, timeout=60, on_output=lambda _: has_begun.set())
    task = asyncio.ensure_future(run)
    await has_begun.wait()
    return task


@pytest.mark.quick("few")
@pytest.mark.parametrize("which", STEPS)
@pytest.mark.parametrize(
    "codes", [[], ["print('on', flush=True)\ntime.sleep(60)"]], ids=["idle", "running"]
)
async def test_a_cancelled_deletion_ends_the_python(
    codes: list[str], which: str, pool: LocalSessionPool
) -> None:
    before = list_children()
    for steps in STEPS[which]:
        await pool.execute("s", "import time", timeout=30)
        runs = [await begin(pool, code) for code in codes]
        await cancel_after(steps, pool.delete_session("s"))
        if await pool.list_sessions():  # it was cancelled before its first step
            await pool.delete_session("s")
        await wait_ended(before)
        await asyncio.gather(*runs)


@pytest.mark.quick("few")
@pytest.mark.parametrize("which", STEPS)
async def test_a_cancelled_close_ends_every_python(which: str) -> None:
    before = list_children()
    for steps in STEPS[which]:
        pool = LocalSessionPool(ready_sessions=1, preload=(), isolation="process")
        await pool.execute("a", "1", timeout=30)
        await cancel_after(steps, pool.aclose())
        if steps == 0:
            await pool.aclose()
        await wait_ended(before)


def cancel_by_scope(interpreter: CodeInterpreter) -> Callable[[], Coroutine[Any, Any, None]]:
    async def close() -> None:
        with anyio.move_on_after(0.001):
            await interpreter.aclose()

    return close


def cancel_in_with(interpreter: CodeInterpreter) -> Callable[[], Coroutine[Any, Any, None]]:
    async def close() -> None:
        with anyio.CancelScope() as scope:
            async with interpreter:
                scope.cancel()

    return close


@pytest.mark.parametrize("how", [cancel_by_scope, cancel_in_with])
async def test_an_interpreter_that_is_closed_by_a_cancelled_caller_ends_its_processes(
    how: Callable[[CodeInterpreter], Callable[[], Coroutine[Any, Any, None]]],
) -> None:
    before = list_children()
    interpreter = CodeInterpreter(
        LocalSessionPool(ready_sessions=1, preload=(), isolation="process")
    )
    await interpreter.run_code("1")
    await how(interpreter)()
    await wait_ended(before)
    await interpreter.aclose()


async def test_a_part_that_cannot_be_closed_does_not_keep_the_others(
    pool: LocalSessionPool,
) -> None:
    before = list_children()
    await pool.execute("a", "1", timeout=30)
    host = SessionHost(pool)

    class Failing:
        async def aclose(self) -> None:
            raise PoolUnavailableError("no")

    host._companions.append(Failing())  # type: ignore[arg-type]
    with pytest.raises(PoolUnavailableError):
        await host.aclose()
    await wait_ended(before)


@pytest.mark.skipif(shutil.which("bwrap") is None, reason="bwrap is the first choice")
async def test_a_start_that_is_cancelled_while_its_first_python_ends_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before, has_chosen = list_children(), asyncio.Event()

    async def choose_another(*_: object) -> Isolation:
        has_chosen.set()
        return ProcessIsolation(SandboxLimits())

    pool = LocalSessionPool(ready_sessions=0, preload=())
    pool.expect_session()  # it is launched at once, by bwrap
    with monkeypatch.context() as patch:
        patch.setattr("cci_plugins.pools.local.pool.choose", choose_another)
        start = asyncio.create_task(pool.start())
        await has_chosen.wait()
        await cancel_after(3, asyncio.wait_for(start, None))
    await pool.start()
    await pool.aclose()
    await wait_ended(before)

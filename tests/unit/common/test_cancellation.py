"""Work that its caller's cancellation does not cut short, on event loops of their own."""

from __future__ import annotations

import asyncio
import threading

import anyio
import anyio.lowlevel
import pytest

from cci_plugins.common.cancellation import finish_in_thread, run_to_end

pytestmark = pytest.mark.anyio


class Work:
    """Work in steps. It notes its end."""

    def __init__(self, error: Exception | None = None) -> None:
        self.begun, self.may_end = asyncio.Event(), asyncio.Event()
        self.has_ended = False
        self._error = error

    async def do(self) -> str:
        self.begun.set()
        await self.may_end.wait()
        await asyncio.sleep(0)
        self.has_ended = True
        if self._error is not None:
            raise self._error
        return "done"


async def test_a_result_and_an_error_arrive() -> None:
    work, failing = Work(), Work(ValueError("no"))
    work.may_end.set()
    failing.may_end.set()
    assert await run_to_end(work.do()) == "done"
    with pytest.raises(ValueError, match="no"):
        await run_to_end(failing.do())


@pytest.mark.parametrize("error", [None, ValueError("no")])
async def test_a_cancelled_task_ends_after_the_work(error: Exception | None) -> None:
    work = Work(error)
    caller = asyncio.create_task(run_to_end(work.do()))
    await work.begun.wait()
    caller.cancel()
    await asyncio.sleep(0)
    assert not caller.done()
    work.may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert work.has_ended


async def test_a_cancelled_scope_ends_after_the_work() -> None:
    work = Work()
    with anyio.CancelScope() as scope:
        scope.cancel()
        asyncio.get_running_loop().call_later(0.01, work.may_end.set)
        assert await run_to_end(work.do()) == "done"
        await anyio.lowlevel.checkpoint()
        raise AssertionError("the scope does not cancel any more")
    assert work.has_ended


async def test_a_task_that_is_cancelled_again_and_again_ends_after_the_work() -> None:
    work, discarded = Work(), []
    caller = asyncio.create_task(run_to_end(work.do(), discard=discarded.append))
    for _ in range(5):
        await asyncio.sleep(0)
        caller.cancel()
    work.may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert work.has_ended
    assert discarded == ["done"]


async def test_a_cancelled_task_waits_for_its_thread_and_discards_what_that_returns() -> None:
    begun, may_end, discarded = threading.Event(), threading.Event(), []

    def work(number: int) -> int:
        begun.set()
        may_end.wait(20)
        return number

    caller = asyncio.create_task(finish_in_thread(work, 7, discard=discarded.append))
    while not begun.is_set():
        await asyncio.sleep(0.001)
    caller.cancel()
    await asyncio.sleep(0.01)
    assert not caller.done()
    may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert discarded == [7]
    assert await finish_in_thread(work, 8, discard=discarded.append) == 8
    assert discarded == [7]

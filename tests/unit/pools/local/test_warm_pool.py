"""The warm pool without processes: order, failures and the end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import anyio
import pytest

from cci_plugins.errors import IsolationError
from cci_plugins.pools.local import warm_pool
from cci_plugins.pools.local.warm_pool import WarmPool

pytestmark = pytest.mark.anyio


class Kernel(SimpleNamespace):
    """A kernel that only counts its ends."""

    __hash__ = object.__hash__

    def __init__(self, *, warm: bool) -> None:
        super().__init__(warm=warm, is_alive=True, ends=0)

    async def close(self) -> None:
        self.is_alive = False
        self.ends += 1


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Kernel]:
    monkeypatch.setattr(warm_pool, "Kernel", Kernel)
    return []


def starter(started: list[Kernel], *failures: Exception) -> Any:
    left = list(failures)

    async def start(*, warm: bool) -> Kernel:
        await asyncio.sleep(0)
        if left and warm:
            raise left.pop()
        started.append(Kernel(warm=warm))
        return started[-1]

    return start


async def wait_until(is_true: Callable[[], object]) -> None:
    with anyio.fail_after(20):
        while not is_true():
            await asyncio.sleep(0)


async def test_a_session_gets_a_warm_kernel_and_another_one_is_started(
    started: list[Kernel],
) -> None:
    pool = WarmPool(1, starter(started))
    pool.fill()
    pool.fill()
    kernel: Any = await pool.allocate()
    await wait_until(pool.list_ready_kernels)
    assert kernel.warm
    assert [each.warm for each in started] == [True, True]
    assert pool.list_ready_kernels() == started[1:]
    await pool.close()
    assert [each.ends for each in started] == [0, 1]


async def test_a_dead_or_failed_warm_kernel_is_replaced_by_a_fresh_one(
    started: list[Kernel],
) -> None:
    pool = WarmPool(2, starter(started, IsolationError("no")))
    pool.fill()
    await wait_until(lambda: all(task.done() for task in pool._tasks))
    started[0].is_alive = False
    kernel: Any = await pool.allocate()
    assert not kernel.warm
    assert started[0].ends == 1
    await pool.close()


async def test_a_cancelled_caller_leaves_the_kernel_for_the_next_one(
    started: list[Kernel],
) -> None:
    pool = WarmPool(1, starter(started))
    pool.fill()
    caller = asyncio.create_task(pool.allocate())
    await asyncio.sleep(0)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    kernel: Any = await pool.allocate()
    assert kernel is started[0]
    await pool.close()


async def test_closing_ends_the_kernel_that_a_caller_waits_for(started: list[Kernel]) -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def start(*, warm: bool) -> Kernel:
        if not warm:
            raise IsolationError("closed")
        begun.set()
        try:
            await go_on.wait()
        finally:
            started.append(Kernel(warm=warm))
        return started[-1]

    pool = WarmPool(1, start)
    pool.fill()
    callers = [asyncio.create_task(pool.allocate()) for _ in range(2)]
    await begun.wait()
    callers[0].cancel()  # puts its kernel back only while the pool is open
    closing = asyncio.create_task(pool.close())
    await asyncio.gather(*callers, closing, return_exceptions=True)
    assert callers[0].cancelled()
    assert isinstance(callers[1].exception(), IsolationError)
    assert pool.list_ready_kernels() == []
    assert len(started) == 1


async def test_a_caller_whose_pool_closes_is_not_cancelled(started: list[Kernel]) -> None:
    async def start(*, warm: bool) -> Kernel:
        if not warm:
            raise IsolationError("closed")
        await asyncio.sleep(60)
        raise AssertionError

    pool = WarmPool(1, start)
    pool.fill()
    caller = asyncio.create_task(pool.allocate())
    await wait_until(lambda: pool._awaited)
    await pool.close()
    with pytest.raises(IsolationError, match="closed"):
        await caller
    assert started == []

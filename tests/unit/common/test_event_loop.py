"""Calls on the package's event loop from other loops and threads."""

import asyncio
import threading
import time
from concurrent.futures import CancelledError

import anyio
import pytest

from cci_plugins.common import event_loop
from cci_plugins.common.event_loop import EventLoopThread

pytestmark = pytest.mark.anyio


async def test_a_caller_s_loop_goes_on_while_the_package_s_loop_is_busy():
    released = threading.Event()

    async def block():
        released.wait(20)

    async def answer():
        return 7

    busy = event_loop.submit(block)
    call = asyncio.ensure_future(event_loop.dispatch(answer))
    for _ in range(20):
        await asyncio.sleep(0.001)
    assert not call.done()
    released.set()
    assert await call == 7
    await asyncio.wrap_future(busy)


async def test_what_a_cancelled_call_shields_is_not_cut_short():
    started, finished = threading.Event(), threading.Event()

    async def call():
        try:
            started.set()
            await anyio.sleep(20)
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(0.01)
                finished.set()

    task = asyncio.ensure_future(event_loop.dispatch(call))
    await asyncio.to_thread(started.wait, 20)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await asyncio.to_thread(finished.wait, 20)


def test_calls_that_go_on_are_cancelled_when_the_loop_stops():
    thread = EventLoopThread()

    async def wait():
        await anyio.sleep(20)

    begun = time.monotonic()
    calls = [thread.submit(wait) for _ in range(3)]
    thread.stop()
    for call in calls:
        with pytest.raises(CancelledError):
            call.result(20)
    assert time.monotonic() - begun < 15

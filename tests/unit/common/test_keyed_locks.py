"""Locks by key that exist only while they are needed."""

from __future__ import annotations

import asyncio

import pytest

from cci_plugins.common.keyed_locks import KeyedLocks

pytestmark = pytest.mark.anyio


async def test_one_task_at_a_time_holds_a_key_and_others_hold_theirs() -> None:
    locks, held = KeyedLocks(), list[str]()

    async def work(key: str) -> None:
        async with locks.hold(key):
            held.append(key)
            assert held.count(key) == 1
            await asyncio.sleep(0.01)
            held.remove(key)

    await asyncio.gather(*(work(key) for key in "aababb"))
    assert locks._locks == {}


async def test_a_cancelled_waiter_leaves_the_lock_to_its_holder() -> None:
    locks = KeyedLocks()

    async def wait() -> None:
        async with locks.hold("a"):
            raise AssertionError("two tasks hold it")

    async with locks.hold("a"):
        waiter = asyncio.create_task(wait())
        await asyncio.sleep(0)
        waiter.cancel()
        await asyncio.wait((waiter,))
        assert waiter.cancelled()
        second = asyncio.create_task(wait())
        await asyncio.sleep(0.01)
        assert not second.done()
        second.cancel()
        await asyncio.wait((second,))
    assert locks._locks == {}

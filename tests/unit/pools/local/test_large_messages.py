"""Tests of the order in which the large messages of kernels are decoded."""

from __future__ import annotations

import asyncio
import time

import pytest

from cci_plugins.pools.local import large_messages
from cci_plugins.pools.local.large_messages import BATCH_BYTES, LargeMessages

HANG_SECONDS = 30


@pytest.fixture
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have short runs, and the wait for them, be as long as a test may take."""
    monkeypatch.setattr(large_messages, "SHORT_RUN_SECONDS", HANG_SECONDS)
    monkeypatch.setattr(large_messages, "MAX_WAIT_SECONDS", HANG_SECONDS)


def test_one_large_message_is_decoded_at_a_time() -> None:
    at_once: list[int] = []
    working: list[int] = []

    def decode(number: int) -> int:
        working.append(number)
        time.sleep(0.001)
        at_once.append(len(working))
        working.remove(number)
        return number

    async def run() -> list[int]:
        kernels = [LargeMessages() for _ in range(20)]
        return await asyncio.gather(
            *(one.decode(lambda n=number: decode(n), 10) for number, one in enumerate(kernels))
        )

    assert asyncio.run(run()) == list(range(20))
    assert at_once == [1] * 20


@pytest.mark.usefixtures("patience")
def test_after_a_batch_a_large_message_waits_for_a_run_that_has_just_begun() -> None:
    events: list[str] = []

    async def run() -> None:
        printing, other = LargeMessages(), LargeMessages()
        printing.start_run()
        other.start_run()
        await printing.decode(lambda: events.append("first batch"), BATCH_BYTES)
        waiting = asyncio.create_task(
            printing.decode(lambda: events.append("second batch"), BATCH_BYTES)
        )
        for _ in range(10):
            await asyncio.sleep(0.01)
        events.append("short run ends")
        other.end_run()
        await waiting

    asyncio.run(asyncio.wait_for(run(), HANG_SECONDS / 2))
    assert events == ["first batch", "short run ends", "second batch"]


@pytest.mark.parametrize("constant", ["SHORT_RUN_SECONDS", "MAX_WAIT_SECONDS"])
@pytest.mark.usefixtures("patience")
def test_no_run_holds_large_messages_up_for_long(
    monkeypatch: pytest.MonkeyPatch, constant: str
) -> None:
    monkeypatch.setattr(large_messages, constant, 0.001)

    async def run() -> None:
        printing, other = LargeMessages(), LargeMessages()
        other.start_run()
        await asyncio.sleep(0.01)
        for _ in range(4):
            await printing.decode(lambda: None, BATCH_BYTES)

    asyncio.run(asyncio.wait_for(run(), HANG_SECONDS / 2))


@pytest.mark.usefixtures("patience")
def test_runs_that_print_much_do_not_wait_for_each_other() -> None:
    async def run() -> None:
        kernels = [LargeMessages() for _ in range(3)]
        for one in kernels:
            one.start_run()
        for _ in range(3):
            await asyncio.gather(*(one.decode(lambda: None, BATCH_BYTES) for one in kernels))

    asyncio.run(asyncio.wait_for(run(), HANG_SECONDS / 2))


@pytest.mark.usefixtures("patience")
def test_a_message_whose_reader_was_cancelled_holds_up_no_other() -> None:
    async def run() -> None:
        printing, other = LargeMessages(), LargeMessages()
        other.start_run()
        await printing.decode(lambda: None, BATCH_BYTES)
        waiting = asyncio.create_task(printing.decode(lambda: None, BATCH_BYTES))
        await asyncio.sleep(0.01)
        waiting.cancel()
        other.end_run()
        await LargeMessages().decode(lambda: None, BATCH_BYTES)

    asyncio.run(asyncio.wait_for(run(), HANG_SECONDS / 2))

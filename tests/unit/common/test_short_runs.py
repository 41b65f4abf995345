"""Tests of heavy work that waits for short runs."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import pytest

from cci_plugins.common import short_runs
from cci_plugins.common.worker_lane import WorkerLane, give_way
from cci_plugins.pools.local.kernel_reader import SHORT_RUN_BYTES, FloodGauge

HANG_SECONDS = 30


@pytest.fixture(autouse=True)
def no_runs(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Have no runs, and pauses as long as a test may take."""
    monkeypatch.setattr(short_runs, "_starts", {})
    monkeypatch.setattr(short_runs, "SHORT_SECONDS", HANG_SECONDS)
    monkeypatch.setattr(short_runs, "MAX_PAUSE_SECONDS", HANG_SECONDS)
    yield
    assert short_runs._starts == {}


def test_heavy_work_goes_on_when_the_short_run_has_ended() -> None:
    events: list[str] = []
    has_begun = threading.Event()

    def work() -> None:
        events.append("work begins")
        has_begun.set()
        give_way()
        events.append("work goes on")

    async def run() -> None:
        short_runs.begin_run("short")
        working = asyncio.create_task(WorkerLane("test").run(work))
        await asyncio.to_thread(has_begun.wait, HANG_SECONDS)
        await asyncio.sleep(0.05)
        events.append("the short run ends")
        short_runs.end_run("short")
        await working

    asyncio.run(asyncio.wait_for(run(), HANG_SECONDS / 2))
    assert events == ["work begins", "the short run ends", "work goes on"]


@pytest.mark.parametrize("constant", ["SHORT_SECONDS", "MAX_PAUSE_SECONDS"])
def test_no_run_holds_heavy_work_up_for_long(
    monkeypatch: pytest.MonkeyPatch, constant: str
) -> None:
    monkeypatch.setattr(short_runs, constant, 0.001)
    short_runs.begin_run("long")
    waiting = threading.Thread(target=short_runs.wait_for_short_runs, daemon=True)
    waiting.start()
    waiting.join(HANG_SECONDS / 2)
    short_runs.end_run("long")
    assert not waiting.is_alive()


def test_a_run_that_prints_much_is_not_short() -> None:
    async def run() -> None:
        gauge = FloodGauge(on_flood)
        gauge.start_run()
        await gauge.add(SHORT_RUN_BYTES // 2)
        assert short_runs._starts
        await gauge.add(SHORT_RUN_BYTES)
        assert not short_runs._starts
        gauge.start_run()
        await gauge.add(SHORT_RUN_BYTES // 2)
        assert short_runs._starts
        gauge.end_run()

    async def on_flood(*, is_over: bool) -> None:
        raise AssertionError(is_over)

    asyncio.run(run())

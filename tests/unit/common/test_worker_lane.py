"""Tests of the lanes for heavy work: one piece at a time, and a short one never waits for long."""

from __future__ import annotations

import asyncio
import threading
import time

from cci_plugins.common.worker_lane import WorkerLane, give_way


def test_one_piece_works_at_a_time_and_short_ones_come_in_between() -> None:
    lane, ended, working = WorkerLane("test"), [], 0
    is_long_at_work, most = threading.Event(), 0

    def count(change: int) -> None:
        nonlocal working, most
        working += change
        most = max(most, working)

    def do_long() -> None:
        is_long_at_work.set()
        deadline = time.monotonic() + 30
        while len(ended) < 3 and time.monotonic() < deadline:
            count(1)
            count(-1)
            give_way()
        ended.append("long")

    def do_short() -> None:
        count(1)
        ended.append("short")
        count(-1)

    async def work() -> None:
        long = asyncio.create_task(lane.run(do_long))
        await asyncio.to_thread(is_long_at_work.wait, 30)
        await asyncio.gather(*(lane.run(do_short) for _ in range(3)))
        await long

    asyncio.run(work())
    assert ended == ["short"] * 3 + ["long"]
    assert most == 1


def test_each_event_loop_has_its_own_queue() -> None:
    lane = WorkerLane("test")
    for _ in range(2):
        assert asyncio.run(lane.run(threading.get_ident)) != threading.get_ident()


def test_code_outside_a_lane_never_pauses() -> None:
    started = time.process_time()
    for _ in range(10_000):
        give_way()
    assert time.process_time() - started < 10

"""Tests of the bound in bytes of what a kernel sends."""

from __future__ import annotations

import asyncio

from cci_plugins.pools.local.kernel_reader import FLOOD_BYTES, RUN_FLOOD_BYTES, FloodGauge


def test_a_run_is_not_stopped_for_what_an_earlier_one_sent() -> None:
    floods: list[bool] = []

    async def note(*, is_over: bool) -> None:
        floods.append(is_over)

    async def send() -> None:
        gauge = FloodGauge(note)
        gauge.start_run()
        await gauge.add(RUN_FLOOD_BYTES + 1_000_000)
        assert floods == [False]
        gauge.start_run()
        await gauge.add(100)
        assert floods == [False]
        await gauge.add(FLOOD_BYTES - RUN_FLOOD_BYTES)
        assert floods == [False, True]

    asyncio.run(send())

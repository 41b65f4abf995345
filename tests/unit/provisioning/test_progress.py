"""A run yields its progress, then has a result, and can be stopped."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from cci_plugins.errors import ProvisioningError
from cci_plugins.provisioning import Progress, Run


async def _works(on_progress: Any) -> int:
    on_progress(Progress("one", "working", "begins"))
    await asyncio.sleep(0)
    on_progress(Progress("one", "done", "ends"))
    return 42


@pytest.mark.anyio
async def test_a_run_yields_its_progress_and_then_has_a_result() -> None:
    run = Run(_works)
    with pytest.raises(ProvisioningError, match="not finished"):
        _ = run.result
    assert [progress.message async for progress in run] == ["begins", "ends"]
    assert run.result == 42
    assert await Run(_works).finish() == 42


@pytest.mark.anyio
async def test_leaving_the_loop_stops_the_work() -> None:
    ended = asyncio.Event()

    async def endless(on_progress: Any) -> None:
        on_progress(Progress("one", "working", "begins"))
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    iterator = aiter(Run(endless))
    assert (await anext(iterator)).message == "begins"
    await iterator.aclose()  # type: ignore[attr-defined]
    assert ended.is_set()


@pytest.mark.anyio
async def test_iterating_raises_the_exception_of_the_work() -> None:
    async def breaks(on_progress: Any) -> None:
        on_progress(Progress("one", "working", "begins"))
        raise ProvisioningError("no", hint="yes")

    events = aiter(Run(breaks))
    assert (await anext(events)).message == "begins"
    with pytest.raises(ProvisioningError, match="no"):
        await anext(events)

"""The end of a run, as one request sees it."""

import asyncio
import time
from types import SimpleNamespace
from typing import Any

import pytest

from cci_plugins.common.limits import SandboxLimits
from cci_plugins.pools.local.execute_request import ExecuteRequest
from cci_plugins.pools.local.output import Collector
from cci_plugins.pools.tool_host import WaitClock

pytestmark = pytest.mark.anyio


async def test_code_that_ended_while_this_process_stood_still_did_not_time_out() -> None:
    reader: Any = SimpleNamespace(progress=0)
    request = ExecuteRequest(Collector(SandboxLimits(), None), reader)

    async def answer() -> None:
        for _ in range(10):  # as long as reading takes
            await asyncio.sleep(0)
        request.handle_reply({"status": "ok"})
        request.handle_message("status", {"execution_state": "idle"}, 0)

    asyncio.get_running_loop().call_soon(time.sleep, 0.7)
    task = asyncio.create_task(answer())
    assert await request.wait_end(0.1, WaitClock(0.0))
    await task


async def test_code_that_goes_on_after_this_process_stood_still_times_out() -> None:
    reader: Any = SimpleNamespace(progress=0)
    request = ExecuteRequest(Collector(SandboxLimits(), None), reader)
    asyncio.get_running_loop().call_soon(time.sleep, 0.7)
    assert not await request.wait_end(0.1, WaitClock(0.0))

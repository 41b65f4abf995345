"""A server that ends while it answers requests."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import anyio
import httpx
import pytest

from cci_plugins.testing import FakeSessionPool

from ._server import KEY, serving

pytest.importorskip("mcp")
pytest.importorskip("uvicorn")

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

EXECUTIONS = "/executions?api-version=2025-10-02-preview&identifier=session-1"


class BusyPool(FakeSessionPool):
    """A pool whose runs do not end by themselves."""

    def __init__(self) -> None:
        super().__init__()
        self.begun, self.running = asyncio.Event(), 0

    async def execute(self, session_id: str, code: str, **options: Any) -> Any:
        self.running += 1
        self.begun.set()
        try:
            await anyio.sleep_forever()
        finally:
            self.running -= 1


async def test_a_server_that_ends_interrupts_its_runs_and_reports_no_fault(
    caplog: pytest.LogCaptureFixture,
) -> None:
    pool = BusyPool()
    async with httpx.AsyncClient(headers={"authorization": f"Bearer {KEY}"}, timeout=60) as client:
        async with serving(pool) as url:
            body = {"code": "1", "codeInputType": "inline", "executionType": "synchronous"}
            address = url.removesuffix("/mcp") + EXECUTIONS
            request = asyncio.create_task(client.post(address, json=body))
            await pool.begun.wait()
        answer = await request
    assert (answer.status_code, pool.running) == (500, 0)
    assert "ServerEnding" in answer.text
    faults = [one for one in caplog.records if one.levelno >= logging.WARNING and one.exc_info]
    assert faults == []

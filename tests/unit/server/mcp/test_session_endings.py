"""Sessions that a request began to end, and that nobody else would end."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

pytest.importorskip("mcp")

from cci_plugins.common.limits import Limits
from cci_plugins.server.mcp.sessions import McpSessions, mcp_session_id
from cci_plugins.testing import FakeSessionPool

pytestmark = pytest.mark.anyio


class SlowPool(FakeSessionPool):
    """A pool that takes some time to end a session."""

    def __init__(self) -> None:
        super().__init__()
        self.begun, self.ended = asyncio.Event(), list[str]()

    async def delete_session(self, session_id: str) -> None:
        self.begun.set()
        await asyncio.sleep(0.01)
        await super().delete_session(session_id)
        self.ended.append(session_id)


async def use_session(sessions: McpSessions) -> str:
    """Run code in a new MCP session, and return its id."""
    name = sessions.create_id()
    token = mcp_session_id.set(name)
    try:
        session = await sessions.get_current_session()
        assert session is not None
        await session.run_code("1")
    finally:
        mcp_session_id.reset(token)
    return name


async def cancel_when_begun(pool: SlowPool, call: Callable[[], Awaitable[object]]) -> None:
    task = asyncio.ensure_future(call())
    await pool.begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_session_ends_although_the_request_that_ends_it_is_cancelled() -> None:
    pool = SlowPool()
    sessions = McpSessions(pool, Limits())
    name = await use_session(sessions)
    await cancel_when_begun(pool, lambda: sessions.end(name))
    assert len(pool.ended) == 1
    assert not sessions.is_active(name)


async def test_evicted_sessions_end_although_the_request_that_evicts_them_is_cancelled() -> None:
    pool = SlowPool()
    limits = Limits(live_sessions=3)
    sessions = McpSessions(pool, limits)
    for _ in range(3):
        await use_session(sessions)
    object.__setattr__(limits, "live_sessions", 1)  # so that one request evicts all of them
    await cancel_when_begun(pool, lambda: use_session(sessions))
    assert len(pool.ended) == 3

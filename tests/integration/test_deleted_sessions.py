"""Deleting a session ends the code that runs in it, on every pool that can end a session."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import pytest
from tests.integration._emulated import emulated

from cci_plugins import CodeInterpreter, Execution, LocalSessionPool, Session
from cci_plugins.pools.base import SessionPool

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

STUBBORN = """
import time
end = time.monotonic() + 100
while time.monotonic() < end:
    try:
        open('started', 'w').close()
        time.sleep(1)
    except KeyboardInterrupt:
        pass
"""
POOLS = {
    "embedded": None,
    "managed": {"kind": "managed"},
    "custom": {"kind": "custom"},
    "custom, text only": {"kind": "custom", "container": "executions"},
}


@asynccontextmanager
async def open_pool(
    options: dict[str, str] | None,
) -> AsyncIterator[tuple[SessionPool, LocalSessionPool | None]]:
    """Yield a pool, and the one that a remote one serves."""
    local = LocalSessionPool(ready_sessions=0, preload=())
    if options is None:
        yield local, None
        return
    async with emulated(local, **options) as azure:
        yield azure.client(), local


async def wait_for_file(session: Session, served: LocalSessionPool | None) -> None:
    """Wait until the code has begun. A text-only pool cannot show it, so its server is asked."""
    while True:
        if served is None:
            files = await session.files.list()
        else:
            (info,) = await served.list_sessions()
            files = await served.list_files(info.identifier)
        if "started" in {file.name for file in files}:
            return
        await anyio.sleep(0.02)


@pytest.mark.quick("embedded", "custom, text only")
@pytest.mark.parametrize("options", POOLS.values(), ids=list(POOLS))
async def test_deleting_a_session_ends_the_code_that_runs_in_it(
    options: dict[str, str] | None,
) -> None:
    ends: list[Execution] = []
    async with open_pool(options) as (pool, served), CodeInterpreter(pool) as interpreter:
        session = interpreter.session("alice")

        async def run() -> None:
            ends.append(await session.run_code(STUBBORN))

        await session.run_code("x = 1")
        with anyio.fail_after(60):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(run)
                await wait_for_file(session, served)
                await session.delete()
            after = await session.run_code("'x' in dir()")
    assert (ends[0].status, ends[0].state) == ("died", "lost")
    assert ends[0].error is not None
    assert "it was deleted" in ends[0].error.message
    assert after.text == "False"

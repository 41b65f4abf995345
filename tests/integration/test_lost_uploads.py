"""A session that is replaced before its first run: its uploads come back, and the run says so."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from cci_plugins import CodeInterpreter, LocalSessionPool
from cci_plugins.pools.azure.mcp_pool import PlatformSessionPool
from cci_plugins.pools.base import SessionPool

from ._emulated import emulated
from ._server import KEY, serving

pytest.importorskip("mcp")
if sys.platform != "linux":
    pytest.skip("the backends exist on Linux only", allow_module_level=True)

pytestmark = [pytest.mark.anyio, pytest.mark.slow]
READ = "import os; print(*sorted(os.listdir()))"
Dropping = tuple[SessionPool, Callable[[], Awaitable[None]]]


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


def make_local() -> LocalSessionPool:
    return LocalSessionPool(preload=(), ready_sessions=0, isolation="process")


async def drop_all(pool: SessionPool) -> None:
    for session in await pool.list_sessions():
        await pool.delete_session(session.identifier)


@asynccontextmanager
async def embedded() -> AsyncIterator[Dropping]:
    local = make_local()
    yield local, lambda: drop_all(local)


@asynccontextmanager
async def served() -> AsyncIterator[Dropping]:
    local = make_local()
    async with serving(local) as url:
        yield PlatformSessionPool(url, key=KEY), lambda: drop_all(local)


@asynccontextmanager
async def emulate(kind: str) -> AsyncIterator[Dropping]:
    async with emulated(make_local(), kind=kind, max_sessions=9) as azure:

        async def drop() -> None:
            for identifier in list(azure.emulator._last_used):
                await azure.emulator.drop_session(identifier)

        yield azure.client(), drop


@asynccontextmanager
async def gateway() -> AsyncIterator[Dropping]:
    async with emulate("custom") as (pool, drop), serving(pool) as url:
        yield PlatformSessionPool(url, key=KEY), drop


POOLS: dict[str, Any] = {
    "embedded": embedded,
    "served": served,
    "gateway": gateway,
    "custom": lambda: emulate("custom"),
    "managed": lambda: emulate("managed"),
    "platform": lambda: emulate("platform"),
}


@pytest.mark.quick("embedded", "gateway")
@pytest.mark.parametrize("name", POOLS)
async def test_a_run_names_the_uploads_of_a_session_that_was_replaced_before_it(
    name: str, tmp_path: Path
) -> None:
    changed = tmp_path / "changed.csv"
    changed.write_text("1")
    with anyio.fail_after(110):
        async with POOLS[name]() as (pool, drop), CodeInterpreter(pool) as interpreter:
            session, other = interpreter.session("a"), interpreter.session("b")
            await session.files.upload(b"1", name="kept.csv")
            await session.files.upload(changed)
            await other.files.upload(b"1", name="other.csv")
            undisturbed = await other.run_code(READ)
            assert (undisturbed.state, undisturbed.notes) == ("kept", ()), undisturbed
            assert "other.csv" in undisturbed.stdout
            await other.restart()
            changed.write_text("other")
            if name == "embedded":  # its loop is the interpreter's
                await session._handle.host.dispatch(drop)
            else:
                await drop()
            execution = await session.run_code(READ)
            assert execution.state == "lost"
            assert "replaced" in execution.notes[0], execution.notes
            assert execution.notes[1:] == (
                "uploaded again: kept.csv",
                "uploaded files are gone: changed.csv; upload them again",
            )
            assert "kept.csv" in execution.stdout
            restarted = await other.run_code(READ)
            assert restarted.state == "lost"
            assert restarted.notes[-1] == "uploaded again: other.csv"
            assert not any("files are kept" in note for note in restarted.notes), restarted.notes
            again = await session.run_code(READ)
            assert (again.state, again.notes) == ("kept", ())


async def test_a_file_that_arrives_after_a_crash_is_not_reported_as_lost() -> None:
    async with embedded() as (pool, _), CodeInterpreter(pool) as interpreter:
        session = interpreter.session("a")
        died = await session.run_code("import os; os._exit(1)")
        assert died.state == "lost"
        await session.files.upload(b"1", name="new.csv")
        execution = await session.run_code(READ)
        assert execution.notes == ("uploaded again: new.csv",)
        assert execution.stdout.split() == ["new.csv"]

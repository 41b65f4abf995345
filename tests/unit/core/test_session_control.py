"""Environment variables, interrupt, restart and metrics of sessions, over a pool in memory."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import anyio
import pytest
from opentelemetry import metrics as api
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from cci_plugins import CodeInterpreter, Execution, Limits, LocalSessionPool, Session, Usage
from cci_plugins.azure.credentials import StaticKey
from cci_plugins.common import metrics
from cci_plugins.errors import (
    ConfigurationError,
    FileTransferError,
    PoolUnavailableError,
    SessionLostError,
)
from cci_plugins.pools.azure.retry import RetryPolicy
from cci_plugins.pools.base import Capabilities
from cci_plugins.sync import CodeInterpreter as BlockingInterpreter
from cci_plugins.testing import FakeSessionPool, FakeTools

pytestmark = pytest.mark.anyio


async def wait_forever(_: str, __: FakeTools) -> Execution:
    await anyio.sleep_forever()
    raise AssertionError


async def finish(_: str, __: FakeTools) -> Execution:
    return Execution(stdout="done", instance="one")


class NoRestartPool(FakeSessionPool):
    """A pool that can neither restart nor interrupt, as managed pools."""

    capabilities = Capabilities(name="plain")

    async def interrupt(self, session_id: str) -> bool:
        return await super(FakeSessionPool, self).interrupt(session_id)

    async def restart_session(self, session_id: str) -> bool:
        return await super(FakeSessionPool, self).restart_session(session_id)


async def test_the_variables_given_last_hold_from_the_next_run_on() -> None:
    pool = FakeSessionPool()
    async with CodeInterpreter(pool, env={"A": "1", "B": "1"}) as interpreter:
        session = interpreter.session("a", env={"B": "2"})
        await session.run_code("1")
        assert pool.environments[session.id] == {"A": "1", "B": "2"}
        interpreter.session("a")  # leaves them as they are
        await session.run_code("1")
        assert pool.environments[session.id] == {"A": "1", "B": "2"}
        interpreter.session("a", env={"C": "3"})
        await session.run_code("1")
        assert pool.environments[session.id] == {"A": "1", "B": "1", "C": "3"}
        other = interpreter.session("b")
        await other.run_code("1")
        assert pool.environments[other.id] == {"A": "1", "B": "1"}
        with pytest.raises(ConfigurationError):
            interpreter.session("a", env={"C D": "3"})
        await session.run_code("1")
        assert pool.environments[session.id] == {"A": "1", "B": "1", "C": "3"}


async def test_an_evicted_session_comes_back_with_its_variables() -> None:
    pool = FakeSessionPool()
    async with CodeInterpreter(pool, limits=Limits(live_sessions=1)) as interpreter:
        await interpreter.session("a", env={"A": "1"}).run_code("1")
        await interpreter.session("b").run_code("1")
        session = interpreter.session("a")
        await session.run_code("1")
        assert pool.environments[session.id] == {"A": "1"}


async def test_a_pool_that_cannot_set_variables_refuses_before_the_code_runs() -> None:
    pool = NoRestartPool()
    async with CodeInterpreter(pool) as interpreter:
        session = interpreter.session("a", env={"A": "1"})
        with pytest.raises(ConfigurationError, match="'plain' cannot set environment variables"):
            await session.run_code("1")
        assert pool.calls == []
        interpreter.session("a", env={})
        assert (await session.run_code("1")).status == "succeeded"


async def start(session: Session, tasks: Any, pool: FakeSessionPool) -> list[Any]:
    """Start a run, and return a list for its execution or error."""
    found: list[Any] = []

    async def run() -> None:
        try:
            found.append(await session.run_code("1"))
        except SessionLostError as error:
            found.append(error)

    tasks.start_soon(run)
    with anyio.fail_after(20):
        while not pool.calls:
            await anyio.sleep(0.01)
    return found


async def test_an_interrupt_ends_the_run_under_way_only() -> None:
    pool = FakeSessionPool(wait_forever, finish)
    async with CodeInterpreter(pool) as interpreter:
        session = interpreter.session("a")
        assert await session.interrupt() is False
        async with anyio.create_task_group() as tasks:
            first = await start(session, tasks, pool)
            second = await start(session, tasks, pool)
            assert await session.interrupt() is True
        assert first[0].error.name == "KeyboardInterrupt"
        assert second[0].stdout == "done"
        assert await session.interrupt() is False


async def test_a_restart_ends_the_run_and_refuses_those_that_wait() -> None:
    pool = FakeSessionPool(wait_forever, finish)
    async with CodeInterpreter(pool) as interpreter:
        session = interpreter.session("a")
        async with anyio.create_task_group() as tasks:
            first = await start(session, tasks, pool)
            second = await start(session, tasks, pool)
            with anyio.fail_after(20):
                while not (session._lock and session._lock.statistics().tasks_waiting):
                    await anyio.sleep(0.01)
            await session.restart()
        assert first[0].error.name == "KeyboardInterrupt"
        assert "deleted or restarted while this call waited" in str(second[0])
        assert len(pool.calls) == 1
        after = await session.run_code("1")
        assert after.notes == (
            "the session was restarted; variables of earlier calls are gone, files are kept",
        )
        assert (await session.run_code("1")).notes == ()
        await session.restart()
        assert pool.restarts == [session.id] * 2


class LossyPool(NoRestartPool):
    """A pool whose uploads fail once files were moved out."""

    fails = False

    async def upload(self, session_id: str, name: str, content: Any) -> Any:
        if self.fails:
            raise PoolUnavailableError("no")
        return await super().upload(session_id, name, content)


async def test_where_a_pool_cannot_restart_the_files_move_into_a_new_session() -> None:
    pool = LossyPool(finish)
    async with CodeInterpreter(pool, limits=Limits(file_bytes=10)) as interpreter:
        session = interpreter.session("a")
        await session.run_code("1")
        await session.files.upload(b"1", name="a/in.csv")
        pool._files[session.id]["out.csv"] = b"2"
        await session.restart()
        assert pool._files[session.id] == {"a/in.csv": b"1", "out.csv": b"2"}
        pool._files[session.id]["large"] = b"x" * 11
        with pytest.raises(FileTransferError):
            await session.restart()
        assert len(pool._files[session.id]) == 3
        del pool._files[session.id]["large"]
        pool.fails = True
        with pytest.raises(FileTransferError, match=r"files are gone: a/in.csv, out.csv"):
            await session.restart()


async def test_where_a_pool_cannot_interrupt_both_are_refused_while_code_runs() -> None:
    pool = NoRestartPool(wait_forever)
    async with CodeInterpreter(pool) as interpreter:
        session = interpreter.session("a")
        async with anyio.create_task_group() as tasks:
            await start(session, tasks, pool)
            for call in (session.interrupt, session.restart):
                with pytest.raises(ConfigurationError, match="'plain' cannot interrupt a run"):
                    await call()
            tasks.cancel_scope.cancel()


def test_the_variables_of_the_environment_reach_sessions_of_every_pool(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CCI_SESSION_ENV_REGION", "north")
    for name, value in {"MCP_ENDPOINT": "https://pool.example/mcp", "MCP_KEY": "a-key"}.items():
        monkeypatch.setenv(f"AZURE_SESSION_POOL_{name}", value)
    remote = CodeInterpreter.from_env()
    assert remote._host.env is not None
    assert remote._host.env.values == {"REGION": "north"}
    monkeypatch.delenv("AZURE_SESSION_POOL_MCP_ENDPOINT")
    monkeypatch.delenv("AZURE_SESSION_POOL_MCP_KEY")
    local = CodeInterpreter.from_env()._host.pool
    assert isinstance(local, LocalSessionPool)
    assert local._environment.values == {"REGION": "north"}


def test_the_blocking_session_has_the_same_methods() -> None:
    pool = FakeSessionPool()
    with BlockingInterpreter(pool, env={"A": "1"}) as interpreter:
        session = interpreter.session("a", env={"B": "2"})
        session.run_code("1")
        assert pool.environments[session.id] == {"A": "1", "B": "2"}
        assert session.interrupt() is False
        session.restart()
        assert pool.restarts == [session.id]


async def test_metrics_count_runs_files_sessions_and_losses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reader = InMemoryMetricReader()
    monkeypatch.setattr(api, "get_meter", MeterProvider([reader]).get_meter)
    metrics._get_instruments.cache_clear()
    second = timedelta(seconds=1)
    pool = FakeSessionPool(
        Execution(duration=second, usage=Usage(0.5, 10)),
        Execution(status="died", state="lost", duration=second),
    )
    try:
        interpreter = CodeInterpreter(pool)
        session = interpreter.session("a")
        await session.run_code("1")
        await session.run_code("1")
        await session.files.upload(b"1234", name="a.csv")
        await session.files.download("a.csv")
        await interpreter.session("b").run_code("1")
        errors = [PoolUnavailableError("no")]

        async def call() -> None:
            if errors:
                raise errors.pop()

        await RetryPolicy(StaticKey("key")).call_with_retry(call)
        assert read(reader, metrics.LIVE_SESSIONS) == {("fake",): 2}
        await interpreter.aclose()
        found = read(reader, metrics.RUNS)
        assert found == {("fake", "succeeded"): 1, ("fake", "died"): 2}
        assert read(reader, metrics.DURATION) == {("fake", "succeeded"): 1, ("fake", "died"): 2}
        assert read(reader, metrics.CPU) == {("fake", "succeeded"): 0.5}
        assert read(reader, metrics.FILE_BYTES) == {("endpoint", "in"): 4, ("endpoint", "out"): 4}
        assert read(reader, metrics.LIVE_SESSIONS) == {("fake",): 0}
        assert read(reader, metrics.LOSSES) == {("fake",): 2}
        assert read(reader, metrics.RETRIES) == {("PoolUnavailableError",): 1}
    finally:
        metrics._get_instruments.cache_clear()


def read(reader: InMemoryMetricReader, name: str) -> dict[tuple[object, ...], float]:
    """Return the values of an instrument by its attributes, or the sums of a histogram."""
    data = reader.get_metrics_data()
    return {
        tuple(point.attributes.values()): point.value if hasattr(point, "value") else point.sum
        for resource in data.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
        if metric.name == name
        for point in metric.data.data_points
    }

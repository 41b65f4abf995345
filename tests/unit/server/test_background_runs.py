"""Background runs on the server: their time, their output, and what it states of itself."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import anyio
import pytest

from cci_plugins.azure.credentials import StaticKey
from cci_plugins.common.limits import Limits
from cci_plugins.errors import ConfigurationError, PoolError, PoolUnavailableError
from cci_plugins.models import Execution, OutputEvent
from cci_plugins.pools.azure.cci_server import add_server_abilities
from cci_plugins.pools.azure.retry import RetryPolicy
from cci_plugins.pools.base import Capabilities
from cci_plugins.testing import FakeSessionPool

pytest.importorskip("mcp")

from cci_plugins.server.mcp.held_runs import describe_held_runs
from cci_plugins.server.mcp.tools import PlatformTools
from cci_plugins.server.output_log import MAX_CHARACTERS
from cci_plugins.server.runs import RunRegistry

from .test_held_runs import Link, Tools, held

pytestmark = pytest.mark.anyio
LIMITS = Limits(execution_timeout=1, background_timeout=30)


class TimedPool(FakeSessionPool):
    """A pool that remembers how long its runs may take, and may print a lot."""

    def __init__(self, *texts: str) -> None:
        super().__init__()
        self.timeouts: list[float] = []
        self.texts = texts
        self.first_was_seen = anyio.Event()

    async def execute(  # type: ignore[override]  # as it is called here
        self, *_: Any, timeout: timedelta, on_output: Any = None, **__: Any
    ) -> Execution:
        self.timeouts.append(timeout.total_seconds())
        for text in self.texts:
            on_output(OutputEvent("stdout", text))
            if not self.first_was_seen.is_set():  # waiting for it would let the client read
                await self.first_was_seen.wait()
        return Execution(stdout="all of it")


async def test_a_held_run_may_take_the_time_of_the_background_and_another_run_may_not() -> None:
    pool, runs = TimedPool(), RunRegistry()
    tools = PlatformTools(pool, LIMITS, runs=runs)
    async with runs.run():
        link = Link(tools)
        await held(link, None, is_background=True).execute()
        await held(link, Tools(), name="tools").execute()
    arguments = {"environmentId": "some-session", "pythonCode": "1"}
    for timeout in ({}, {"timeoutSeconds": 20}):
        name = "runPythonCodeInRemoteEnvironment"
        await tools.call(name, arguments | timeout, {})
    assert pool.timeouts == [20, 20, 1, 1]
    limits = Limits(execution_timeout=5, background_timeout=2)
    async with runs.run():
        link = Link(PlatformTools(pool, limits, runs=runs))
        await held(link, None, name="short", is_background=True).execute()
        await held(link, Tools(), name="short tools").execute()
    assert pool.timeouts[4:] == [2, 5]


async def test_output_that_the_server_had_to_drop_is_named_and_none_comes_twice() -> None:
    pool, runs = TimedPool("begun", "a" * 50_000, "b" * MAX_CHARACTERS, "end"), RunRegistry()
    seen = list[str]()

    def see(event: OutputEvent) -> None:
        seen.append(event.text)
        pool.first_was_seen.set()

    async with runs.run():
        link = Link(PlatformTools(pool, LIMITS, runs=runs))
        await held(link, None, see, is_background=True).execute()
    rest = "".join(seen[2:])
    missing = 50_003 + MAX_CHARACTERS - len(rest)
    assert seen[:2] == ["begun", f"\n[{missing:,} characters are missing here]\n"]
    assert rest.endswith("b" * 900_000 + "end")


async def test_a_start_without_an_answer_at_a_server_that_is_away_may_have_run() -> None:
    pool, runs = TimedPool(), RunRegistry()
    async with runs.run():
        link = Link(PlatformTools(pool, LIMITS, runs=runs))

        def lose(number: int) -> str:
            if number > 1:
                link.error = PoolUnavailableError("the pool cannot be reached")
            return "answer" if number == 1 else "request"

        link.lose = lose
        run = held(link, None, is_background=True)
        run._retry = RetryPolicy(StaticKey("key"), timedelta(seconds=0.2))
        with pytest.raises(PoolError, match="cannot be reached; the code may have run") as raised:
            await run.execute()
    assert not raised.value.retryable
    assert len(pool.timeouts) == 1


async def test_a_pool_without_background_runs_refuses_what_its_server_did_not_state() -> None:
    pool, runs = TimedPool(), RunRegistry()
    pool.capabilities = Capabilities(name="plain", host_tools=True)
    async with runs.run():
        link = Link(PlatformTools(pool, LIMITS, runs=runs))
        with pytest.raises(ConfigurationError, match="'plain' cannot run code in the background"):
            await held(link, None, is_background=True).execute()
    assert pool.timeouts == []


@pytest.mark.parametrize("supported", [True, False, None])
def test_a_client_reads_what_the_server_states_and_an_older_one_states_nothing(
    supported: bool | None,  # noqa: FBT001 - a parameter of the test
) -> None:
    pool = FakeSessionPool()
    pool.capabilities = Capabilities(host_tools=True, background_runs=supported)
    answer = {"capabilities": {"experimental": describe_held_runs(pool)}}
    found = add_server_abilities(Capabilities(), answer)
    assert (found.host_tools, found.background_runs) == (True, supported)
    assert add_server_abilities(found, {}).background_runs is False

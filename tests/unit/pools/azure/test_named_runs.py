"""A run is sent again only under its name, and no answer makes a run that began repeatable."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import AbstractContextManager
from datetime import timedelta
from typing import Any
from unittest.mock import AsyncMock, Mock

import anyio
import httpx
import pytest
from typing_extensions import override

from cci_plugins.azure.credentials import AuthProvider, StaticKey
from cci_plugins.common.limits import Limits
from cci_plugins.errors import (
    AuthenticationError,
    CodeInterpreterError,
    PoolError,
    PoolExhaustedError,
    PoolUnavailableError,
    ProtocolError,
    SessionLostError,
)
from cci_plugins.mcp_client import failures
from cci_plugins.mcp_client.failures import (
    MAY_HAVE_RUN,
    build_error_from_rpc,
    build_error_from_text,
)
from cci_plugins.mcp_client.messages import ToolResult
from cci_plugins.models import Execution
from cci_plugins.pools.azure.mcp_pool import PlatformSessionPool
from cci_plugins.pools.azure.rest_pool import CustomSessionPool
from cci_plugins.pools.azure.retry import RetryPolicy
from cci_plugins.pools.azure.text_sessions import TextSessions
from cci_plugins.pools.run_exchange import RelayedQuery, RunQuery
from cci_plugins.server.runs import MAX_NAMES, RunKey, RunRegistry

from .test_text_sessions import Pool, build_answer

pytestmark = pytest.mark.anyio

SECOND = timedelta(seconds=1)
FOUND: tuple[dict[str, Any], str] = ({"instance": "i", "total": 0}, "")  # a new session is there
BEGAN: tuple[dict[str, Any], str] = ({"instance": "i", "began": True}, "")
REFUSED: tuple[dict[str, Any], str] = ({"instance": "i", "refused": True}, "")


class Named(Pool):
    """Pool that also keeps the names of the runs."""

    def __init__(self, *answers: Any) -> None:
        self.names: list[str] = []
        rest = list(answers)
        super().__init__(lambda _: rest.pop(0))

    @override
    async def send(self, session_id: str, code: str, limit: timedelta) -> Execution:
        name = re.search(r'"run": "([0-9a-f]+)"', code)
        self.names.append("" if name is None else name[1])
        return await super().send(session_id, code, limit)


class Rotating(AuthProvider):
    """Provider that always has another key."""

    @override
    async def headers(self) -> Mapping[str, str]:
        return {}

    @override
    async def renew(self, version: int) -> bool:
        self.version += 1
        return True


async def run(
    pool: Named,
    *,
    instance: str | None = "i",
    auth: AuthProvider | None = None,
    patience: float = 5,
) -> Execution | CodeInterpreterError:
    retry = RetryPolicy(auth or StaticKey("key"), timedelta(seconds=patience))
    sessions = TextSessions(pool.send, retry=retry, limits=Limits(), margin=SECOND)
    with anyio.fail_after(20):
        try:
            return await sessions.execute("s", "1", timeout=SECOND, instance=instance)
        except CodeInterpreterError as error:
            return error


REFUSALS = [
    PoolExhaustedError("full"),
    PoolUnavailableError("SessionPoolUnavailable"),
    SessionLostError("gone", retryable=True),
]


@pytest.mark.parametrize("instance", ["i", None])
@pytest.mark.parametrize("refusal", [*REFUSALS, AuthenticationError("no")])
async def test_a_run_that_is_answered_as_not_started_and_began_is_not_run_again(
    refusal: Exception, instance: str | None
) -> None:
    is_resent = not isinstance(refusal, SessionLostError)
    report = build_answer()
    found = [FOUND] if instance is None else []
    pool = Named(*found, refusal, *([REFUSED] if is_resent else []), BEGAN, (report[0], ""), report)
    execution = await run(pool, instance=instance, auth=Rotating())
    assert isinstance(execution, Execution), execution
    assert execution.stdout.startswith("hi")
    runs = [name for verb, name in zip(pool.verbs, pool.names, strict=True) if verb == "run"]
    assert len(runs) == 1 + is_resent
    assert len(set(runs)) == 1


@pytest.mark.parametrize("refusal", REFUSALS[:2])
async def test_a_full_pool_is_asked_for_a_new_session_before_code_is_sent(
    refusal: Exception,
) -> None:
    pool = Named(refusal)
    assert await run(pool, instance=None, patience=0) is refusal
    assert pool.verbs == ["emit_report"]
    pool = Named(PoolError(f"the pool failed; {MAY_HAVE_RUN}"))
    raised = await run(pool, instance=None, patience=0)
    assert isinstance(raised, PoolUnavailableError)
    assert raised.retryable
    assert str(raised) == "the pool failed; the code was not sent"
    for found, instance in (([FOUND], None), ([], "i")):
        pool = Named(*found, refusal, ({"instance": "i", "began": False}, ""))
        assert await run(pool, instance=instance, patience=0) is refusal
    assert pool.verbs == ["run", "resolve_run"]
    report = build_answer()
    pool = Named(refusal, BEGAN, (report[0], ""), report)
    assert isinstance(await run(pool, patience=0), Execution)


@pytest.mark.parametrize("refusal", REFUSALS[:2])
@pytest.mark.parametrize("instance", ["i", None])
async def test_a_run_that_is_refused_to_the_end_may_have_run(
    refusal: Exception, instance: str | None
) -> None:
    pool = Named(*([] if instance else [FOUND]), refusal, refusal)
    raised = await run(pool, instance=instance, patience=0)
    assert type(raised) is type(refusal)
    assert "may have run" in str(raised)
    assert not getattr(raised, "retryable", True)
    assert pool.verbs[-2:] == ["run", "resolve_run"]


@pytest.mark.parametrize("has_tools", [True, False])
@pytest.mark.parametrize("instance", ["i", None])
async def test_a_refusal_on_the_way_to_the_server_is_unclear(
    instance: str | None,
    has_tools: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    proof = ToolResult(meta={failures.META_KEY: failures.dump_error(PoolExhaustedError("full"))})
    tools = Mock(specs=(), bounds=None) if has_tools else None
    for answer, is_proven in ((REFUSALS[0], False), (proof, True)):
        pool = PlatformSessionPool("http://localhost/mcp", key="k", patience=0)
        pool._returns_full_results = AsyncMock(return_value=True)  # type: ignore[method-assign]
        pool._get_run_tool = AsyncMock()  # type: ignore[method-assign]
        pool._get_run_tool.return_value.call.side_effect = [answer]
        with pytest.raises(PoolExhaustedError, match="full") as raised:
            await pool.execute("s", "1", timeout=1, instance=instance, tools=tools)
        await pool.aclose()
        assert raised.value.retryable is is_proven
        assert ("may have run" in str(raised.value)) is not is_proven


@pytest.mark.parametrize(
    "resolved",
    [
        SessionLostError("gone", retryable=True),
        ({"instance": "j", "began": False, "new": True}, ""),
        PoolError("broken"),
    ],
)
async def test_a_session_that_is_gone_after_the_run_was_sent_may_have_run_it(resolved: Any) -> None:
    raised = await run(Named(SessionLostError("gone", retryable=True), resolved))
    assert isinstance(raised, SessionLostError)
    assert not raised.retryable
    assert "may have run" in str(raised)


async def test_a_run_that_did_not_reach_the_pool_is_an_error_as_it_is() -> None:
    fault = PoolUnavailableError("the pool cannot be reached")
    fault.__cause__ = httpx.ConnectError("refused")
    pool = Named(fault)
    assert await run(pool, patience=0) is fault
    assert pool.verbs == ["run"]
    pool = Named(PoolExhaustedError("full", retry_after=0), fault, BEGAN, *[build_answer()] * 2)
    outcome = await run(pool, patience=0.3)
    assert isinstance(outcome, Execution), "the first try may have reached it"


@pytest.mark.parametrize("text", ["PermissionError: access denied", "Forbidden", "unauthorized"])
def test_words_of_a_failed_run_do_not_refuse_the_key(text: str) -> None:
    assert type(build_error_from_text(text, started=True)) is PoolError
    assert type(build_error_from_rpc(-32603, text, starts_code=True)) is PoolError
    code_failed = build_error_from_rpc(-32000, f"it raised {text}", starts_code=True)
    assert type(code_failed) is PoolError
    assert MAY_HAVE_RUN in str(code_failed)
    refused = build_error_from_rpc(-32001, "Unauthorized: invalid key", starts_code=True)
    assert isinstance(refused, AuthenticationError)


async def test_a_report_that_comes_in_single_characters_or_too_slowly_ends() -> None:
    first = ({"instance": "i", "at": 0, "total": 9_000}, "x" * 100)
    pool = Named(first, *[({"instance": "i", "at": 0, "total": 9_000}, "x")] * 50)
    raised = await run(pool)
    assert isinstance(raised, ProtocolError)
    assert "the code ran, but its output is lost" in str(raised)
    assert len(pool.verbs) == 2

    class Slow(Named):
        @override
        async def send(self, session_id: str, code: str, limit: timedelta) -> Execution:
            if self.verbs:
                await anyio.sleep(0.5)
            return await super().send(session_id, code, limit)

    piece = ({"instance": "i", "at": 0, "total": 10**6}, "x" * 3_000)
    slow = Slow(*[piece] * 500)
    raised = await run(slow)
    assert isinstance(raised, PoolError)
    assert "did not answer within 2 s" in str(raised)
    assert not raised.retryable


async def test_a_wait_of_zero_that_the_pool_names_does_not_shorten_the_waits() -> None:
    calls = 0

    async def call() -> None:
        nonlocal calls
        calls += 1
        raise PoolExhaustedError("full", retry_after=0)

    with pytest.raises(PoolExhaustedError):
        await RetryPolicy(StaticKey("key"), SECOND / 2).call_with_retry(call)
    assert 1 < calls < 10


def test_a_server_starts_a_run_of_one_name_once() -> None:
    runs = RunRegistry()

    def starting(name: str | None) -> AbstractContextManager[None]:
        return runs.claim(None if name is None else RunKey("session", name))

    with starting("a"):
        pass
    with pytest.raises(PoolError, match="may have run"), starting("a"):
        pass
    for error in (PoolExhaustedError("full"), SessionLostError("replaced", retryable=True)):
        with pytest.raises(type(error)), starting("b"):
            raise error
    with pytest.raises(PoolError, match="broken"), starting("b"):
        raise PoolError("broken")
    with pytest.raises(PoolError, match="begun before"), starting("b"):
        pass
    for _ in range(2):
        with starting(None):
            pass
    for number in range(MAX_NAMES):
        with starting(str(number)):
            pass
    with starting("a"):
        pass


class Measured(Named):
    """Pool that also keeps the lengths of the calls."""

    def __init__(self, *answers: Any) -> None:
        super().__init__(*answers)
        self.sizes: list[int] = []

    @override
    async def send(self, session_id: str, code: str, limit: timedelta) -> Execution:
        self.sizes.append(len(code))
        return await super().send(session_id, code, limit)


async def test_the_source_of_the_agent_is_sent_once_and_again_to_a_replaced_session() -> None:
    absent = ({"absent": True}, "")
    pool = Measured(build_answer(), build_answer(), absent, build_answer(), build_answer())
    retry = RetryPolicy(StaticKey("key"), timedelta(seconds=5))
    sessions = TextSessions(pool.send, retry=retry, limits=Limits(), margin=SECOND)

    for _ in range(4):
        await sessions.execute("s", "1", timeout=SECOND, instance="i")

    assert [size > 10_000 for size in pool.sizes] == [True, False, False, True, False]
    assert pool.names[2] == pool.names[3]  # the same run, which had not begun
    assert len(set(pool.names)) == 4


async def test_a_run_that_forges_an_absent_agent_does_not_begin_again() -> None:
    forged = ({"absent": True}, "")
    pool = Measured(build_answer(), forged, REFUSED, BEGAN, build_answer())
    retry = RetryPolicy(StaticKey("key"), timedelta(seconds=5))
    sessions = TextSessions(pool.send, retry=retry, limits=Limits(), margin=SECOND)
    await sessions.execute("s", "1", timeout=SECOND, instance="i")

    execution = await sessions.execute("s", "1", timeout=SECOND, instance="i")

    assert pool.verbs == ["run", "run", "run", "resolve_run", "emit_report"]
    assert execution.stdout.startswith("hi\n")


@pytest.mark.parametrize("starts", [True, False])
async def test_a_gateway_does_not_pass_on_a_refused_start_as_proof(
    starts: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    pool = PlatformSessionPool("http://localhost/mcp", key="k", patience=0)
    pool._returns_full_results = AsyncMock(return_value=True)  # type: ignore[method-assign]
    pool._get_run_tool = AsyncMock()  # type: ignore[method-assign]
    pool._get_run_tool.return_value.call.side_effect = REFUSALS[:1]
    query = RunQuery(starts=starts)
    relayed = RelayedQuery("1", SECOND, wait=SECOND, meta={}, query=query)
    with pytest.raises(PoolExhaustedError) as raised:
        await pool.relay_run("s", relayed)
    await pool.aclose()
    assert raised.value.retryable is not starts
    assert ("may have run" in str(raised.value)) is starts


async def test_a_full_custom_pool_refuses_a_new_session_before_code_is_sent() -> None:
    pool = CustomSessionPool("http://localhost", credential="token", patience=0)
    pool._kind = "cci"
    pool._build_mcp_client = Mock()  # type: ignore[method-assign]
    mcp = pool._build_mcp_client.return_value
    mcp.ping, mcp.call_tool = AsyncMock(side_effect=[REFUSALS[0], None]), AsyncMock()
    mcp.call_tool.side_effect = [REFUSALS[0]] * 2
    for _ in range(3):
        with pytest.raises(PoolExhaustedError) as raised:
            await pool.execute("s", "1", timeout=1)
        is_first = mcp.call_tool.await_count == 0
        assert raised.value.retryable is is_first
        assert ("may have run" in str(raised.value)) is not is_first
    await pool.aclose()
    assert (mcp.ping.await_count, mcp.call_tool.await_count) == (2, 2)

"""A run that no answer reports is never a success, and its code is not said to have run or not."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import anyio
import pytest

from cci_plugins.errors import PoolError, ProtocolError
from cci_plugins.mcp_client.executions import META_KEY, dump_execution
from cci_plugins.mcp_client.failures import MAY_HAVE_RUN
from cci_plugins.models import Execution
from cci_plugins.pools.azure.mcp_pool import PlatformSessionPool
from cci_plugins.pools.azure.rest_pool import CustomSessionPool
from cci_plugins.pools.base import SessionPool
from cci_plugins.pools.run_exchange import BACKGROUND_KEY, HELD_KEY, HOST_TOOLS_KEY, RunReport

from .test_malformed_servers import GOOD, scripted

pytestmark = pytest.mark.anyio
CCI = {
    "serverInfo": {"name": "cci-plugins", "version": "1"},
    "capabilities": {"experimental": {BACKGROUND_KEY: {"supported": True}, HOST_TOOLS_KEY: {}}},
}
ENDED = {HELD_KEY: RunReport("ended").dump()}
TEXT = [{"type": "text", "text": "The run is ended."}]
GOOD_META = {META_KEY: dump_execution(Execution(stdout="hi"))}


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


def build_answers(call: Any, server: dict[str, Any] = CCI, **more: Any) -> dict[str, Any]:
    handshake = {**GOOD["initialize"], **server}
    return {**GOOD, "initialize": handshake, "tools/call": call, **more}


def make_pool(kind: str, url: str) -> SessionPool:
    options: dict[str, Any] = {"patience": timedelta(0), "margin": timedelta(seconds=1)}
    if kind == "platform":
        return PlatformSessionPool(f"{url}/mcp", key="a-key", **options)
    return CustomSessionPool(url, credential="a-token", **options)


@pytest.mark.parametrize("kind", ["platform", "custom"])
@pytest.mark.parametrize(
    "call",
    [
        {},
        {"content": []},
        {"content": [], "_meta": {}},
        {"content": [], "_meta": "text", "isError": False},
        {"content": [{"type": "text", "text": ""}]},
        {"content": [{"text": "no type"}]},
        {"content": "text", "structuredContent": {}},
        {"structuredContent": {"stdout": None, "result": None}},
        {"content": [], "_meta": {META_KEY: None}},
        {"content": [], "_meta": {META_KEY: {"stdout": "a"}}},
    ],
)
async def test_an_answer_of_our_server_without_an_execution_leaves_the_outcome_open(
    kind: str, call: Any
) -> None:
    with anyio.fail_after(20):
        async with (
            scripted(build_answers(call), b"", 200, None) as url,
            make_pool(kind, url) as pool,
        ):
            with pytest.raises(ProtocolError, match=MAY_HAVE_RUN) as caught:
                await pool.execute("session", "1", timeout=timedelta(seconds=2))
    assert not caught.value.retryable


@pytest.mark.parametrize("meta", [ENDED, {HELD_KEY: RunReport("unknown").dump()}, {}])
async def test_a_run_in_the_background_that_ended_without_an_execution_is_not_a_success(
    meta: dict[str, Any],
) -> None:
    answers = build_answers({"content": TEXT, "_meta": meta})
    with anyio.fail_after(20):
        async with scripted(answers, b"", 200, None) as url, make_pool("platform", url) as pool:
            with pytest.raises(PoolError, match=MAY_HAVE_RUN) as caught:
                await pool.execute_in_background("session", "1", timeout=timedelta(seconds=2))
    assert not caught.value.retryable


@pytest.mark.parametrize("call", [{}, {"content": []}, {"structuredContent": {"done": "yes"}}])
async def test_a_restart_or_interrupt_that_no_answer_reports_is_an_error(call: Any) -> None:
    with anyio.fail_after(20):
        async with (
            scripted(build_answers(call), b"", 200, None) as url,
            make_pool("platform", url) as pool,
        ):
            for method in (pool.restart_session, pool.interrupt):
                with pytest.raises(ProtocolError, match="does not report"):
                    await method("session")


@pytest.mark.parametrize("kind", ["platform", "custom"])
@pytest.mark.parametrize("nothing", [{}, {"result": None}, {"value": []}])
async def test_a_text_only_pool_whose_answers_report_nothing_is_an_error(
    kind: str, nothing: dict[str, Any]
) -> None:
    other = {"serverInfo": {"name": "other", "version": "1"}}
    answers = build_answers({"structuredContent": nothing}, other, executions=nothing)
    with anyio.fail_after(20):
        async with scripted(answers, b"", 200, None) as url, make_pool(kind, url) as pool:
            with pytest.raises(PoolError) as caught:
                await pool.execute("session", "1", timeout=timedelta(seconds=2))
    assert any(
        text in str(caught.value)
        for text in ("the code was not sent", "cut the session's answer", MAY_HAVE_RUN)
    )


async def test_ordinary_content_of_a_server_with_our_name_is_used() -> None:
    for call, stdout in (
        ({"content": [{"type": "text", "text": "hi"}]}, "hi"),
        ({"content": [{"type": "text", "text": '{"stdout": "", "status": "Succeeded"}'}]}, ""),
        ({"structuredContent": {"stdout": "a", "stderr": ""}}, "a"),
        ({"structuredContent": {"answer": 42}}, '{"answer": 42}'),
        ({"content": [], "_meta": GOOD_META}, "hi"),
    ):
        async with (
            scripted(build_answers(call), b"", 200, None) as url,
            make_pool("platform", url) as pool,
        ):
            execution = await pool.execute("session", "1", timeout=timedelta(seconds=2))
        assert (execution.stdout, execution.status) == (stdout, "succeeded")

"""Variables, interrupt and restart over MCP: what the server takes from our client."""

from __future__ import annotations

from typing import Any

import pytest

from cci_plugins import Execution, Limits
from cci_plugins.mcp_client import failures
from cci_plugins.mcp_client.executions import ENV_KEY, INTERRUPT, RESTART
from cci_plugins.pools.base import Capabilities
from cci_plugins.server.mcp.environments import SignedEnvironments
from cci_plugins.server.mcp.tools import RUN_PYTHON, PlatformTools, ToolCallResult
from cci_plugins.testing import FakeSessionPool

pytestmark = pytest.mark.anyio
ENVIRONMENT = {"environmentId": "session-1"}
TOKEN = "planted-7d2e9c"


class PlainPool(FakeSessionPool):
    """A pool without variables."""

    capabilities = Capabilities(name="plain")


async def call(tools: PlatformTools, name: str, arguments: Any, **meta: Any) -> ToolCallResult:
    result = await tools.call(name, arguments, meta)
    assert result is not None
    return result


async def test_the_tools_for_our_client_are_not_listed() -> None:
    pool = FakeSessionPool()
    tools = PlatformTools(pool, Limits())
    assert {INTERRUPT, RESTART}.isdisjoint(tool["name"] for tool in tools.list_tools())
    assert (await call(tools, INTERRUPT, ENVIRONMENT)).structured == {"done": False}
    assert (await call(tools, RESTART, ENVIRONMENT)).structured == {"done": True}
    assert pool.restarts == ["session-1"]
    assert (await call(tools, RESTART, {})).is_error


async def test_nobody_reaches_a_session_whose_id_was_not_issued() -> None:
    pool = FakeSessionPool()
    tools = PlatformTools(pool, Limits(), SignedEnvironments(b"x" * 32))
    for name in (INTERRUPT, RESTART):
        result = await call(tools, name, ENVIRONMENT)
        assert result.is_error
        assert "EnvironmentNotFound" in str(result.content)
    assert pool.restarts == []


async def test_secrets_of_a_request_are_hidden_in_its_answer() -> None:
    pool = FakeSessionPool(Execution(stdout=f"{TOKEN} and plain-value"))
    tools = PlatformTools(pool, Limits())
    env = {"values": {"A": TOKEN, "B": "plain-value"}, "secrets": ["A"]}
    arguments = ENVIRONMENT | {"pythonCode": "1"}
    result = await call(tools, RUN_PYTHON, arguments, **{ENV_KEY: env})
    assert TOKEN not in f"{result.content}{result.structured}{result.meta}"
    assert "plain-value" in str(result.content)
    assert pool.environments["session-1"] == env["values"]


@pytest.mark.parametrize("env", [{}, {"values": {"A B": "1"}, "secrets": []}, 7])
async def test_variables_that_cannot_be_set_are_refused_before_the_code_runs(env: Any) -> None:
    pool = FakeSessionPool()
    arguments = ENVIRONMENT | {"pythonCode": "1"}
    result = await call(PlatformTools(pool, Limits()), RUN_PYTHON, arguments, **{ENV_KEY: env})
    assert (result.is_error, pool.calls) == (True, [])


async def test_a_pool_without_variables_refuses_them_with_the_reason() -> None:
    pool = PlainPool()
    env = {"values": {"A": "1"}, "secrets": []}
    arguments = ENVIRONMENT | {"pythonCode": "1"}
    result = await call(PlatformTools(pool, Limits()), RUN_PYTHON, arguments, **{ENV_KEY: env})
    error = failures.load_error(result.meta[failures.META_KEY])
    assert "'plain' cannot set environment variables" in str(error)
    assert pool.calls == []

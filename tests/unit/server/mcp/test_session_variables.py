"""Variables that a server gives the code of its sessions."""

from __future__ import annotations

from typing import Any

import pytest

from cci_plugins.common.environment import build_session_environment
from cci_plugins.common.limits import Limits
from cci_plugins.mcp_client import executions
from cci_plugins.server.mcp.sessions import McpSessions
from cci_plugins.server.mcp.tools import RUN_PYTHON, PlatformTools
from cci_plugins.testing import FakeSessionPool

pytestmark = pytest.mark.anyio
SERVER = build_session_environment({"TZ": "UTC", "CITY": "Bonn"})


async def run(tools: PlatformTools, environment: str, env: dict[str, str] | None = None) -> None:
    meta: dict[str, Any] = {}
    if env is not None:
        meta[executions.ENV_KEY] = executions.dump_env(build_session_environment(env))
    answer = await tools.call(RUN_PYTHON, {"environmentId": environment, "pythonCode": "1"}, meta)
    assert answer is not None
    assert not answer.is_error, answer


async def test_every_run_brings_the_variables_of_the_server() -> None:
    pool = FakeSessionPool()
    tools = PlatformTools(pool, Limits(), env=SERVER)

    await run(tools, "environment-1")

    assert list(pool.environments.values()) == [{"TZ": "UTC", "CITY": "Bonn"}]


async def test_variables_of_a_client_win_and_calls_without_any_leave_them() -> None:
    pool = FakeSessionPool()
    tools = PlatformTools(pool, Limits(), env=SERVER)

    await run(tools, "environment-1", {"TZ": "Asia/Tokyo"})
    given = dict(pool.environments)
    await run(tools, "environment-1")  # such as a transfer of a file
    await run(tools, "environment-2")

    assert list(given.values()) == [{"TZ": "Asia/Tokyo", "CITY": "Bonn"}]
    assert list(pool.environments.values()) == [{}, {"TZ": "UTC", "CITY": "Bonn"}]


async def test_sessions_of_mcp_clients_get_them() -> None:
    pool = FakeSessionPool()
    sessions = McpSessions(pool, Limits(), env=SERVER)

    await sessions.get_environment("environment-1").run_code("1")

    assert list(pool.environments.values()) == [{"TZ": "UTC", "CITY": "Bonn"}]
    await sessions.aclose()

"""The tools of a platform pool, under the names that servers are reported to use."""

import asyncio
from datetime import timedelta
from types import SimpleNamespace

import anyio
import httpx
import pytest

from cci_plugins.errors import ProtocolError
from cci_plugins.pools.azure.mcp_pool import PlatformSessionPool, find_python_tool
from cci_plugins.pools.azure.rest_pool import CustomSessionPool

RUN = "runPythonCodeInRemoteEnvironment"


@pytest.mark.parametrize("name", [RUN, "runPythonCode", "run_python_code_in_remote_environment"])
def test_the_tool_is_found_under_its_names(name):
    assert find_python_tool([{"name": "launchPythonEnvironment"}, {"name": name}]) == name


def test_the_error_of_a_pool_without_python_lists_its_tools():
    with pytest.raises(ProtocolError, match="only launchShell"):
        find_python_tool([{"name": "launchShell"}])


@pytest.mark.anyio
@pytest.mark.parametrize("kind", ["platform", "custom"])
async def test_a_redirect_fails_at_once_and_is_named(kind, monkeypatch):
    async def redirect(*_):
        return httpx.Response(307, headers={"location": "https://login.example/x?secret=1"})

    monkeypatch.setattr(httpx.AsyncHTTPTransport, "handle_async_request", redirect)
    pool = (
        PlatformSessionPool("https://pool.example/mcp", key="a-key")
        if kind == "platform"
        else CustomSessionPool("https://pool.example", credential="a-token")
    )
    with anyio.fail_after(20):
        with pytest.raises(ProtocolError, match=r"redirect to 'login\.example'"):
            await pool.execute("s", "1", timeout=timedelta(seconds=5))
        with pytest.raises(ProtocolError, match=r"redirect to 'login\.example'"):
            await pool.list_files("s")
        await pool.aclose()


@pytest.mark.anyio
async def test_first_calls_at_once_share_the_environment_that_a_server_issues(monkeypatch):
    launched = []

    async def launch(_):
        await anyio.sleep(0.01)
        launched.append(f"environment-{len(launched)}")
        return launched[-1]

    pool = PlatformSessionPool("https://pool.example/mcp", key="a-key")
    monkeypatch.setattr(pool, "_launch_environment", launch)
    server = SimpleNamespace(requires_launch=True)
    calls = [pool._get_environment(server, session) for session in ("a", "a", "b", "a")]
    first, second, other, third = await asyncio.gather(*calls)
    assert first == second == third != other
    assert len(launched) == 2
    await pool.aclose()

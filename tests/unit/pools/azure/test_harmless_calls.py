"""What a refusal of a run cannot prove is found out by code that does nothing."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import anyio
import httpx
import pytest

from cci_plugins.errors import CodeInterpreterError, PoolUnavailableError, SessionLostError
from cci_plugins.pools.azure import remote_pool
from cci_plugins.pools.azure.mcp_pool import RUN_PYTHON, PlatformSessionPool
from cci_plugins.pools.azure.remote_pool import HARMLESS

pytestmark = pytest.mark.anyio

LIMIT = timedelta(seconds=5)


class Server:
    """MCP server of a platform pool that knows some environments only, and runs nothing."""

    def __init__(self, *known: str, status: int = 200) -> None:
        self.known, self.status, self.sent = set(known), status, list[tuple[str, str]]()

    def __call__(self, request: httpx.Request) -> httpx.Response:
        message = json.loads(request.content)
        if "id" not in message:
            return httpx.Response(202)
        params = message.get("params", {})
        result: dict[str, Any] = {"serverInfo": {"name": "x", "version": "1"}}
        if message["method"] == "tools/list":
            result = {"tools": [{"name": "launchShell"}, {"name": RUN_PYTHON}]}
        elif params.get("name") == "launchShell":
            self.known.add(name := f"issued-{len(self.known)}")
            result = {"structuredContent": {"environmentId": name}}
        elif params.get("name") == RUN_PYTHON:
            environment, code = params["arguments"].values()
            self.sent.append((environment, "run" if "get_ipython" in code else code))
            if self.status != 200:
                return httpx.Response(self.status)
            if environment not in self.known:
                error = {"code": -32000, "message": f"Environment not found: {environment}"}
                body = {"jsonrpc": "2.0", "id": message["id"], "error": error}
                return httpx.Response(200, json=body)
            result = {"structuredContent": {"stdout": ""}}
        return httpx.Response(200, json={"jsonrpc": "2.0", "id": message["id"], "result": result})

    def pool(self) -> PlatformSessionPool:
        pool = PlatformSessionPool("https://pool.example/mcp", key="a-key", patience=0)
        pool._http = httpx.AsyncClient(transport=httpx.MockTransport(self), auth=pool._http.auth)
        return pool


async def run(pool: PlatformSessionPool) -> CodeInterpreterError:
    with pytest.raises(CodeInterpreterError) as caught:  # no agent answers
        await pool.execute("session-1", "1", timeout=LIMIT)
    return caught.value


async def test_code_is_sent_to_an_id_that_the_server_accepts_only() -> None:
    server = Server()
    await run(server.pool())
    assert server.sent[0] == ("session-1", HARMLESS)
    assert ("issued-0", "run") in server.sent
    assert ("session-1", "run") not in server.sent


async def test_an_id_of_ones_own_is_checked_once() -> None:
    server = Server("session-1")
    pool = server.pool()
    await run(pool)
    await run(pool)
    assert [code for _, code in server.sent].count(HARMLESS) == 1


async def test_an_issued_id_that_expired_is_noticed_before_the_code_is_sent() -> None:
    server = Server()
    pool = server.pool()
    await run(pool)
    server.known.clear()
    server.sent.clear()
    lost = await run(pool)
    assert isinstance(lost, SessionLostError)
    assert lost.retryable
    assert server.sent == [("issued-0", HARMLESS)]


async def test_a_failure_of_the_check_states_that_the_code_was_not_sent() -> None:
    server = Server(status=500)
    failed = await run(server.pool())
    assert isinstance(failed, PoolUnavailableError)
    assert "HTTP 500" in str(failed)
    assert str(failed).endswith("the code was not sent")
    assert {code for _, code in server.sent} == {HARMLESS}


@pytest.mark.parametrize("known", [(), ("session-1",)])
async def test_a_check_without_an_answer_takes_about_as_long_as_the_run_may(
    known: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote_pool, "START_TIME", timedelta(seconds=0.2))
    server = Server(*known)

    async def answer(request: httpx.Request) -> httpx.Response:
        if HARMLESS in request.content.decode():
            await anyio.sleep_forever()
        return server(request)

    pool = server.pool()
    pool._http = httpx.AsyncClient(transport=httpx.MockTransport(answer), auth=pool._http.auth)
    pool._margin = timedelta(seconds=0.1)
    with anyio.fail_after(20), pytest.raises(PoolUnavailableError, match="was not sent"):
        await pool.execute("session-1", "1", timeout=timedelta(seconds=0.1))

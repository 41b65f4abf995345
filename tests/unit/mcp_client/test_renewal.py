"""Calls at the same time after a restart of the server, and headers that it chooses."""

from __future__ import annotations

import json
from datetime import timedelta
from functools import partial

import anyio
import httpx
import pytest

from cci_plugins.errors import PoolError, PoolUnavailableError, ProtocolError
from cci_plugins.mcp_client.client import McpClient

pytestmark = pytest.mark.anyio

SECOND = timedelta(seconds=5)


class Restarted:
    """Server whose MCP sessions are lost whenever it restarts."""

    def __init__(self) -> None:
        self.session, self.handshakes, self.calls = 1, 0, 0
        self.waiting, self.go = 0, anyio.Event()

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        message = json.loads(request.content)
        if message["method"] == "initialize":
            self.handshakes += 1
            await anyio.sleep(0.01)
            result = {"protocolVersion": "2025-03-26"}
            return self.reply(message, result, {"mcp-session-id": f"s{self.session}"})
        if "id" not in message:
            return httpx.Response(202)
        if request.headers["mcp-session-id"] != f"s{self.session}":
            self.waiting += 1
            if self.waiting == 3:
                self.go.set()
            await self.go.wait()  # all of them are refused after all were sent
            return httpx.Response(404, json={"error": {"message": "Session not found"}})
        self.calls += 1
        return self.reply(message, {"content": []})

    def reply(
        self, message: dict[str, object], result: object, headers: dict[str, str] | None = None
    ) -> httpx.Response:
        body = {"jsonrpc": "2.0", "id": message["id"], "result": result}
        return httpx.Response(200, json=body, headers=headers)


def build_client(handler: object) -> McpClient:
    http = httpx.AsyncClient(transport=httpx.MockTransport(handler))  # type: ignore[arg-type]
    return McpClient("https://pool.example/mcp", http=http, timeout=SECOND)


async def test_three_calls_after_a_restart_renew_once_and_all_succeed() -> None:
    server = Restarted()
    client = build_client(server)
    await client.call_tool("run", {}, timeout=SECOND)
    server.session = 2
    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(partial(client.call_tool, "run", {}, timeout=SECOND))
    assert (server.handshakes, server.calls) == (2, 4)


@pytest.mark.parametrize("status", [400, 410])
async def test_a_session_that_a_server_refuses_in_its_own_way_is_renewed_for_the_next_call(
    status: int,
) -> None:
    server = Restarted()
    server.go.set()

    async def answer(request: httpx.Request) -> httpx.Response:
        response = await server(request)
        return httpx.Response(status) if response.status_code == 404 else response

    client = build_client(answer)
    await client.call_tool("run", {}, timeout=SECOND)
    server.session = 2
    with pytest.raises(ProtocolError, match="may have run"):
        await client.call_tool("run", {}, timeout=SECOND)
    await client.call_tool("run", {}, timeout=SECOND)
    assert (server.handshakes, server.calls) == (2, 2)


async def test_a_lost_mcp_session_is_not_a_lost_session_of_code() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        message = json.loads(request.content)
        if message["method"] == "initialize":
            body = {"jsonrpc": "2.0", "id": message["id"], "result": {}}
            return httpx.Response(200, json=body, headers={"mcp-session-id": "s"})
        if "id" not in message:
            return httpx.Response(202)
        return httpx.Response(404, json={"error": {"message": "Session not found"}})

    with pytest.raises(PoolError, match="Session not found"):
        await build_client(answer).call_tool("run", {}, timeout=SECOND)


async def test_a_session_of_a_handshake_that_failed_is_not_used_for_the_next_one() -> None:
    server = Restarted()
    failing: list[int] = []

    async def answer(request: httpx.Request) -> httpx.Response:
        message = json.loads(request.content)
        if "id" not in message and failing:
            server.session = failing.pop()  # it restarts once more
            return httpx.Response(503)
        if message["method"] == "initialize" and "mcp-session-id" in request.headers:
            return httpx.Response(404, json={"error": {"message": "Session not found"}})
        return await server(request)

    client = build_client(answer)
    server.go.set()
    await client.call_tool("run", {}, timeout=SECOND)
    server.session, failing = 2, [3]
    with anyio.fail_after(20):
        with pytest.raises(PoolUnavailableError, match="503"):
            await client.call_tool("run", {}, timeout=SECOND)
        await client.call_tool("run", {}, timeout=SECOND)
    assert (server.handshakes, server.calls) == (3, 2)


@pytest.mark.parametrize(
    ("version", "session", "name"),
    [
        ("\u00e9", b"s", "protocolVersion"),
        ("a\r\nb", b"s", "protocolVersion"),
        ("x" * 5_000, b"s", "protocolVersion"),
        ("2025-03-26", "\u00e9".encode(), "Mcp-Session-Id"),
        ("2025-03-26", b"a b", "Mcp-Session-Id"),
    ],
)
async def test_what_no_header_can_hold_is_a_protocol_error(
    version: str, session: bytes, name: str
) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        message = json.loads(request.content)
        result = {"protocolVersion": version}
        body = {"jsonrpc": "2.0", "id": message.get("id"), "result": result}
        headers = [(b"mcp-session-id", session)]
        return httpx.Response(200, json=body, headers=headers)

    with pytest.raises(ProtocolError, match=f"invalid {name}"):
        await build_client(answer).list_tools()


async def test_calls_that_wait_for_a_handshake_share_its_failure() -> None:
    handshakes, errors = 0, list[Exception]()

    async def answer(_: httpx.Request) -> httpx.Response:
        nonlocal handshakes
        handshakes += 1
        await anyio.sleep(0.05)
        return httpx.Response(503)

    client = build_client(answer)

    async def call() -> None:
        try:
            await client.call_tool("run", {}, timeout=SECOND)
        except PoolUnavailableError as error:
            errors.append(error)

    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            for _ in range(5):
                tasks.start_soon(call)
        assert (handshakes, len(errors)) == (1, 5)
        await call()
    assert (handshakes, len(errors)) == (2, 6)

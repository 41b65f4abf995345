"""Tests of requests that are spread over several pools of connections."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator

import httpx
import pytest

from cci_plugins.mcp_client.http import make_http
from cci_plugins.mcp_client.spread_transport import POOLS

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Body(httpx.AsyncByteStream):
    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield b"done"


Connections = list[asyncio.StreamWriter]


async def start_server() -> tuple[asyncio.Server, str, Connections]:
    """Start a server that answers every request of a connection.

    Returns:
        The server, its URL, and the connections that it has had.
    """

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(writer)
        while await reader.readline():
            while (await reader.readline()).strip():
                pass
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
        writer.close()

    connections: Connections = []
    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    return server, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/", connections


async def test_one_request_after_the_other_uses_one_connection() -> None:
    server, url, connections = await start_server()
    async with server, make_http() as http:
        for _ in range(10):
            assert (await http.get(url)).text == "ok"
        assert len(connections) == 1


async def test_requests_at_once_are_spread_and_connections_are_used_again() -> None:
    server, url, connections = await start_server()
    async with server, make_http() as http:
        for _ in range(3):
            answers = await asyncio.gather(*(http.get(url) for _ in range(4 * POOLS)))
            assert {answer.text for answer in answers} == {"ok"}
        assert len(connections) <= 4 * POOLS


async def test_a_request_counts_until_its_answer_is_closed_or_it_fails(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    used: list[httpx.AsyncHTTPTransport] = []

    async def handle(self: httpx.AsyncHTTPTransport, request: httpx.Request) -> httpx.Response:
        used.append(self)
        if request.url.path == "/fails":
            raise httpx.ConnectError("no")
        return httpx.Response(200, stream=Body())

    monkeypatch.setattr(httpx.AsyncHTTPTransport, "handle_async_request", handle)
    async with make_http() as http:
        open_answers = [
            await http.send(http.build_request("GET", "http://localhost/"), stream=True)
            for _ in range(2 * POOLS)
        ]
        assert set(Counter(used).values()) == {2}
        for answer in open_answers:
            await answer.aread()
            await answer.aclose()
        used.clear()
        for _ in range(3):
            with pytest.raises(httpx.ConnectError):
                await http.get("http://localhost/fails")
            assert (await http.get("http://localhost/")).text == "done"
        assert len(set(used)) == 1


async def test_a_proxy_of_the_environment_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    seen: list[object] = []

    async def handle(self: httpx.AsyncHTTPTransport, request: httpx.Request) -> httpx.Response:
        seen.append(type(self._pool).__name__)
        return httpx.Response(200, text=str(request.url))

    monkeypatch.setattr(httpx.AsyncHTTPTransport, "handle_async_request", handle)
    async with make_http() as http:
        await http.get("http://pool.test/")
        await http.get("http://127.0.0.1:9/")
    assert seen == ["AsyncHTTPProxy", "AsyncConnectionPool"]

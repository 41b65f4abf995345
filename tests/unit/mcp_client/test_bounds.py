"""Every answer has a bound in bytes, pages and time, and is bounded while it is decoded."""

from __future__ import annotations

import gzip
import json
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from functools import cache

import anyio
import httpx
import pytest

from cci_plugins.common.http_bodies import CHUNK_BYTES
from cci_plugins.errors import (
    CodeInterpreterError,
    ExecutionTimeoutError,
    PoolError,
    PoolUnavailableError,
    ProtocolError,
)
from cci_plugins.mcp_client import bodies, messages
from cci_plugins.mcp_client import client as client_module
from cci_plugins.mcp_client.bodies import iterate_body, limit_pace, read_body
from cci_plugins.mcp_client.client import McpClient
from cci_plugins.pools.azure import rest_client
from cci_plugins.pools.azure.rest_client import RestClient

pytestmark = pytest.mark.anyio

SECOND = timedelta(seconds=1)
HELLO = {"protocolVersion": "2025-03-26", "serverInfo": {"name": "x", "version": "1"}}


class Body(httpx.AsyncByteStream):
    """Body of chunks, without end if it repeats them, that counts what was taken from it."""

    def __init__(self, *chunks: bytes, repeats: bool = False, pause: float = 0) -> None:
        self.chunks, self.repeats, self.pause, self.taken = chunks, repeats, pause, 0

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while True:
            for chunk in self.chunks:
                await anyio.sleep(self.pause)
                self.taken += len(chunk)
                yield chunk
            if not self.repeats:
                return


def reply(body: Body, status: int = 200, **headers: str) -> httpx.Response:
    return httpx.Response(
        status, stream=body, headers={name.replace("_", "-"): headers[name] for name in headers}
    )


def build_client(answer: Callable[[str], httpx.Response]) -> McpClient:
    """Return a client of a server that answers each method but the handshake by a function."""

    def handle(request: httpx.Request) -> httpx.Response:
        message = json.loads(request.content)
        if message["method"] == "initialize":
            body = {"jsonrpc": "2.0", "id": message["id"], "result": HELLO}
            return httpx.Response(200, json=body)
        if "id" not in message:
            return httpx.Response(202)
        assert request.headers["accept-encoding"] == "gzip"
        return answer(message["id"])

    http = httpx.AsyncClient(transport=httpx.MockTransport(handle))
    return McpClient("https://pool.example/mcp", http=http, timeout=SECOND)


def build_rest(answer: Callable[[httpx.Request], httpx.Response]) -> RestClient:
    http = httpx.AsyncClient(transport=httpx.MockTransport(answer))
    return RestClient("https://pool.example", http=http, timeout=SECOND)


@cache
def build_bomb() -> bytes:
    return gzip.compress(bytes(64 * 1024 * 1024))


async def test_a_gzip_bomb_is_stopped_while_it_is_decoded() -> None:
    chunks = [build_bomb()[at : at + 1000] for at in range(0, len(build_bomb()), 1000)]
    body, sizes = Body(*chunks), list[int]()

    async def read() -> None:
        async for chunk in iterate_body(reply(body, content_encoding="gzip"), limit=1_000_000):
            sizes.append(len(chunk))

    with pytest.raises(ProtocolError, match="larger than 1,000,000 bytes"):
        await read()
    assert max(sizes) <= CHUNK_BYTES
    assert sum(sizes) <= 1_000_000
    assert body.taken < len(build_bomb()) // 10


@pytest.mark.parametrize(
    ("data", "encoding", "expected"),
    [
        (b"abc", "", b"abc"),
        (gzip.compress(b"abc" * 500_000), "gzip", b"abc" * 500_000),
        (gzip.compress(b"abc"), "x-gzip", b"abc"),
        (b"", "gzip", b""),
        (gzip.compress(b"abc" * 1000)[:-20], "gzip", "ended too early"),
        (b"no gzip", "gzip", "is not gzip"),
        (b"x", "br", "not asked for"),
        (b"x", "gzip, gzip", "not asked for"),
    ],
    # gzip has the time in its header, and every worker must give a test the same name
    ids=["plain", "large", "x-gzip", "empty", "cut", "no-gzip", "brotli", "twice"],
)
async def test_a_body_arrives_whole_or_is_an_error(
    data: bytes, encoding: str, expected: bytes | str
) -> None:
    pieces = [data[at : at + 7] for at in range(0, min(len(data), 70), 7)] + [data[70:]]
    answer = reply(Body(*pieces), content_encoding=encoding)
    if isinstance(expected, bytes):
        assert await read_body(answer, 10_000_000) == expected
        return
    with pytest.raises(ProtocolError, match=expected):
        await read_body(answer, 10_000_000)


@pytest.mark.parametrize("kind", ["application/json", "text/event-stream"])
@pytest.mark.parametrize("status", [200, 500])
async def test_an_answer_without_end_is_an_error_that_the_code_may_have_run(
    kind: str, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "RUN_BYTES", 1_000_000)
    body = Body(b": " + b"x" * 9_998, repeats=True)
    client = build_client(lambda _: reply(body, status, content_type=kind))
    with anyio.fail_after(20), pytest.raises(PoolError, match="may have run"):
        await client.call_tool("run", {}, timeout=timedelta(seconds=15))
    assert body.taken < 3_000_000


async def test_a_slow_body_ends_with_the_time_of_the_run() -> None:
    body = Body(b" ", repeats=True, pause=0.05)
    for kind in ("application/json", "text/event-stream"):
        client = build_client(lambda _, kind=kind: reply(body, content_type=kind))
        with anyio.fail_after(20), pytest.raises(ExecutionTimeoutError, match="may have run"):
            await client.call_tool("run", {}, timeout=timedelta(seconds=0.3))


async def test_a_list_of_tools_with_ever_new_cursors_ends() -> None:
    asked: list[str] = []

    def answer(request_id: str) -> httpx.Response:
        asked.append(request_id)
        result = {"tools": [{"name": "a"}], "nextCursor": str(request_id)}
        return httpx.Response(200, json={"jsonrpc": "2.0", "id": request_id, "result": result})

    with anyio.fail_after(20), pytest.raises(CodeInterpreterError):
        await build_client(answer).list_tools()
    assert len(asked) <= client_module.MAX_PAGES


@pytest.mark.parametrize("kind", ["application/json", "text/event-stream"])
async def test_the_pages_of_a_list_have_a_bound_together(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bodies.ByteBudget.__init__, "__defaults__", (50_000,))

    def answer(request_id: str) -> httpx.Response:
        result = {"tools": [{"name": "a" * 9_000}], "nextCursor": str(request_id)}
        text = json.dumps({"jsonrpc": "2.0", "id": request_id, "result": result})
        if kind != "application/json":
            text = f"data: {text}\n\n"
        return httpx.Response(200, text=text, headers={"content-type": kind})

    with pytest.raises(ProtocolError, match="list is larger than 50,000 bytes"):
        await build_client(answer).list_tools()

    def page(request: httpx.Request) -> httpx.Response:
        link = f"https://pool.example/files?skip={len(request.url.query)}"
        entry = {"name": "a" * 9_000, "size": 1, "identifier": "b" * 9_000}
        entries = {"value": [entry], "sessions": [entry], "nextLink": link}
        return httpx.Response(200, json=entries)

    for listing in (build_rest(page).list_files("s"), build_rest(page).list_sessions()):
        with pytest.raises(ProtocolError, match="list is larger than 50,000 bytes"):
            await listing


async def test_json_of_very_many_values_is_refused_and_long_text_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(messages, "MAX_MEMORY", 1_000_000)
    with pytest.raises(ProtocolError, match="too many values"):
        messages.decode_json(b"[" + b"[]," * 100_000 + b"0]")
    text = json.dumps({"stdout": '[{,"\\' * 100_000}).encode()
    assert messages.decode_json(text)["stdout"].startswith("[{,")


async def test_a_list_of_files_with_pages_without_end_is_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rest_client, "MAX_PAGES", 5)

    def page(request: httpx.Request) -> httpx.Response:
        link = f"https://pool.example/files?skip={len(request.url.query)}"
        return httpx.Response(200, json={"value": [], "nextLink": link})

    with anyio.fail_after(20), pytest.raises(ProtocolError, match="more than 5 pages"):
        await build_rest(page).list_files("s")


async def test_answers_of_the_rest_api_are_bounded_in_bytes_and_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rest_client, "REPLY_BYTES", 100_000)
    endless = Body(b"[" * 10_000, repeats=True)
    with anyio.fail_after(20), pytest.raises(ProtocolError, match="larger than"):
        await build_rest(lambda _: reply(endless)).list_files("s")
    for status in (200, 500):
        slow = Body(b" ", repeats=True, pause=0.05)
        with anyio.fail_after(20), pytest.raises(PoolUnavailableError, match="within 1 s"):
            await build_rest(lambda _, s=status, b=slow: reply(b, s)).list_files("s")


async def test_the_answer_to_an_upload_that_never_comes_ends() -> None:
    received = []

    async def answer(request: httpx.Request) -> httpx.Response:
        received.append(await request.aread())
        await anyio.sleep_forever()  # as a server does whose headers never end
        raise AssertionError

    async def slow() -> AsyncIterator[bytes]:
        for _ in range(3):
            await anyio.sleep(0.2)  # the time of the body does not count
            yield b"abc"

    client = RestClient(
        "https://pool.example",
        http=httpx.AsyncClient(transport=httpx.MockTransport(answer)),
        timeout=timedelta(seconds=0.3),
    )
    with anyio.fail_after(20), pytest.raises(PoolUnavailableError, match=r"within 0\.3 s"):
        await client.upload("s", "a.txt", slow())
    assert b"\r\n\r\nabcabcabc\r\n--" in received[0]


async def test_a_download_that_drips_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rest_client, "MIN_PACE", 1_000)
    drip = Body(b"x", repeats=True, pause=0.05)
    client = RestClient(
        "https://pool.example",
        http=httpx.AsyncClient(transport=httpx.MockTransport(lambda _: reply(drip))),
        timeout=timedelta(seconds=0.3),
    )
    with anyio.fail_after(20), pytest.raises(PoolUnavailableError, match="sent only"):
        async for _ in client.download("s", "a.txt"):
            pass


async def test_the_pace_of_a_caller_does_not_count() -> None:
    chunks = iterate_body(reply(Body(b"a", b"b")), limit=None)
    seen = []
    async for chunk in limit_pace(chunks, timedelta(seconds=0.2), 1_000):
        seen.append(chunk)
        await anyio.sleep(0.3)
    assert seen == [b"a", b"b"]


async def test_a_long_error_keeps_its_status() -> None:
    assert await bodies.read_error_body(reply(Body(b"x" * 1_000_000), 500)) == b""
    assert await bodies.read_error_body(reply(Body(b"reason"), 500)) == b"reason"

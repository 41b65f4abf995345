"""Large results of MCP arrive whole, and do not stall the server's event loop."""

from __future__ import annotations

import base64
import json
import os
import time
import urllib.request
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Any

import anyio
import anyio.to_thread
import pytest
import uvicorn

from cci_plugins.mcp_client.client import McpClient
from cci_plugins.mcp_client.executions import CONTENT_KEY, META_KEY, dump_execution
from cci_plugins.models import Execution, Result
from cci_plugins.pools.azure.cci_server import read_execution_of
from cci_plugins.server.mcp import compat
from cci_plugins.server.mcp.answers import ToolCallResult
from cci_plugins.server.mcp.compat import McpCompatApp
from cci_plugins.server.mcp.large_answers import LargeAnswers
from cci_plugins.server.mcp.sdk import McpEndpoint

pytestmark = pytest.mark.anyio

MIB = 1024 * 1024
EVENTS = "application/json, text/event-stream"


def build_result(size: int) -> ToolCallResult:
    """Return the result of a run that displayed an image of a size in base64."""
    data = base64.b64encode(os.urandom(size // 4 * 3)).decode()
    text = "caf\u00e9 \u2028 \U0001f600\n" * 10
    execution = Execution(stdout=text, results=(Result({"image/png": data}, is_main=True),))
    return ToolCallResult(
        [{"type": "text", "text": text}, {"type": "image", "data": data, "mimeType": "image/png"}],
        {"stdout": text, "values": [None, 1.5, {"a": []}] * 10_000},
        meta={META_KEY: dump_execution(execution)},
    )


class Tools:
    """One tool with one result."""

    def __init__(self, result: ToolCallResult) -> None:
        self.result = result

    def list_tools(self) -> list[dict[str, Any]]:
        return [{"name": "run", "inputSchema": {"type": "object"}}]

    async def call(
        self, name: str, arguments: object, meta: Mapping[str, Any], on_output: object = None
    ) -> ToolCallResult:
        return self.result


class Files:
    """Resources with one file."""

    def __init__(self, content: dict[str, Any]) -> None:
        self.content = content

    async def read(self, uri: str) -> dict[str, Any]:
        return self.content


@asynccontextmanager
async def serving(result: ToolCallResult, resources: Any = None) -> AsyncIterator[str]:
    endpoint = McpEndpoint(Tools(result), resources=resources)
    config = uvicorn.Config(
        McpCompatApp(endpoint, MIB), port=0, log_level="error", lifespan="off", ws="none"
    )
    server = uvicorn.Server(config)
    async with endpoint.run(), anyio.create_task_group() as tasks:
        tasks.start_soon(server._serve)
        while not server.started:
            await anyio.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        try:
            yield f"http://127.0.0.1:{port}/mcp"
        finally:
            server.should_exit = True


def fetch(
    url: str, *, accept: str = "application/json", method: str = "tools/call", **meta: Any
) -> bytes:
    """Send a request as a foreign client does, and return the body of the answer."""
    params: dict[str, Any] = {"name": "run", "arguments": {}, "_meta": meta}
    if method == "resources/read":
        params = {"uri": "session:///a%20b"}
    body = {"jsonrpc": "2.0", "id": 7, "method": method, "params": params}
    headers = {"content-type": "application/json", "accept": accept}
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=60) as response:
        raw = response.read()
        assert int(response.headers.get("content-length") or len(raw)) == len(raw)
    return raw


def decode(raw: bytes) -> dict[str, Any]:
    """Return the reply in a body, which is JSON or a stream of events."""
    if not raw.startswith(b"{"):
        raw = next(line for line in raw.splitlines() if b'"result"' in line).removeprefix(b"data:")
    reply: dict[str, Any] = json.loads(raw)
    return reply


async def call(url: str, **options: Any) -> dict[str, Any]:
    return decode(await anyio.to_thread.run_sync(partial(fetch, url, **options)))


def leave_to_sdk(patch: pytest.MonkeyPatch) -> None:
    """Let the SDK answer and encode everything."""

    async def keep(_: LargeAnswers, fields: object) -> None:
        """Keep nothing."""

    patch.setattr(LargeAnswers, "keep", keep)
    patch.setattr(compat, "parse_direct_call", lambda *_: None)


async def test_a_client_of_any_kind_gets_the_same_large_result_as_from_the_sdk(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    large = build_result(MIB)
    for is_error, meta in ((False, large.meta), (True, {"a": None}), (False, {})):
        async with serving(replace(large, is_error=is_error, meta=meta)) as url:
            plain = await call(url)
            streamed = await call(url, accept=EVENTS, progressToken="t")
            with monkeypatch.context() as patch:
                leave_to_sdk(patch)
                expected = await call(url)
        assert plain == expected
        assert streamed == expected
        assert expected["result"]["isError"] is is_error
        assert len(expected["result"]["content"]) == 2


async def test_a_large_file_is_read_as_from_the_sdk(monkeypatch: pytest.MonkeyPatch) -> None:
    for field in ("text", "blob"):
        content = {"uri": "session:///a%20b", "mimeType": "text/plain", field: "YWJj" * 500_000}
        resources: Any = Files(content)
        async with serving(build_result(4), resources) as url:
            replies = [await call(url, method="resources/read")]
            with monkeypatch.context() as patch:
                leave_to_sdk(patch)
                replies.append(await call(url, method="resources/read"))
        assert replies[0] == replies[1]
        assert replies[0]["result"]["contents"] == [content]


async def test_the_sdk_may_add_to_a_large_result() -> None:
    answers, sent = LargeAnswers(), list[Any]()

    async def send(message: Any) -> None:
        sent.append(message)

    text, data = "x" * MIB, b""
    for own in ({}, {"a": 1}, {"a": text}):
        token = await answers.keep({"content": [text], "_meta": own})
        result = {"resultType": "complete", "content": [{"text": token}], "_meta": {"b": 2}}
        message = (
            b"event: message\r\ndata: %s\r\n\r\n" % json.dumps({"id": 1, "result": result}).encode()
        )
        sent.clear()
        await answers.wrap(send)({"type": "http.response.body", "body": message, "more_body": True})
        data = b"".join(one["body"] for one in sent)
        assert all(one["more_body"] for one in sent)
        event = json.loads(data.removeprefix(b"event: message\r\ndata: ").removesuffix(b"\r\n\r\n"))
        expected = {"resultType": "complete", "content": [text], "_meta": {**own, "b": 2}}
        assert event == {"id": 1, "result": expected}


async def test_our_client_gets_the_execution_once() -> None:
    result = build_result(2 * MIB)
    async with serving(result) as url:
        client = McpClient(url)
        for on_progress in (None, lambda _: None):
            for meta in ({}, {CONTENT_KEY: False}):
                answer = await client.call_tool(
                    "run", {}, timeout=timedelta(seconds=60), meta=meta, on_progress=on_progress
                )
                execution = read_execution_of(answer, "s")
                assert dump_execution(execution) == result.meta[META_KEY]
                assert len(answer.content) == (0 if meta else 2)
                assert (answer.structured is None) == bool(meta)
        await client.aclose()


async def test_a_result_without_an_execution_keeps_its_content() -> None:
    async with serving(ToolCallResult([{"type": "text", "text": "failed"}], is_error=True)) as url:
        reply = await call(url, **{CONTENT_KEY: False})
    assert reply["result"]["content"] == [{"type": "text", "text": "failed"}]


async def test_a_large_result_does_not_stall_the_event_loop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    longest = 0.0

    async def tick() -> None:
        nonlocal longest
        while True:
            begun = time.perf_counter()
            await anyio.sleep(0.01)
            longest = max(longest, time.perf_counter() - begun)

    async with serving(build_result(24 * MIB)) as url, anyio.create_task_group() as tasks:
        tasks.start_soon(tick)
        longest = 0.0
        with monkeypatch.context() as patch:
            leave_to_sdk(patch)
            await anyio.to_thread.run_sync(fetch, url)  # undecoded: this is the server's process
        before, pauses = longest, []
        for _ in range(3):  # the least of them is not that of a busy machine
            longest = 0.0
            await anyio.to_thread.run_sync(fetch, url)
            pauses.append(longest)
        tasks.cancel_scope.cancel()
    assert min(pauses) < before / 2

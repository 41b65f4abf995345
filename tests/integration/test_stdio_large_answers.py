"""Large results over standard output arrive whole, and do not stall the server's event loop."""

from __future__ import annotations

import base64
import gc
import json
import os
import threading
import time
from collections.abc import AsyncIterator, Mapping
from io import TextIOWrapper
from typing import Any

import anyio
import anyio.from_thread
import anyio.lowlevel
import pytest

from cci_plugins.server.mcp import stdio
from cci_plugins.server.mcp.answers import ToolCallResult
from cci_plugins.server.mcp.large_answers import LargeAnswers, large_answers
from cci_plugins.server.mcp.sdk import make_server

pytestmark = pytest.mark.anyio

MIB = 1024 * 1024
HELLO = {
    "protocolVersion": "2025-06-18",
    "capabilities": {},
    "clientInfo": {"name": "test", "version": "1"},
}


class Tools:
    """One tool with one result."""

    def __init__(self, size: int) -> None:
        data = base64.b64encode(os.urandom(size // 4 * 3)).decode()
        text = "caf\u00e9 \u2028 \U0001f600\n"
        image = {"type": "image", "data": data, "mimeType": "image/png"}
        self.result = ToolCallResult(
            [{"type": "text", "text": text}, image],
            {"stdout": text, "values": [None, 1.5, {"a": []}] * (size // 1_000)},
            meta={"own": {"a": 1}},
        )

    def list_tools(self) -> list[dict[str, Any]]:
        return [{"name": "run", "inputSchema": {"type": "object"}}]

    async def call(
        self, name: str, arguments: object, meta: Mapping[str, Any], on_output: object = None
    ) -> ToolCallResult:
        return self.result


def build_request(number: int, method: str, params: dict[str, Any]) -> str:
    return json.dumps({"jsonrpc": "2.0", "id": number, "method": method, "params": params})


class Connection:
    """One client that calls the tool, and then sends a ping.

    Attributes:
        longest: The longest pause of the event loop in seconds.
    """

    def __init__(self) -> None:
        self.lines: list[bytes] = []
        self.longest = 0.0
        self._is_done = anyio.Event()

    async def talk(self, tools: Tools) -> list[dict[str, Any]]:
        """Return the replies to the call and the ping."""
        reading, writing = os.pipe()
        loop_token = anyio.lowlevel.current_token()

        def read() -> None:
            with os.fdopen(reading, "rb") as source:
                for line in source:
                    self.lines.append(line)
                    if len(self.lines) == 3:
                        anyio.from_thread.run_sync(self._is_done.set, token=loop_token)

        reader = threading.Thread(target=read)
        reader.start()
        server = make_server(tools, None, streams=True)
        answers = stdio._ConnectionAnswers()
        token = large_answers.set(answers)
        try:
            with TextIOWrapper(os.fdopen(writing, "wb"), encoding="utf-8", newline="\n") as output:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(self._tick)
                    async with stdio._open_streams(self._write(), output, answers) as (one, other):
                        await server.run(one, other, server.create_initialization_options())
                    tasks.cancel_scope.cancel()
        finally:
            large_answers.reset(token)
            reader.join()
        assert not answers._encoded
        replies = {reply["id"]: reply for reply in map(json.loads, self.lines)}
        return [replies[2], replies[3]]

    async def _write(self) -> AsyncIterator[str]:
        yield build_request(1, "initialize", HELLO)
        yield json.dumps({"jsonrpc": "2.0", "method": "notifications/initialized"})
        yield build_request(2, "tools/call", {"name": "run", "arguments": {}})
        yield build_request(3, "ping", {})
        with anyio.fail_after(60):
            await self._is_done.wait()

    async def _tick(self) -> None:
        gc.collect()
        while True:
            begun = time.perf_counter()
            await anyio.sleep(0.005)
            self.longest = max(self.longest, time.perf_counter() - begun)


async def leave_to_sdk(_: LargeAnswers, fields: object) -> None:
    """Keep nothing."""


async def test_a_large_result_is_the_sdks_and_stalls_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tools = Tools(24 * MIB)
    by_sdk = Connection()
    with monkeypatch.context() as patch:
        patch.setattr(LargeAnswers, "keep", leave_to_sdk)
        expected = await by_sdk.talk(tools)
    pauses = []
    for _ in range(3):  # the least of them is not that of a busy machine
        ours = Connection()
        assert await ours.talk(tools) == expected
        pauses.append(ours.longest)
    assert expected[0]["result"]["content"] == tools.result.content
    assert min(pauses) < by_sdk.longest / 2, (pauses, by_sdk.longest)


async def test_a_result_whose_call_was_cancelled_is_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(stdio, "_FORGET_SECONDS", 0.05)
    answers = stdio._ConnectionAnswers()

    async def keep() -> None:
        await answers.keep({"content": ["x" * MIB]})
        await anyio.sleep_forever()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(keep)
        with anyio.fail_after(30):
            while not answers._encoded:
                await anyio.sleep(0.01)
        await anyio.sleep(0.1)
        assert answers._encoded
        tasks.cancel_scope.cancel()
    with anyio.fail_after(30):
        while answers._encoded:
            await anyio.sleep(0.01)

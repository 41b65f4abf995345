"""The session's end of calls of host tools, against the app's own end."""

from __future__ import annotations

import asyncio
import builtins
import datetime as dt
import decimal
import enum
import socket
import uuid
from collections.abc import AsyncIterator
from concurrent.futures import CancelledError
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import pytest

from cci_plugins.in_session.host_tools import (
    METADATA_KEY,
    ToolClient,
    Tools,
    install_tools,
    open_channel,
)
from cci_plugins.in_session.tool_arguments import (
    ToolArgumentError,
    ToolError,
    ToolLimitError,
    bind_arguments,
    build_signature,
    encode_arguments,
)
from cci_plugins.pools.local.isolation.tool_sockets import LoopbackSocket
from cci_plugins.pools.local.tool_channel import ToolChannel, ToolRun
from cci_plugins.pools.tool_host import ToolBounds, ToolHost, ToolParameter, ToolSpec

pytestmark = pytest.mark.anyio
SPEC = ToolSpec(
    "echo",
    (
        ToolParameter("a", "int"),
        ToolParameter("class", "str", "'x'"),
        ToolParameter("b", "int", "1"),
    ),
    "list",
    "Return the arguments.",
)
BOUNDS = ToolBounds(20, 2, 1000, 10_000, timedelta(seconds=9), timedelta(seconds=9))


class Echo(ToolHost):
    """Returns the arguments. It waits for `released` if they have a 7."""

    def __init__(self) -> None:
        self.specs = (SPEC,)
        self.bounds = BOUNDS
        self.started = self.cancelled = self.most = self._now = 0
        self.released = anyio.Event()

    async def call(self, name: str, arguments: str) -> str:
        self.started += 1
        self._now += 1
        self.most = max(self.most, self._now)
        try:
            if "7" in arguments:
                await self.released.wait()
            await anyio.sleep(0.01)
        except BaseException:
            self.cancelled += 1
            raise
        finally:
            self._now -= 1
        return arguments


@pytest.fixture
async def session() -> AsyncIterator[SimpleNamespace]:
    """A client that is connected to a channel over loopback, as on Windows."""
    host = Echo()
    channel = ToolChannel(LoopbackSocket("key"))
    async with ToolRun(channel, host, lambda: None) as run:
        client = ToolClient(lambda: open_channel(channel.address or {}))
        await anyio.to_thread.run_sync(client.begin, run.metadata[METADATA_KEY])
        yield SimpleNamespace(client=client, tools=Tools(client), host=host, channel=channel)
    channel.close()
    client.end()
    with anyio.fail_after(10):
        while not client._is_closed:
            await anyio.sleep(0.01)


async def test_threads_and_tasks_call_at_once(session: SimpleNamespace) -> None:
    tools, host = session.tools, session.host
    assert await anyio.to_thread.run_sync(lambda: tools.echo(1, b=2)) == {"a": 1, "b": 2}
    found = await asyncio.gather(*(tools.acall("echo", n) for n in range(6)))
    assert found == [{"a": n} for n in range(6)]
    assert host.most == BOUNDS.at_once
    assert await anyio.to_thread.run_sync(lambda: tools.call("echo", a=3)) == {"a": 3}
    assert dir(tools) == ["acall", "call", "echo"]
    assert repr(tools) == "tools.echo(a: int, b: int = 1, **more) -> list"
    assert tools.echo.__doc__ == "Return the arguments."
    assert not hasattr(tools, "secret")
    with pytest.raises(ToolLimitError, match="1,000"):
        await tools.acall("echo", "x" * 1000)
    for _ in range(12):
        await tools.acall("echo", 1)
    with pytest.raises(ToolLimitError, match="20 calls"):
        await tools.acall("echo", 1)


async def test_cancelling_and_the_end_of_the_run_end_calls(session: SimpleNamespace) -> None:
    tools, host, client = session.tools, session.host, session.client
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(tools.acall("echo", 7), 0.1)
    with anyio.fail_after(10):
        while not host.cancelled:
            await anyio.sleep(0.01)
    waiting = [client.submit("echo", (7,), {}) for _ in range(4)]
    waiting[3].cancel()
    with anyio.fail_after(10):
        while host.started < 3:
            await anyio.sleep(0.01)
    client.end()
    for future in waiting[:3]:
        with pytest.raises(ToolError, match="the run ended"):
            await asyncio.wrap_future(future)
    with pytest.raises(CancelledError):
        waiting[3].result()
    with pytest.raises(ToolError, match="no run with host tools"):
        await tools.acall("echo", 1)
    client.begin(None)
    with pytest.raises(ToolError, match="no run with host tools"):
        tools.echo(1)


async def test_a_closed_connection_fails_all_calls(session: SimpleNamespace) -> None:
    call = session.client.submit("echo", (7,), {})
    with anyio.fail_after(10):
        while not session.host.started:
            await anyio.sleep(0.01)
    session.channel.fail("a test")
    with pytest.raises(ToolError, match="closed the connection"):
        await asyncio.wrap_future(call)
    with pytest.raises(ToolError, match="closed the connection"):
        await session.tools.acall("echo", 1)


class Colour(enum.Enum):
    RED = "red"


@dataclass
class Point:
    x: int


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({1, 2}, "[1, 2]"),
        (decimal.Decimal("1.50"), '"1.50"'),
        (dt.datetime(2026, 1, 2, 3), '"2026-01-02T03:00:00"'),  # noqa: DTZ001
        (Path("a/b"), '"a/b"'),
        (uuid.UUID(int=1), '"00000000-0000-0000-0000-000000000001"'),
        (Colour.RED, '"red"'),
        (Point(3), '{"x": 3}'),
    ],
)
def test_common_values_become_json(value: Any, text: str) -> None:
    assert encode_arguments("f", {"a": value}) == f'{{"a": {text}}}'.encode()


def test_arrays_and_tables_become_json() -> None:
    numpy, pandas = pytest.importorskip("numpy"), pytest.importorskip("pandas")
    frame = pandas.DataFrame({"n": [1, 2], "t": ["x", "y"]})
    values = {"i": numpy.int64(3), "l": numpy.arange(2), "s": frame["n"], "f": frame}
    assert encode_arguments("f", values) == (
        b'{"i": 3, "l": [0, 1], "s": [1, 2], "f": [{"n": 1, "t": "x"}, {"n": 2, "t": "y"}]}'
    )


@pytest.mark.parametrize("value", [object(), b"x", float("inf"), {(1, 2): 3}])
def test_other_values_are_refused_with_the_reason(value: Any) -> None:
    with pytest.raises(ToolArgumentError, match=r"arguments of f\(\) are not JSON data"):
        encode_arguments("f", {"a": value})


@pytest.mark.parametrize(
    ("arguments", "options", "reason"),
    [
        ((), {}, "needs 'a'"),
        ((1, 2, 3, 4), {}, "got 4 arguments"),
        ((1,), {"a": 2}, "two values for 'a'"),
        ((), {"c": 1}, "has no parameter 'c'; the parameters are a, class, b"),
    ],
)
def test_wrong_arguments_are_named(arguments: Any, options: Any, reason: str) -> None:
    spec = {
        "name": "echo",
        "accepts_more": False,
        "parameters": [
            {"name": one.name, "annotation": one.annotation, "default": one.default}
            for one in SPEC.parameters
        ],
    }
    assert bind_arguments(spec, (1,), {"class": "y"}) == {"a": 1, "class": "y"}
    with pytest.raises(ToolArgumentError, match=reason):
        bind_arguments(spec, arguments, options)
    assert "class" not in str(build_signature({**spec, "returns": "Any"}))


async def test_tools_appear_with_the_first_run_that_has_some() -> None:
    ours, theirs = socket.socketpair()
    metadata: dict[str, Any] = {}

    class Kernel:
        def get_parent(self, channel: str) -> dict[str, Any]:
            return {"metadata": metadata}

        async def do_execute(self) -> list[str]:
            return dir(builtins.tools) if hasattr(builtins, "tools") else []  # type: ignore[attr-defined]

    kernel: Any = Kernel()
    install_tools(kernel, None)
    install_tools(kernel, {"descriptor": theirs.detach()})
    try:
        assert await kernel.do_execute() == []
        bounds = {"calls": 1, "call_bytes": 1, "at_once": 1}
        tool: dict[str, Any] = {
            "name": "f",
            "parameters": [],
            "documentation": "",
            "returns": "",
            "accepts_more": False,
        }
        metadata[METADATA_KEY] = {"run": "1", "tools": [tool], "bounds": bounds}
        assert await kernel.do_execute() == ["acall", "call", "f"]
        metadata.clear()
        assert await kernel.do_execute() == ["acall", "call"]
    finally:
        ours.close()
        del builtins.tools  # type: ignore[attr-defined]

"""The app's end of the socket for host tools, against a session that sends anything."""

from __future__ import annotations

import hmac
import json
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import anyio
import pytest

from cci_plugins.errors import ToolCallError
from cci_plugins.pools.local.isolation.tool_sockets import InheritedSocket, LoopbackSocket
from cci_plugins.pools.local.tool_channel import ToolChannel, ToolRun
from cci_plugins.pools.tool_host import ToolBounds, ToolHost, ToolSpec, WaitClock

pytestmark = pytest.mark.anyio
BOUNDS = ToolBounds(10, 2, 1000, 5000, timedelta(seconds=5), timedelta(seconds=5))


class Echo(ToolHost):
    """Answers each call with its arguments, once the test allows it."""

    def __init__(self) -> None:
        self.specs = (ToolSpec("echo"),)
        self.bounds = BOUNDS
        self.calls: list[tuple[str, str]] = []
        self.cancelled = 0
        self.allowed = anyio.Event()
        self.allowed.set()

    async def call(self, name: str, arguments: str) -> str:
        self.calls.append((name, arguments))
        try:
            await self.allowed.wait()
        except BaseException:
            self.cancelled += 1
            raise
        if name == "refuse":
            raise ToolCallError("no", kind="denied")
        if name == "break":
            raise RuntimeError("a fault of the host")
        return arguments


class SessionEnd:
    """A session that writes and reads frames, as hostile code could."""

    def __init__(self, end: socket.socket, run: ToolRun) -> None:
        self._end = end
        self.run = run.id

    def send(self, header: Any, payload: bytes = b"") -> None:
        self.send_raw(json.dumps(header).encode() + b"\n" + payload)

    def send_raw(self, frame: bytes) -> None:
        self._end.sendall(len(frame).to_bytes(4, "big") + frame)

    def call(self, number: int, payload: bytes = b"{}", name: str = "echo") -> None:
        self.send({"call": number, "run": self.run, "name": name}, payload)

    def write(self, data: bytes) -> None:
        self._end.sendall(data)

    async def read(self) -> tuple[dict[str, Any], Any]:
        with anyio.fail_after(10):
            return await anyio.to_thread.run_sync(self._read)

    def _read(self) -> tuple[dict[str, Any], Any]:
        size = int.from_bytes(self._end.recv(4, socket.MSG_WAITALL), "big")
        header, _, payload = self._end.recv(size, socket.MSG_WAITALL).partition(b"\n")
        return json.loads(header), json.loads(payload)


@asynccontextmanager
async def open_run(
    host: ToolHost, channel: ToolChannel | None = None, end: socket.socket | None = None
) -> AsyncIterator[tuple[ToolChannel, SessionEnd, ToolRun]]:
    if channel is None or end is None:
        pair = InheritedSocket()
        end = pair._session.dup()
        pair.close_session_end()
        channel = ToolChannel(pair)
        try:
            async with ToolRun(channel, host, lambda: None) as run:
                yield channel, SessionEnd(end, run), run
        finally:
            channel.close()
            end.close()
    else:
        async with ToolRun(channel, host, lambda: None) as run:
            yield channel, SessionEnd(end, run), run


async def wait_until(is_true: Callable[[], object]) -> None:
    with anyio.fail_after(10):
        while not is_true():
            await anyio.sleep(0.005)


async def test_calls_are_answered_by_their_numbers() -> None:
    host = Echo()
    async with open_run(host) as (channel, session, run):
        assert run.metadata["cci_tools"]["tools"][0]["name"] == "echo"
        session.call(1, b'{"a":1}')
        assert await session.read() == ({"call": 1}, {"a": 1})
        session.call(2, name="refuse")
        assert await session.read() == ({"call": 2, "error": "denied"}, "no")
        session.call(3, name="break")
        assert (await session.read())[0] == {"call": 3, "error": "failed"}
        host.allowed = anyio.Event()
        session.call(4)
        await wait_until(lambda: len(host.calls) == 4)
        assert run.clock.remaining > 0
        session.send({"cancel": 4, "run": session.run})
        await wait_until(lambda: host.cancelled)
        assert run.clock.remaining == 0
        session.call(5)
        await wait_until(lambda: len(host.calls) == 5)
    assert host.cancelled == 2
    assert channel.failure is None


async def test_frames_of_an_earlier_run_are_dropped_and_the_channel_goes_on() -> None:
    host = Echo()
    async with open_run(host) as (channel, session, _):
        end = session._end
        session.write((40).to_bytes(4, "big") + b"half")  # the run ends within a frame
        await anyio.sleep(0.05)
        async with open_run(Echo(), channel, end):
            pass
        async with open_run(host, channel, end) as (_, later, _):
            later.write(b"x" * 36)
            await wait_until(lambda: channel.failure)
    assert channel.failure == "its code sent an invalid message: a header that is not JSON"
    host = Echo()
    async with open_run(host) as (channel, session, _):
        session.send({"call": 1, "run": "an earlier one", "name": "echo"}, b"{}")
        session.call(2)
        assert (await session.read())[0] == {"call": 2}
    assert host.calls == [("echo", "{}")]


async def test_only_so_many_calls_run_and_nothing_more_is_read() -> None:
    host = Echo()
    host.allowed = anyio.Event()
    async with open_run(host) as (channel, session, run):
        for number in range(10):
            session.call(number)
        await wait_until(lambda: len(run._calls) == 4)
        await anyio.sleep(0.05)
        assert (len(host.calls), len(run._calls)) == (2, 4)
        host.allowed.set()
        answers = [(await session.read())[0]["call"] for _ in range(10)]
        assert sorted(answers) == list(range(10))
    assert channel.failure is None


INVALID: dict[str, Callable[[SessionEnd], object]] = {
    "a message of 4,294,967,295 bytes": lambda end: end.write(b"\xff" * 50),
    "a header that is not JSON": lambda end: end.send_raw(b"hello"),
    "a header that is not an object": lambda end: end.send_raw(b"[]"),
    "a header that is too long": lambda end: end.send_raw(b"x" * 1100),
    "a call without a number or a name of its own": lambda end: end.send(
        {"call": 1, "run": end.run}
    ),
    "arguments that are not text": lambda end: end.call(1, b"\xff\xfe"),
    "more than 84 messages": lambda end: [end.send({"cancel": 1}) for _ in range(100)],
    "bytes in one run": lambda end: [end.send({"x": "x" * 900}, b"x" * 1000) for _ in range(80)],
}


@pytest.mark.parametrize("reason", INVALID)
async def test_an_invalid_message_closes_the_channel_for_good(reason: str) -> None:
    host = Echo()
    host.allowed = anyio.Event()
    async with open_run(host) as (channel, session, _):
        session.call(50)
        await wait_until(lambda: host.calls)
        try:
            await anyio.to_thread.run_sync(INVALID[reason], session)
        except OSError:
            pass
        await wait_until(lambda: channel.failure)
        assert reason in str(channel.failure)
        await wait_until(lambda: host.cancelled)
        async with open_run(host, channel, session._end):
            await anyio.sleep(0.05)
    assert len(host.calls) == 1


async def test_a_number_is_used_once_at_a_time() -> None:
    host = Echo()
    host.allowed = anyio.Event()
    async with open_run(host) as (channel, session, _):
        session.call(7)
        session.call(7)
        await wait_until(lambda: channel.failure)
    assert "of its own" in str(channel.failure)


async def test_a_session_that_does_not_read_gets_no_further_answers() -> None:
    host = Echo()
    host.bounds = ToolBounds(100, 2, 1 << 20, 1 << 30, BOUNDS.wait, BOUNDS.wait)
    async with open_run(host) as (_, session, run):
        payload = b'"' + b"x" * 900_000 + b'"'
        with anyio.move_on_after(1):
            await anyio.to_thread.run_sync(
                lambda: [session.call(number, payload) for number in range(20)],
                abandon_on_cancel=True,
            )
        assert len(host.calls) < 12
        assert run.clock.remaining == 0
        session._end.shutdown(socket.SHUT_RDWR)


async def test_a_loopback_connection_needs_the_kernels_key() -> None:
    listener = LoopbackSocket("the-key")
    address = ("127.0.0.1", listener.address["port"])

    def answer(key: bytes) -> socket.socket:
        end = socket.create_connection(address)
        challenge = end.recv(64, socket.MSG_WAITALL)
        end.sendall(hmac.digest(key, challenge, "sha256"))
        return end

    channel, host = ToolChannel(listener), Echo()
    async with ToolRun(channel, host, lambda: None) as run:
        with anyio.fail_after(10):
            stranger = await anyio.to_thread.run_sync(answer, b"another key")
            assert await anyio.to_thread.run_sync(stranger.recv, 1) == b""
            end = await anyio.to_thread.run_sync(answer, b"the-key")
        session = SessionEnd(end, run)
        session.call(1)
        assert (await session.read())[0] == {"call": 1}
    channel.close()
    stranger.close()
    end.close()


async def test_the_clock_counts_time_with_a_call_in_progress_once() -> None:
    clock = WaitClock(0.05)
    assert (clock.seconds, clock.remaining) == (0, 0)
    clock.begin()
    clock.begin()
    clock.end()
    await anyio.sleep(0.1)
    assert clock.seconds == 0.05
    clock.end()
    assert (clock.seconds, clock.remaining) == (0.05, 0)

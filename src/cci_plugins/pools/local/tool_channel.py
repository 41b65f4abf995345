"""The app's end of a session's calls of host tools: `ToolChannel` and `ToolRun`.

The session's end is `in_session/host_tools`. A frame is a 4-byte length and as many bytes: a line
of JSON, and the arguments or the result as JSON. The session sends

- `{"call": 7, "run": "...", "name": "..."}` and the arguments,
- `{"cancel": 7, "run": "..."}`,

and gets `{"call": 7}` with the result, or `{"call": 7, "error": "..."}` with a text.

Untrusted code can write to its end as it likes, so:

- Sizes are checked before anything is read or parsed. `ToolHost` checks what a call means.
- Only frames that name the current run count. That name is random and new for each run, so what is
  left of an earlier run is dropped. A run without tools reads nothing.
- At most `at_once` calls run. While twice as many wait, nothing is read, and the session's end
  blocks. An answer that the session does not read keeps its place, so answers cannot pile up.
- Frames and bytes of a run are bounded. A session that exceeds them, or sends what is not a frame,
  has its channel closed for good. Its code goes on, and its calls fail (`ToolChannel.failure`).
- When a run ends, for whatever reason, its calls are cancelled and its ids forgotten
  (`ToolRun.stop`).
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from secrets import token_hex
from types import TracebackType
from typing import Any, Self

from cci_plugins.common.cancellation import run_to_end
from cci_plugins.common.log import logger
from cci_plugins.errors import ToolCallError
from cci_plugins.in_session.host_tools import METADATA_KEY
from cci_plugins.pools.tool_host import MAX_NAME_CHARACTERS, ToolHost, WaitClock

from .isolation.base import ToolSocket

LENGTH_BYTES = 4
MAX_HEADER_BYTES = 1024
EXTRA_FRAMES = 64  # of a run, beyond its calls and their cancellations
MAX_UNREAD = 2  # answers of the largest size that a session may leave unread
STOP_SECONDS = 5.0  # for the calls of a run to end when they are cancelled


class ChannelError(Exception):
    """What the session sent is not a frame, or too much."""


class ToolChannel:
    """The connection to one kernel. It opens with the first run that has tools.

    Attributes:
        failure: Why it is closed, as a clause, or None.
    """

    def __init__(self, socket: ToolSocket | None) -> None:
        self.failure: str | None = None
        self._socket = socket
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._length: int | None = None  # of a frame whose header was read

    @property
    def address(self) -> dict[str, Any] | None:
        """How the session opens its end, or None where it has none."""
        return None if self._socket is None else self._socket.address

    async def connect(self, max_unread: int) -> None:
        """Open the connection, unless it is open.

        Args:
            max_unread: Most bytes of answers to earlier runs that the session has not read.

        Raises:
            OSError: It is closed.
            ChannelError: More bytes are unread.
        """
        if self._socket is None or self.failure is not None:
            raise OSError("the channel is closed")
        writer = self._writer
        if writer is None:
            host = await self._socket.connect()
            writer = await run_to_end(self._open(host))  # a later run uses it, too
        if writer.transport.get_write_buffer_size() > max_unread:
            raise ChannelError("it does not read its answers")

    async def _open(self, host: socket.socket) -> asyncio.StreamWriter:
        self._reader, self._writer = await asyncio.open_connection(sock=host)
        return self._writer

    async def read_frame(self, limit: int) -> bytes:
        """Read a frame. A cancelled call loses nothing.

        Args:
            limit: Most bytes.

        Raises:
            ChannelError: It is larger.
            EOFError: The session closed its end.
        """
        if self._reader is None:
            raise EOFError
        if self._length is None:
            head = await self._reader.readexactly(LENGTH_BYTES)
            self._length = int.from_bytes(head, "big")
        if self._length > limit:
            raise ChannelError(f"a message of {self._length:,} bytes")
        frame = await self._reader.readexactly(self._length)
        self._length = None
        return frame

    async def send(self, header: dict[str, Any], payload: str) -> None:
        """Send a frame, and wait while the session reads too slowly."""
        if self._writer is None:
            return
        frame = b"%s\n%s" % (json.dumps(header).encode(), payload.encode())
        self._writer.write(len(frame).to_bytes(LENGTH_BYTES, "big") + frame)
        await self._writer.drain()

    def fail(self, reason: str) -> None:
        """Close the connection for good.

        Args:
            reason: Why, as a clause.
        """
        self.failure = self.failure or reason
        self.close()

    def close(self) -> None:
        """Close the connection. A second call does nothing."""
        if self._writer is not None:
            self._writer.transport.abort()
        if self._socket is not None:
            self._socket.close()


class ToolRun:
    """The calls of one run, within an `async with` around it.

    Args:
        channel: The connection to the kernel.
        host: Answers the calls. None for a run without tools, which does nothing.
        on_change: Called when the run's clock goes on, because no call is in progress.
    """

    def __init__(
        self, channel: ToolChannel, host: ToolHost | None, on_change: Callable[[], object]
    ) -> None:
        self.id = token_hex(8)
        self.clock = WaitClock(0.0 if host is None else host.bounds.wait.total_seconds())
        self._channel = channel
        self._host = host
        self._on_change = on_change
        self._calls: dict[int, asyncio.Task[None]] = {}
        self._reader: asyncio.Task[None] | None = None
        self._has_room = asyncio.Event()
        self._frames = self._bytes = 0
        self._places = asyncio.Semaphore(1 if host is None else host.bounds.at_once)

    @property
    def metadata(self) -> dict[str, Any]:
        """Metadata of the execute request, by which the session knows its tools."""
        if self._host is None:
            return {}
        bounds = self._host.bounds
        description = {
            "run": self.id,
            "tools": [asdict(spec) for spec in self._host.specs],
            "bounds": {
                "calls": bounds.calls,
                "call_bytes": bounds.call_bytes,
                "at_once": bounds.at_once,
            },
        }
        return {METADATA_KEY: description}

    async def __aenter__(self) -> Self:
        if self._host is not None:
            self._reader = asyncio.create_task(self._serve(self._host))
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self.stop()
        tasks = [task for task in (self._reader, *self._calls.values()) if task is not None]
        if tasks:
            await asyncio.wait(tasks, timeout=STOP_SECONDS)

    def stop(self) -> None:
        """Read nothing more, and cancel every call in progress."""
        for task in (self._reader, *self._calls.values()):
            if task is not None:
                task.cancel()

    async def _serve(self, host: ToolHost) -> None:
        limit = host.bounds.call_bytes + MAX_HEADER_BYTES
        try:
            await self._channel.connect(MAX_UNREAD * limit)
            while True:
                while len(self._calls) >= 2 * host.bounds.at_once:
                    self._has_room.clear()
                    await self._has_room.wait()
                self._handle(host, await self._channel.read_frame(limit))
        except ChannelError as error:
            self._fail(f"its code sent an invalid message: {error}")
        except (OSError, EOFError):
            self._fail("its code closed the connection")

    def _fail(self, reason: str) -> None:
        logger.info("the channel for host tools of a session was closed: %s", reason)
        self._channel.fail(reason)
        for task in self._calls.values():
            task.cancel()

    def _handle(self, host: ToolHost, frame: bytes) -> None:
        """Handle a frame, which may be anything.

        Raises:
            ChannelError: It is not a frame, or one too many.
        """
        bounds = host.bounds
        self._frames += 1
        self._bytes += len(frame)
        if self._frames > 2 * bounds.calls + EXTRA_FRAMES:
            raise ChannelError(f"more than {self._frames - 1:,} messages in one run")
        if self._bytes > 2 * bounds.total_bytes + self._frames * MAX_HEADER_BYTES:
            raise ChannelError(f"{self._bytes:,} bytes in one run")
        fields, payload = _parse_frame(frame)
        if fields.get("run") != self.id:
            return  # of an earlier run
        cancelled = self._calls.get(_get_number(fields, "cancel"))
        if cancelled is not None:
            cancelled.cancel()
        if "call" in fields:
            self._start_call(host, fields, payload)

    def _start_call(self, host: ToolHost, fields: dict[str, Any], payload: bytes) -> None:
        number, name = _get_number(fields, "call"), fields.get("name")
        if number in self._calls or not isinstance(name, str):
            raise ChannelError("a call without a number or a name of its own")
        try:
            arguments = payload.decode()
        except UnicodeDecodeError:
            raise ChannelError("arguments that are not text") from None
        task = asyncio.create_task(
            self._answer(host, number, name[:MAX_NAME_CHARACTERS], arguments)
        )
        self._calls[number] = task
        task.add_done_callback(lambda _: self._forget(number))

    def _forget(self, number: int) -> None:
        del self._calls[number]
        self._has_room.set()

    async def _answer(self, host: ToolHost, number: int, name: str, arguments: str) -> None:
        header: dict[str, Any] = {"call": number}
        async with self._places:
            self.clock.begin()
            try:
                payload = await host.call(name, arguments)
            except ToolCallError as error:
                header["error"], payload = error.kind, json.dumps(str(error))
            except Exception:  # noqa: BLE001 - the host's fault must not end the run
                logger.exception("a call of a host tool failed unexpectedly")
                header["error"], payload = "failed", json.dumps("the host failed unexpectedly")
            finally:
                self.clock.end()
                self._on_change()
            with suppress(OSError):
                await self._channel.send(header, payload)


def _parse_frame(frame: bytes) -> tuple[dict[str, Any], bytes]:
    head, _, payload = frame.partition(b"\n")
    if len(head) > MAX_HEADER_BYTES:
        raise ChannelError("a header that is too long")
    try:
        fields = json.loads(head)
    except (ValueError, RecursionError):
        raise ChannelError("a header that is not JSON") from None
    if not isinstance(fields, dict):
        raise ChannelError("a header that is not an object")
    return fields, payload


def _get_number(fields: dict[str, Any], key: str) -> int:
    number = fields.get(key)
    return number if type(number) is int else -1

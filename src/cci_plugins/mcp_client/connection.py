"""One connection of HTTP/1.1 on asyncio: bytes from h11 out, bytes for h11 in.

A request leaves in as few packets as it fits in, because each packet wakes the server. The answer
is read only as fast as somebody takes it.
"""

from __future__ import annotations

import asyncio
import contextlib
import select
from collections.abc import Callable
from typing import Any, cast

import anyio
import h11
import httpx
from typing_extensions import override

PACKET_BYTES = 64 * 1024  # of a request that are put together before they are sent
MAX_WAITING_BYTES = 512 * 1024  # of an answer that nobody has taken yet
_NO_LIMIT: contextlib.nullcontext[None] = contextlib.nullcontext()


class Connection(asyncio.Protocol):
    """A connection to one server, for one request at a time.

    Args:
        on_lost: Called with the connection when it is closed, by whomever.

    Attributes:
        h11: State of the current request and its answer.
        idle_since: Time of the loop at which the last answer ended.
    """

    def __init__(self, on_lost: Callable[[Connection], object]) -> None:
        self._on_lost = on_lost
        self.h11 = h11.Connection(h11.CLIENT)
        self.idle_since = 0.0
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._chunks: list[bytes] = []
        self._waiting_bytes = 0
        self._is_reading_paused = self._is_writing_paused = False
        self._has_ended = False
        self._failure: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # not one of datagrams

    @override
    def data_received(self, data: bytes) -> None:
        self._chunks.append(data)
        self._waiting_bytes += len(data)
        if self._waiting_bytes > MAX_WAITING_BYTES and self._transport is not None:
            self._transport.pause_reading()
            self._is_reading_paused = True
        self._wake()

    @override
    def eof_received(self) -> None:
        self._has_ended = True
        self._wake()

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        self._has_ended, self._failure = True, exc
        self._wake()
        self._on_lost(self)

    @override
    def pause_writing(self) -> None:
        self._is_writing_paused = True

    @override
    def resume_writing(self) -> None:
        self._is_writing_paused = False
        self._wake()

    @property
    def is_usable(self) -> bool:
        """Whether a further request may be sent: the server has neither closed nor sent more."""
        transport = self._transport
        if self._has_ended or self._chunks or transport is None or transport.is_closing():
            return False
        return not _is_readable(transport.get_extra_info("socket"))

    async def send_request(self, request: httpx.Request, timeout: float | None) -> None:
        """Send a request with its body. A server that closes meanwhile may still have answered.

        Args:
            request: The request.
            timeout: Longest wait until the server takes more bytes, in seconds.

        Raises:
            httpx.LocalProtocolError: The request is malformed.
            httpx.WriteTimeout: The server takes no more bytes.
        """
        body = cast("httpx.AsyncByteStream", request.stream)
        try:
            begin = h11.Request(
                method=request.method, target=request.url.raw_path, headers=request.headers.raw
            )
            packet = self.h11.send(begin) or b""
            async for chunk in body:
                packet += self.h11.send(h11.Data(chunk)) or b""
                if len(packet) >= PACKET_BYTES:
                    await self._write(packet, timeout)
                    packet = b""
                if self._has_ended:
                    return
            await self._write(packet + (self.h11.send(h11.EndOfMessage()) or b""), timeout)
        except h11.LocalProtocolError as error:
            raise httpx.LocalProtocolError(str(error)) from error

    async def receive_event(self, timeout: float | None) -> Any:
        """Return the next event of the answer.

        Args:
            timeout: Longest wait for more bytes, in seconds.

        Raises:
            httpx.RemoteProtocolError: The answer is malformed, or the server closed too early.
            httpx.ReadError: The connection broke.
            httpx.ReadTimeout: No bytes came in time.
        """
        while True:
            try:
                event = self.h11.next_event()
            except h11.RemoteProtocolError as error:
                raise httpx.RemoteProtocolError(str(error)) from error
            if event is not h11.NEED_DATA:
                return event
            data = await self._receive(timeout)
            if not data and self.h11.their_state is h11.SEND_RESPONSE:
                raise httpx.RemoteProtocolError("the server disconnected without an answer")
            self.h11.receive_data(data)

    def finish(self) -> bool:
        """Make ready for the next request. Return False where the server or we cannot have one."""
        state = self.h11
        if not (state.our_state is state.their_state is h11.DONE) or state.trailing_data[0]:
            return False
        state.start_next_cycle()
        self.idle_since = self._loop.time()
        return not (self._has_ended or self._chunks)

    def abort(self) -> None:
        """Close at once, without what is not sent yet."""
        if self._transport is not None:
            self._transport.abort()

    async def _write(self, data: bytes, timeout: float | None) -> None:
        if self._transport is None or self._has_ended:
            return
        self._transport.write(data)
        try:
            with anyio.fail_after(timeout) if self._is_writing_paused else _NO_LIMIT:
                while self._is_writing_paused and not self._has_ended:
                    await self._wait()
        except TimeoutError as error:
            raise httpx.WriteTimeout("the server takes no more bytes") from error

    async def _receive(self, timeout: float | None) -> bytes:
        """Return what has arrived, or nothing after the end."""
        try:
            with _NO_LIMIT if timeout is None else anyio.fail_after(timeout):
                while not self._chunks and not self._has_ended:
                    await self._wait()
        except TimeoutError as error:
            raise httpx.ReadTimeout("no bytes came in time") from error
        if self._chunks:
            data = self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)
            self._chunks, self._waiting_bytes = [], 0
            if self._is_reading_paused and self._transport is not None:
                self._is_reading_paused = False
                self._transport.resume_reading()
            return data
        if self._failure is not None:
            raise httpx.ReadError(str(self._failure)) from self._failure
        return b""

    async def _wait(self) -> None:
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


def _is_readable(socket: Any) -> bool:
    """Return whether a socket has bytes or an end that the event loop has not seen yet."""
    if not hasattr(select, "poll"):
        return bool(select.select([socket], [], [], 0)[0])
    poll = select.poll()
    poll.register(socket.fileno(), select.POLLIN)
    return bool(poll.poll(0))

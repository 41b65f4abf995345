"""Bounds for connections, so that idle and slow clients cannot shut out the others.

uvicorn limits neither the time that a client takes for its request nor how many connections it
holds. Here a connection is *proven* once it sent a valid key, or a complete request to a server
without keys. It is *busy* while the application answers such a request. Every bound follows from
that:

- A request's head must be complete `HEAD_SECONDS` after its first byte. A connection that is not
  proven must send one `HEAD_SECONDS` after it was opened, or after its last request.
- A body must arrive faster than `_MIN_BYTES_PER_SECOND` after a grace period. So must the client
  take the answer.
- When one address, or all together, hold too many connections that are not proven, the oldest of
  them is closed. When there are too many in all, the oldest that is not busy is closed. The new
  connection is always served, so nobody is shut out. The address with the most connections loses.

`Connections` is both the factory of uvicorn's protocols and the outermost ASGI middleware, which
is how it learns what a connection does.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import anyio
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from typing_extensions import override

from .disconnect import EXCHANGE_KEY
from .gathering import GatheringTransport
from .guard import CONNECTION_KEY, get_network
from .rest.errors import RequestError, build_error_response

HEAD_SECONDS = 10
BODY_GRACE_SECONDS = 30
MAX_UNPROVEN_PER_ADDRESS = 64
MAX_UNPROVEN = 256
MAX_REQUESTS = 512
_MIN_BYTES_PER_SECOND = 1024
_MAX_CONNECTIONS = 8192
_DESCRIPTORS = 1024  # that a process may open, where the system does not say


def _count_connections() -> int:
    """Return how many connections a server may hold, and leave descriptors for the sessions."""
    try:
        import resource  # noqa: PLC0415 - Windows does not have it

        descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    except ImportError:
        descriptors = _DESCRIPTORS
    unlimited = descriptors <= 0
    return _MAX_CONNECTIONS if unlimited else min(descriptors * 3 // 4, _MAX_CONNECTIONS)


class Connections:
    """ASGI middleware and protocol factory that bound the connections of one server.

    Args:
        app: The application.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._all: dict[tuple[str, int], Connection] = {}  # oldest first
        self._requests = 0
        self._max_connections = _count_connections()

    def wrap(self, make_protocol: Callable[..., Any]) -> Callable[..., asyncio.Protocol]:
        """Return a factory of protocols whose connections are bounded.

        Args:
            make_protocol: uvicorn's factory.
        """
        return lambda **options: Connection(make_protocol(**options), self)

    def add(self, connection: Connection) -> None:
        """Keep a new connection, and close those that exceed a bound."""
        self._all[connection.client] = connection
        unproven = [one for one in self._all.values() if one.can_evict and not one.is_proven]
        same = [one for one in unproven if one.network == connection.network]
        if len(same) > MAX_UNPROVEN_PER_ADDRESS:
            same[0].close()
        elif len(unproven) > MAX_UNPROVEN:
            _choose_victim(unproven).close()
        elif len(self._all) > self._max_connections:
            _choose_victim([one for one in self._all.values() if one.can_evict]).close()

    def remove(self, connection: Connection) -> None:
        """Forget a closed connection."""
        if self._all.get(connection.client) is connection:
            del self._all[connection.client]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, and note on its connection what it does."""
        connection = self._all.get(scope.get("client") or ("", 0))
        if scope["type"] != "http" or connection is None:
            await self._app(scope, receive, send)
            return
        if self._requests >= MAX_REQUESTS:
            message = f"The server answers {MAX_REQUESTS} requests already. Try again."
            headers = {"retry-after": "1", "connection": "close"}
            response = build_error_response(503, "ServerBusy", message, headers)
            await response(scope, receive, send)
            return
        self._requests += 1
        exchange = _Exchange(receive, send, connection)
        connection.begin_request(exchange)
        try:
            scope = {**scope, CONNECTION_KEY: connection, EXCHANGE_KEY: exchange}
            await self._app(scope, exchange.receive, exchange.send)
        except asyncio.CancelledError:  # the server ends, which uvicorn would log as a fault
            if not exchange.is_started:
                response = build_error_response(500, "ServerEnding", "The server has ended.")
                await response(scope, exchange.receive, exchange.send)
        finally:
            self._requests -= 1
            connection.end_request(exchange)


def _choose_victim(candidates: list[Connection]) -> Connection:
    """Return the oldest connection of the address that holds the most."""
    (network, _), *_ = Counter(one.network for one in candidates).most_common(1)
    return next(one for one in candidates if one.network == network)


class Connection(asyncio.Protocol):
    """One connection: uvicorn's protocol, and what is known about the client.

    Args:
        protocol: uvicorn's protocol.
        connections: Where the connection is counted.

    Attributes:
        client: Address and port of the client.
        network: The part of the address that one client has for itself.
        is_proven: Whether the connection sent an admitted request.
    """

    def __init__(self, protocol: Any, connections: Connections) -> None:
        self._protocol = protocol
        self._connections = connections
        self._transport: asyncio.Transport | None = None
        self._answers: GatheringTransport | None = None
        self._exchanges: set[_Exchange] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None
        self._requests = self._busy = 0
        self._has_drained = False
        self.client = ("", 0)
        self.network = ""
        self.is_proven = False

    @property
    def can_evict(self) -> bool:
        """Whether the connection may be closed for another one."""
        return self._busy == 0 and self._transport is not None

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        peer = transport.get_extra_info("peername")
        if isinstance(peer, tuple):
            self.client = (str(peer[0]), int(peer[1]))
            self.network = get_network(self.client[0])
        self._answers = GatheringTransport(self._transport)
        self._protocol.connection_made(self._answers)
        self._start_timer()
        self._connections.add(self)

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._stop_timer()
        if self._write_timer is not None:
            self._write_timer.cancel()
        self._connections.remove(self)
        self._protocol.connection_lost(exc)
        for exchange in tuple(self._exchanges):
            exchange.handle_disconnect()

    @override
    def data_received(self, data: bytes) -> None:
        if self._requests == 0 and self._timer is None:
            self._start_timer()
        self._protocol.data_received(data)

    @override
    def eof_received(self) -> bool | None:
        result: bool | None = self._protocol.eof_received()
        return result

    @override
    def pause_writing(self) -> None:
        if self._write_timer is None:
            self._watch_writing()
        self._protocol.pause_writing()

    @override
    def resume_writing(self) -> None:
        self._has_drained = True
        self._protocol.resume_writing()

    @property
    def is_lost(self) -> bool:
        """Whether the connection has ended."""
        return self._transport is None

    def begin_request(self, exchange: _Exchange) -> None:
        """Note that the head of a request is complete."""
        self._requests += 1
        self._exchanges.add(exchange)
        self._stop_timer()

    def admit(self) -> None:
        """Note that the request is allowed, so that its connection is not closed for another."""
        self.is_proven = True
        self._busy = self._requests

    def hold_answer(self) -> None:
        """Keep what is written, until `release_answer`."""
        if self._answers is not None:
            self._answers.hold()

    def release_answer(self) -> None:
        """Write what was kept."""
        if self._answers is not None:
            self._answers.release()

    def end_request(self, exchange: _Exchange) -> None:
        """Note that a request was answered. uvicorn bounds the wait for the next one."""
        self.release_answer()
        self._exchanges.discard(exchange)
        self._requests -= 1
        self._busy = min(self._busy, self._requests)
        if self._requests == 0 and not self.is_proven and self._transport is not None:
            self._start_timer()

    def close(self) -> None:
        """Close the connection at once, without waiting for a slow reader."""
        if self._transport is not None:
            self._transport.abort()
            self._connections.remove(self)

    def _start_timer(self) -> None:
        self._stop_timer()
        self._timer = asyncio.get_running_loop().call_later(HEAD_SECONDS, self.close)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _watch_writing(self, last_size: int | None = None) -> None:
        """Close the connection when the client takes too little of a long answer."""
        self._write_timer = None
        if self._transport is None:
            return
        size = self._transport.get_write_buffer_size()
        is_slow = (
            last_size is not None
            and not self._has_drained
            and size > max(0, last_size - BODY_GRACE_SECONDS * _MIN_BYTES_PER_SECOND)
        )
        self._has_drained = False
        if is_slow:
            self.close()
        elif size > 0:
            self._write_timer = asyncio.get_running_loop().call_later(
                BODY_GRACE_SECONDS, self._watch_writing, size
            )


class _Exchange:
    """One request and its answer.

    It refuses a body that arrives too slowly. Only the time that the application waits for the
    body counts. The head of an answer of known length is sent with the first part of its body.
    """

    def __init__(self, receive: Receive, send: Send, connection: Connection) -> None:
        self._receive, self._send = receive, send
        self._connection = connection
        self._seconds = float(BODY_GRACE_SECONDS)
        self.is_started = self._is_complete = self._is_answered = False
        self._watching: anyio.CancelScope | None = None

    async def receive(self) -> Message:
        """Return the next part of the body.

        Raises:
            RequestError: The client sends too slowly.
        """
        if self._is_complete:
            return await self._receive()
        began = anyio.current_time()
        try:
            with anyio.fail_after(self._seconds):
                message = await self._receive()
        except TimeoutError:
            text = "The request's body arrived too slowly."
            raise RequestError(408, "RequestTimeout", text) from None
        received = len(message.get("body", b""))
        self._seconds += received / _MIN_BYTES_PER_SECOND - (anyio.current_time() - began)
        if not message.get("more_body", False):
            self._is_complete = True
            self._connection.admit()
        return message

    async def send(self, message: Message) -> None:
        """Send a part of the answer."""
        if message["type"] == "http.response.start":
            self.is_started = True
            if _has_length(message):
                self._connection.hold_answer()
            await self._send(message)
            return
        self._is_answered = not message.get("more_body", False)
        await self._send(message)
        self._connection.release_answer()

    @contextmanager
    def watch(self, scope: anyio.CancelScope) -> Iterator[None]:
        """Cancel a scope when the connection ends inside this block, before the answer."""
        self._watching = scope
        if self._connection.is_lost:
            self.handle_disconnect()
        try:
            yield
        finally:
            self._watching = None

    def handle_disconnect(self) -> None:
        """Cancel what is watched, unless the answer is complete."""
        if self._watching is not None and not self._is_answered:
            self._watching.cancel()


def _has_length(message: Message) -> bool:
    return any(name.lower() == b"content-length" for name, _ in message.get("headers", ()))

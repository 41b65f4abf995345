"""A transport of httpx for many small requests to few servers.

The transport that httpx brings takes about half a millisecond of processor time for each request,
which is most of the time that a call of ours adds to a served pool. This one takes a third of
that. It speaks HTTP/1.1 by h11, without proxies. The exceptions are those of httpx.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import defaultdict
from collections.abc import AsyncIterator
from functools import cached_property
from typing import Any

import anyio
import h11
import httpx
from typing_extensions import override

from .connection import Connection

_PORTS = {"http": 80, "https": 443}
_ATTEMPT_SECONDS = 0.25  # until the next address of a name is tried too (RFC 8305)
_Origin = tuple[str, str, int]


class DirectTransport(httpx.AsyncBaseTransport):
    """Transport that keeps connections open between requests.

    Args:
        max_idle: Most connections that wait for a request.
        idle_seconds: Longest time that one waits.
    """

    def __init__(self, *, max_idle: int, idle_seconds: float) -> None:
        self._max_idle, self._idle_seconds = max_idle, idle_seconds
        self._idle: defaultdict[_Origin, list[Connection]] = defaultdict(list)
        self._connections: set[Connection] = set()

    @override
    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        timeouts = request.extensions.get("timeout", {})
        origin = _get_origin(request.url)
        connection = self._take_idle(origin)
        if connection is None:
            connection = await self._connect(origin, timeouts.get("connect"))
        body = _Body(self, origin, connection, timeouts.get("read"))
        try:
            await connection.send_request(request, timeouts.get("write"))
            return await _receive_response(connection, body)
        except BaseException:
            await body.aclose()
            raise

    @override
    async def aclose(self) -> None:
        """Close every connection."""
        self._idle.clear()
        for connection in list(self._connections):
            self.drop(connection)
        await asyncio.sleep(0)  # the loop closes the sockets in its next step

    def keep(self, origin: _Origin, connection: Connection) -> None:
        """Keep a connection for a further request, if there is room."""
        if connection in self._connections and self._count_idle() < self._max_idle:
            self._idle[origin].append(connection)
        else:
            self.drop(connection)

    def drop(self, connection: Connection) -> None:
        """Close a connection."""
        self._connections.discard(connection)
        connection.abort()

    def _forget(self, connection: Connection) -> None:
        """Forget a connection that is closed."""
        self._connections.discard(connection)
        for idle in self._idle.values():
            if connection in idle:
                idle.remove(connection)

    def _count_idle(self) -> int:
        return sum(map(len, self._idle.values()))

    def _take_idle(self, origin: _Origin) -> Connection | None:
        """Return the connection that was used last, and close those that are of no use."""
        idle = self._idle[origin]
        if not idle:
            return None
        oldest = asyncio.get_running_loop().time() - self._idle_seconds
        while idle and idle[0].idle_since < oldest:
            self.drop(idle.pop(0))
        while idle:
            connection = idle.pop()
            if connection.is_usable:
                return connection
            self.drop(connection)
        return None

    async def _connect(self, origin: _Origin, timeout: float | None) -> Connection:
        scheme, host, port = origin
        loop = asyncio.get_running_loop()
        options: dict[str, Any] = {}
        if scheme == "https":
            options |= {"ssl": self._tls, "server_hostname": host}
        if isinstance(loop, asyncio.BaseEventLoop):  # others do not know this option
            options |= {"happy_eyeballs_delay": _ATTEMPT_SECONDS}
        try:
            with anyio.fail_after(timeout):
                _, connection = await loop.create_connection(
                    lambda: Connection(self._forget), host, port, **options
                )
        except TimeoutError as error:
            raise httpx.ConnectTimeout("the server cannot be reached in time") from error
        except (OSError, UnicodeError) as error:
            raise httpx.ConnectError(str(error)) from error
        self._connections.add(connection)
        return connection

    @cached_property
    def _tls(self) -> ssl.SSLContext:
        context = httpx.create_ssl_context()
        context.set_alpn_protocols(["http/1.1"])
        return context


class _Body(httpx.AsyncByteStream):
    """The body of an answer. Its end makes the connection free for the next request."""

    def __init__(
        self,
        transport: DirectTransport,
        origin: _Origin,
        connection: Connection,
        timeout: float | None,
    ) -> None:
        self.timeout = timeout
        self._transport, self._origin = transport, origin
        self._connection: Connection | None = connection

    @override
    async def __aiter__(self) -> AsyncIterator[bytes]:
        while self._connection is not None:
            event = await self._connection.receive_event(self.timeout)
            if not isinstance(event, h11.Data):
                return
            yield bytes(event.data)

    @override
    async def aclose(self) -> None:
        connection, self._connection = self._connection, None
        if connection is None:
            return
        if connection.finish():
            self._transport.keep(self._origin, connection)
        else:
            self._transport.drop(connection)


async def _receive_response(connection: Connection, body: _Body) -> httpx.Response:
    while True:
        event = await connection.receive_event(body.timeout)
        if isinstance(event, h11.Response):  # and not one of the 1xx before it
            return httpx.Response(
                event.status_code,
                headers=event.headers.raw_items(),
                stream=body,
                extensions={
                    "http_version": b"HTTP/" + event.http_version,
                    "reason_phrase": event.reason,
                },
            )
        if (
            not isinstance(event, h11.InformationalResponse)
            or event.status_code == httpx.codes.SWITCHING_PROTOCOLS
        ):
            raise httpx.RemoteProtocolError("the server did not answer the request")


def _get_origin(url: httpx.URL) -> _Origin:
    default = _PORTS.get(url.scheme)
    if default is None:
        raise httpx.UnsupportedProtocol(
            f"the URL has the protocol {url.scheme!r}, not http or https"
        )
    return url.scheme, url.raw_host.decode("ascii"), url.port or default

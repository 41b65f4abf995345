"""A transport of httpx that spreads requests over several pools of connections.

For each request, a pool of httpcore looks at each of its connections, and once more at all of them
for each that is idle (`AsyncConnectionPool._assign_requests_to_connections`, seen in 1.0.9). With
64 conversations that takes longer than everything else. A pool of a few connections is quick.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Callable

import httpx
from typing_extensions import override

POOLS = 8


class SpreadTransport(httpx.AsyncBaseTransport):
    """Transport that gives each request to the first of the least busy pools.

    Args:
        limits: Limits of each pool.
        verify: How to check certificates, as `httpx.AsyncHTTPTransport` takes it.
    """

    def __init__(self, limits: httpx.Limits, *, verify: ssl.SSLContext | bool) -> None:
        context = verify if isinstance(verify, ssl.SSLContext) else httpx.create_ssl_context(verify)
        self._pools = [
            httpx.AsyncHTTPTransport(verify=context, limits=limits) for _ in range(POOLS)
        ]
        self._requests = [0] * POOLS

    @override
    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        at = self._requests.index(min(self._requests))
        self._requests[at] += 1

        def end_request() -> None:
            self._requests[at] -= 1

        try:
            response = await self._pools[at].handle_async_request(request)
        except BaseException:
            end_request()
            raise
        if isinstance(response.stream, httpx.AsyncByteStream):
            response.stream = _Body(response.stream, end_request)
        return response

    @override
    async def aclose(self) -> None:
        """Close the connections of all pools."""
        for pool in self._pools:
            await pool.aclose()


class _Body(httpx.AsyncByteStream):
    """The body of an answer, whose end is the end of the request."""

    def __init__(self, body: httpx.AsyncByteStream, on_end: Callable[[], None]) -> None:
        self._body = body
        self._on_end: Callable[[], None] | None = on_end

    @override
    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in self._body:
            yield chunk

    @override
    async def aclose(self) -> None:
        on_end, self._on_end = self._on_end, None
        if on_end is not None:
            on_end()
        await self._body.aclose()

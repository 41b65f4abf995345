"""Middleware that admits requests: the right host, the right key, and not too many."""

from __future__ import annotations

import hmac
import math
import time
from urllib.parse import urlsplit

from limits import RateLimitItemPerMinute
from limits.aio.storage import MemoryStorage
from limits.aio.strategies import MovingWindowRateLimiter
from starlette.datastructures import Headers
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from cci_plugins.errors import PoolExhaustedError

from .rest.errors import build_error_response

OPEN_PATHS = frozenset({"/health"})
_TOO_MANY_REQUESTS = "TooManyRequests"


class Guard:
    """ASGI middleware that checks Host, Origin and key before it reads anything else.

    Args:
        app: The protected application.
        api_key: The key, or None to admit every client.
        hosts: Names by which a request may address this server, or None for any name.
    """

    def __init__(self, app: ASGIApp, *, api_key: str | None, hosts: tuple[str, ...] | None) -> None:
        self._app = app
        self._key = None if api_key is None else api_key.encode()
        self._hosts = None if hosts is None else frozenset(host.lower() for host in hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        refusal = self._check(scope) if scope["type"] == "http" else None
        await (self._app if refusal is None else refusal)(scope, receive, send)

    def _check(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        path = scope["path"]
        if not self._is_host_allowed(headers):
            message = "This host or origin is not allowed."
            return build_error_response(403, "HostNotAllowed", message)
        if path in OPEN_PATHS or self._has_key(headers, rest=path.rstrip("/") != "/mcp"):
            return None
        message = "The request has no valid key. Send it in the header x-ms-apikey."
        return build_error_response(401, "Unauthorized", message, {"www-authenticate": "Key"})

    def _is_host_allowed(self, headers: Headers) -> bool:
        """Return whether the Host, and the Origin that a browser adds, are allowed names."""
        if self._hosts is None:
            return True
        origin = headers.get("origin")
        return self._is_known_host(headers.get("host", "")) and (
            origin is None or self._is_known_host(urlsplit(origin).netloc)
        )

    def _is_known_host(self, host: str) -> bool:
        host = host.lower()
        name, _, port = host.rpartition(":")
        return self._hosts is not None and (
            host in self._hosts or (port.isdigit() and name in self._hosts)
        )

    def _has_key(self, headers: Headers, *, rest: bool) -> bool:
        if self._key is None:
            return True
        given = headers.get("x-ms-apikey")
        scheme, _, token = headers.get("authorization", "").partition(" ")
        if given is None and rest and scheme.lower() == "bearer":
            given = token.strip()
        return given is not None and hmac.compare_digest(given.encode(), self._key)


class RunRate:
    """Rate of the runs of each environment, counted over the last 60 seconds.

    Each replica counts for itself.

    Args:
        runs_per_minute: Most runs of one environment.
    """

    def __init__(self, runs_per_minute: int) -> None:
        self._rate = RateLimitItemPerMinute(runs_per_minute)
        self._limiter = MovingWindowRateLimiter(MemoryStorage())

    async def admit(self, session_id: str) -> None:
        """Count a run.

        Raises:
            PoolExhaustedError: There were too many. Nothing was started.
        """
        if not await self._limiter.hit(self._rate, session_id):
            stats = await self._limiter.get_window_stats(self._rate, session_id)
            wait = max(1, math.ceil(stats.reset_time - time.time()))
            raise PoolExhaustedError(
                f"this environment had more than {self._rate.amount} runs in a minute",
                hint=f"try again in {wait} s, or do more in one run",
                retry_after=wait,
            )


class Throttle:
    """ASGI middleware that refuses requests beyond a rate, counted over the last 60 seconds.

    Each replica counts for itself, so several replicas admit as many times more.

    Args:
        app: The protected application.
        requests_per_minute: Most requests of one client.
        by_key: Count all clients together, since they share one key. Otherwise count each
            address.
    """

    def __init__(self, app: ASGIApp, *, requests_per_minute: int, by_key: bool) -> None:
        self._app = app
        self._by_key = by_key
        self._rate = RateLimitItemPerMinute(requests_per_minute)
        self._limiter = MovingWindowRateLimiter(MemoryStorage())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer with status 429."""
        if scope["type"] == "http" and scope["path"] not in OPEN_PATHS:
            client = "key" if self._by_key else (scope.get("client") or ("unknown",))[0]
            if not await self._limiter.hit(self._rate, client):
                await self._build_refusal(await self._get_retry_after(client))(scope, receive, send)
                return
        await self._app(scope, receive, send)

    async def _get_retry_after(self, client: str) -> int:
        """Return the whole seconds until the next request is admitted."""
        stats = await self._limiter.get_window_stats(self._rate, client)
        return max(1, math.ceil(stats.reset_time - time.time()))

    def _build_refusal(self, wait: int) -> JSONResponse:
        """Return the data plane's 429, whose body has no `error` frame."""
        code = _TOO_MANY_REQUESTS
        message = f"More than {self._rate.amount} requests in a minute. Try again in {wait} s."
        headers = {"x-ms-error-code": code, "retry-after": str(wait)}
        return JSONResponse({"code": code, "message": message}, 429, headers)

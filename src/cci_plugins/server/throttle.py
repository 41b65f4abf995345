"""No more requests in a minute than a client may send."""

from __future__ import annotations

import math
import time

from limits import RateLimitItemPerMinute
from limits.aio.storage import MemoryStorage
from limits.aio.strategies import MovingWindowRateLimiter
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from .guard import OPEN_PATHS

CODE = "TooManyRequests"


class Throttle:
    """ASGI middleware that refuses what goes beyond a rate, counted over the last 60 seconds.

    Each replica counts for itself, so several of them let through as many times more.

    Args:
        app: What is protected.
        requests_per_minute: Most requests of one client.
        by_key: Everyone who comes here has the key, so the key is the client; else its address is.
    """

    def __init__(self, app: ASGIApp, *, requests_per_minute: int, by_key: bool) -> None:
        self._app = app
        self._by_key = by_key
        self._rate = RateLimitItemPerMinute(requests_per_minute)
        self._limiter = MovingWindowRateLimiter(MemoryStorage())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or answer it by 429."""
        if scope["type"] == "http" and scope["path"] not in OPEN_PATHS:
            client = "key" if self._by_key else (scope.get("client") or ("unknown",))[0]
            if not await self._limiter.hit(self._rate, client):
                await self._build_refusal(await self._get_retry_after(client))(scope, receive, send)
                return
        await self._app(scope, receive, send)

    async def _get_retry_after(self, client: str) -> int:
        """Whole seconds until the next request is let through."""
        stats = await self._limiter.get_window_stats(self._rate, client)
        return max(1, math.ceil(stats.reset_time - time.time()))

    def _build_refusal(self, wait: int) -> JSONResponse:
        """The data plane's body of a 429, which comes without a frame."""
        message = f"At most {self._rate.amount} requests in a minute; try again in {wait} s."
        headers = {"x-ms-error-code": CODE, "retry-after": str(wait)}
        return JSONResponse({"code": CODE, "message": message}, 429, headers)

"""Who may speak to this server: the right key, from no page that rebound a name."""

from __future__ import annotations

import hmac
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from .rest.errors import build_error_response

OPEN_PATHS = frozenset({"/health"})


class Guard:
    """ASGI middleware that checks Host, Origin and key before anything else is read.

    Args:
        app: What is guarded.
        api_key: The key, or None to let everyone in.
        hosts: Names by which a request may call us, or None for any.
    """

    def __init__(self, app: ASGIApp, *, api_key: str | None, hosts: tuple[str, ...] | None) -> None:
        self._app = app
        self._key = None if api_key is None else api_key.encode()
        self._hosts = None if hosts is None else frozenset(host.lower() for host in hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or answer it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        path = scope["path"]
        if not self._is_host_allowed(headers):
            refusal = build_error_response(
                403, "HostNotAllowed", "This host or origin is not allowed."
            )
        elif path not in OPEN_PATHS and not self._has_key(headers, rest=path.rstrip("/") != "/mcp"):
            refusal = build_error_response(
                401,
                "Unauthorized",
                "The request carries no valid key.",
                {"www-authenticate": "Key"},
            )
        else:
            await self._app(scope, receive, send)
            return
        await refusal(scope, receive, send)

    def _is_host_allowed(self, headers: Headers) -> bool:
        """Whether the Host, and the Origin a browser adds, are names of ours."""
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

"""What the platform's MCP endpoint forgives, before the SDK's stricter one.

Its published clients send no `Accept` and an `initialize` without parameters (learn.microsoft.com,
Container Apps sessions, Python and shell MCP tutorials). There is no stream to GET and no MCP
session to DELETE: the server keeps none.
"""

from __future__ import annotations

import json
from typing import Any

from starlette.datastructures import MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .mcp_sdk import BODY_BYTES
from .rest_errors import error_response

DEFAULT_PROTOCOL = "2025-03-26"
_ANY = {"", "*/*"}


class McpGate:
    """ASGI application in front of the SDK's."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer what the SDK should not see, and complete what it would refuse."""
        if scope["method"] != "POST":
            await Response(status_code=405, headers={"allow": "POST"})(scope, receive, send)
            return
        body = await _read(receive)
        if body is None:
            refusal = error_response(413, "RequestTooLarge", f"At most {BODY_BYTES:,} bytes.")
            await refusal(scope, receive, send)
            return
        pending: list[Message] = [
            {"type": "http.request", "body": _completed(body), "more_body": False}
        ]

        async def replay() -> Message:
            return pending.pop() if pending else await receive()

        await self._app(_accepting(scope), replay, send)


def _accepting(scope: Scope) -> Scope:
    """The scope with the `Accept` and `Content-Type` that the SDK insists on."""
    scope = {**scope, "headers": [*scope["headers"]]}
    headers = MutableHeaders(scope=scope)
    del headers["content-length"]
    if headers.get("accept", "") in _ANY:
        headers["accept"] = "application/json, text/event-stream"
    headers.setdefault("content-type", "application/json")
    return scope


async def _read(receive: Receive) -> bytes | None:
    """The body, or None when it is too large."""
    pieces: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        pieces.append(piece := message.get("body", b""))
        size += len(piece)
        if size > BODY_BYTES:
            return None
        if not message.get("more_body", False):
            return b"".join(pieces)


def _completed(body: bytes) -> bytes:
    """`initialize` with the parameters that the SDK requires, where the client left them out."""
    if len(body) > 4096 or b'"initialize"' not in body:  # noqa: PLR2004 - a handshake is short
        return body
    try:
        message = json.loads(body)
    except (ValueError, RecursionError):
        return body
    if not isinstance(message, dict) or message.get("method") != "initialize":
        return body
    given = message.get("params")
    params: dict[str, Any] = {
        "protocolVersion": DEFAULT_PROTOCOL,
        "capabilities": {},
        "clientInfo": {"name": "unknown", "version": "0"},
    }
    return json.dumps(
        message | {"params": params | (given if isinstance(given, dict) else {})}
    ).encode()

"""What the platform's MCP endpoint forgives, before the SDK's stricter one.

Its published clients send no `Accept` and an `initialize` without parameters (learn.microsoft.com,
Container Apps sessions, Python and shell MCP tutorials). There is no stream to GET and no MCP
session to DELETE: the server keeps none.
"""

from __future__ import annotations

import json
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from .mcp_sdk import McpEndpoint
from .rest_errors import error_response

DEFAULT_PROTOCOL = "2025-03-26"
_ANY = {"", "*/*"}


class McpGate:
    """ASGI application in front of the SDK's.

    Args:
        mcp: The SDK's.
        body_bytes: Longest body of a request.
    """

    def __init__(self, mcp: McpEndpoint, body_bytes: int) -> None:
        self._mcp = mcp
        self._body_bytes = body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer what the SDK should not see, and complete what it would refuse."""
        if scope["method"] != "POST":
            await Response(status_code=405, headers={"allow": "POST"})(scope, receive, send)
            return
        body = await _read(receive, self._body_bytes)
        if body is None:
            words = f"At most {self._body_bytes:,} bytes."
            await error_response(413, "RequestTooLarge", words)(scope, receive, send)
            return
        pending: list[Message] = [
            {"type": "http.request", "body": _completed(body), "more_body": False}
        ]

        async def replay() -> Message:
            return pending.pop() if pending else await receive()

        streams = _asks_for_progress(scope, body)
        await self._mcp(_accepting(scope), replay, send, streams=streams)


def _asks_for_progress(scope: Scope, body: bytes) -> bool:
    """Whether a client that reads event streams asks to be told of a call's progress.

    Everyone else gets one JSON body: published clients pipe it to `jq`.
    """
    accepted = Headers(scope=scope).get("accept", "")
    if "text/event-stream" not in accepted or b'"progressToken"' not in body:
        return False
    try:
        message = json.loads(body)
    except (ValueError, RecursionError):
        return False
    match message:
        case {"method": "tools/call", "params": {"_meta": {"progressToken": str() | int() as it}}}:
            return not isinstance(it, bool)
    return False


def _accepting(scope: Scope) -> Scope:
    """The scope with the `Accept` and `Content-Type` that the SDK insists on."""
    scope = {**scope, "headers": [*scope["headers"]]}
    headers = MutableHeaders(scope=scope)
    del headers["content-length"]
    if headers.get("accept", "") in _ANY:
        headers["accept"] = "application/json, text/event-stream"
    headers.setdefault("content-type", "application/json")
    return scope


async def _read(receive: Receive, longest: int) -> bytes | None:
    """The body, or None when it is too large."""
    pieces: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        pieces.append(piece := message.get("body", b""))
        size += len(piece)
        if size > longest:
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

"""Adapter from what Azure's MCP endpoint accepts to what the SDK requires.

Azure's published clients send no `Accept` and an `initialize` without parameters
(learn.microsoft.com, Container Apps sessions, Python and shell MCP tutorials). GET opens no stream.

The SDK answers each request alone. This module handles MCP sessions, where the server keeps them:

- `initialize` creates a session, whose id comes in a header of the answer.
- A request with an unknown or ended id is refused with status 404.
- DELETE ends a session.
- `mcp_session_id` names the session to the tools while the SDK answers.
- `notifications/cancelled` ends a call of the same MCP session.

A plain call of a tool is answered without the SDK (`direct_calls.py`).

Since 2026-07-28 MCP is stateless, without handshake and MCP session. Where the installed SDK
speaks that revision, it answers such requests, and `is_stateless` is set.
"""

from __future__ import annotations

import json
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse, Response
from starlette.types import Message, Receive, Scope, Send

from cci_plugins.server.requests import read_body, replay_body
from cci_plugins.server.rest.errors import build_error_response, build_too_large_response

from .direct_calls import parse_direct_call
from .messages import MessageError, check_encoding, check_message, is_unusual
from .running import parse_cancelled_ids
from .sdk import McpEndpoint, admits_direct_calls, is_stateless_version
from .sessions import McpSessions, is_stateless, mcp_session_id

DEFAULT_PROTOCOL = "2025-03-26"
SESSION_HEADER = "mcp-session-id"
VERSION_HEADER = "mcp-protocol-version"
_ANY = {"", "*/*"}
_METHOD_NOT_FOUND = -32601


class McpCompatApp:
    """ASGI application in front of the SDK's.

    Args:
        mcp: The SDK's application.
        body_bytes: Longest body of a request.
        mcp_sessions: Issues MCP sessions. None means that clients have none.
    """

    def __init__(
        self, mcp: McpEndpoint, body_bytes: int, mcp_sessions: McpSessions | None = None
    ) -> None:
        self._mcp = mcp
        self._body_bytes = body_bytes
        self._mcp_sessions = mcp_sessions

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer what the SDK must not see, and complete what the SDK would refuse."""
        headers = Headers(scope=scope)
        stateless = is_stateless_version(headers.get(VERSION_HEADER))
        mcp_session = None
        if self._mcp_sessions is not None and not stateless:
            mcp_session = headers.get(SESSION_HEADER)
            if mcp_session is not None and not self._mcp_sessions.is_active(mcp_session):
                message = "The MCP session does not exist or has ended. Begin with initialize."
                await build_error_response(404, "SessionNotFound", message)(scope, receive, send)
                return
            if mcp_session is not None and scope["method"] == "DELETE":
                await self._mcp_sessions.end(mcp_session)
                await Response(status_code=204)(scope, receive, send)
                return
        if scope["method"] != "POST":
            await Response(status_code=405, headers={"allow": "POST"})(scope, receive, send)
            return
        body = await read_body(receive, self._body_bytes)
        if body is None:
            await build_too_large_response(self._body_bytes)(scope, receive, send)
            return
        try:
            check_encoding(body)
            if unusual := is_unusual(body):
                check_message(body)
        except MessageError as error:
            response = Response(error.answer, 400, media_type="application/json")
            await response(scope, receive, send)
            return
        if stateless:
            await self._forward_stateless(scope, body, receive, send)
            return
        token = mcp_session_id.set(mcp_session)
        try:
            if unusual or not await self._answer_directly(headers, body, send):
                await self._forward(scope, body, receive, send, mcp_session)
        finally:
            mcp_session_id.reset(token)

    async def _answer_directly(self, headers: Headers, body: bytes, send: Send) -> bool:
        """Answer a plain call of a tool. Return whether the request was one."""
        if not admits_direct_calls(headers.get(VERSION_HEADER)) or _requests_progress(
            headers, body
        ):
            return False
        call = parse_direct_call(headers, body)
        return call is not None and await self._mcp.answer_directly(call, send)

    async def _forward(
        self, scope: Scope, body: bytes, receive: Receive, send: Send, mcp_session: str | None
    ) -> None:
        """Let the SDK answer, as part of an MCP session if there is one."""
        if self._mcp_sessions is not None and (short := _parse_short_message(body)) is not None:
            if short.get("method") == "server/discover":
                await _build_discovery_error(short)(scope, receive, send)
                return
            if short.get("method") == "initialize":
                send = _add_session_header(self._mcp_sessions.create_id(), send)
        if mcp_session is not None:
            for request_id in parse_cancelled_ids(body):
                self._mcp.running.cancel(mcp_session, request_id)
        receive = replay_body(_complete_initialize(body), receive)
        streams = _requests_progress(Headers(scope=scope), body)
        await self._mcp(_add_required_headers(scope), receive, send, streams=streams)

    async def _forward_stateless(
        self, scope: Scope, body: bytes, receive: Receive, send: Send
    ) -> None:
        """Let the SDK answer a request of the stateless revision.

        It streams where the client reads streams, so that a long run is not silent.
        """
        streams = "text/event-stream" in Headers(scope=scope).get("accept", "")
        scope = _add_required_headers(scope)
        token = is_stateless.set(True)
        try:
            await self._mcp(
                scope, replay_body(body, receive), send, streams=streams, stateless=True
            )
        finally:
            is_stateless.reset(token)


def _add_session_header(mcp_session: str, send: Send) -> Send:
    """Add the header with the client's new MCP session to the answer."""

    async def send_with_header(message: Message) -> None:
        if message["type"] == "http.response.start" and message["status"] == 200:  # noqa: PLR2004
            message = {**message, "headers": [*message.get("headers", ())]}
            MutableHeaders(scope=message)[SESSION_HEADER] = mcp_session
        await send(message)

    return send_with_header


def _build_discovery_error(message: dict[str, Any]) -> Response:
    """Refuse a client that asks to skip the handshake, since it would have no MCP session."""
    error = {"code": _METHOD_NOT_FOUND, "message": "Method not found: begin with initialize"}
    return JSONResponse({"jsonrpc": "2.0", "id": message.get("id"), "error": error})


def _requests_progress(headers: Headers, body: bytes) -> bool:
    """Return whether a client that reads event streams asks for the progress of a call.

    Every other client gets one JSON body: published clients pipe it to `jq`.
    """
    if b'"progressToken"' not in body or "text/event-stream" not in headers.get("accept", ""):
        return False
    try:
        message = json.loads(body)
    except (ValueError, RecursionError):
        return False
    match message:
        case {
            "method": "tools/call",
            "params": {"_meta": {"progressToken": str() | int() as token}},
        }:
            return not isinstance(token, bool)
    return False


def _add_required_headers(scope: Scope) -> Scope:
    """Return the scope with the `Accept` and `Content-Type` that the SDK requires."""
    scope = {**scope, "headers": [*scope["headers"]]}
    headers = MutableHeaders(scope=scope)
    del headers["content-length"]
    if headers.get("accept", "") in _ANY:
        headers["accept"] = "application/json, text/event-stream"
    headers.setdefault("content-type", "application/json")
    return scope


def _parse_short_message(body: bytes) -> dict[str, Any] | None:
    """Return a message that is short enough to be parsed twice, or a handshake, or None."""
    if len(body) > 4096 and b'"initialize"' not in body:  # noqa: PLR2004 - it may have icons
        return None
    try:
        message = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return message if isinstance(message, dict) else None


def _complete_initialize(body: bytes) -> bytes:
    """Add the parameters of `initialize` that the SDK requires and the client left out."""
    if b'"initialize"' not in body:
        return body
    message = _parse_short_message(body)
    if message is None or message.get("method") != "initialize":
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

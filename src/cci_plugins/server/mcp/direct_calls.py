"""Tool calls that are answered without a server session of the SDK: `DirectCall`.

For each request without an MCP session of its own, the SDK builds a transport, a session and four
tasks, and validates request and result several times. That costs more than a short call itself. A
plain `tools/call` over HTTP needs none of it, so it is parsed, run and encoded here.

Whatever is not plain is left to the SDK: other methods, progress and streams, the stateless
revision, unknown tools, and every request that the SDK refuses. `parse_direct_call` admits only
what both majors of the SDK accept and answer alike.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from starlette.datastructures import Headers
from starlette.types import Send

from cci_plugins.common.json_pieces import encode, is_large
from cci_plugins.server.answers import sanitize_json

from .answers import ToolCallResult
from .large_answers import collect_pieces, encode_in_lane

CALL_METHOD = "tools/call"
JSON_TYPE = "application/json"
_MESSAGE_KEYS = frozenset({"jsonrpc", "id", "method", "params"})
_PARAMETERS = frozenset({"name", "arguments", "_meta"})
_RESERVED = b"io.modelcontextprotocol/"  # keys of `_meta` that mean something to the SDK
_ANY_TYPE = ("", "*/*")


@dataclass(frozen=True, slots=True)
class DirectCall:
    """A plain call of a tool.

    Attributes:
        request_id: Id of the request.
        name: The tool.
        arguments: Its arguments.
        meta: `_meta` of the request.
    """

    request_id: str | int
    name: str
    arguments: Mapping[str, Any]
    meta: Mapping[str, Any]


def parse_direct_call(headers: Headers, body: bytes) -> DirectCall | None:
    """Return the call in a request that asks for one JSON body, or None if it is not plain.

    Args:
        headers: Headers of the request.
        body: Its body, which `messages.is_unusual` found to be usual.
    """
    if b'"tools/call"' not in body or _RESERVED in body or not _is_plain(headers):
        return None
    try:
        message = json.loads(body.decode())
    except (ValueError, RecursionError):
        return None
    if not isinstance(message, dict) or message.keys() != _MESSAGE_KEYS:
        return None
    request_id, params = message["id"], message["params"]
    if (
        message["jsonrpc"] != "2.0"
        or message["method"] != CALL_METHOD
        or not _is_token(request_id)
        or not isinstance(params, dict)
        or not params.keys() <= _PARAMETERS
    ):
        return None
    name, arguments, meta = params.get("name"), params.get("arguments"), params.get("_meta")
    arguments = {} if arguments is None else arguments
    meta = {} if meta is None else meta
    if (
        not isinstance(name, str)
        or not isinstance(arguments, dict)
        or not isinstance(meta, dict)
        or not _is_token(meta.get("progressToken", ""))
    ):
        return None
    return DirectCall(request_id, name, arguments, meta)


def _is_token(value: object) -> bool:
    """Return whether a value may be the id of a request, or a token for its progress."""
    return isinstance(value, str | int) and not isinstance(value, bool)


def _is_plain(headers: Headers) -> bool:
    """Return whether the client reads JSON and sends JSON, as the SDK checks it."""
    accepted = headers.get("accept", "")
    reads_json = accepted in _ANY_TYPE or any(
        kind.strip().startswith(JSON_TYPE) for kind in accepted.split(",")
    )
    sent = headers.get("content-type", JSON_TYPE).partition(";")[0].strip()
    return reads_json and sent == JSON_TYPE


def build_result_fields(answer: ToolCallResult) -> dict[str, Any]:
    """Return the fields of a result that may be large."""
    fields: dict[str, Any] = {"content": answer.content}
    if answer.structured is not None:
        fields["structuredContent"] = answer.structured
    if answer.meta:
        fields["_meta"] = answer.meta
    return fields


async def send_result(call: DirectCall, answer: ToolCallResult, send: Send) -> None:
    """Send the result of a call."""
    result = build_result_fields(answer) | {"isError": answer.is_error}
    message = {"jsonrpc": "2.0", "id": call.request_id, "result": result}
    if not is_large(message):
        await _send_parts([_encode(message)], send)
        return
    try:
        parts = await encode_in_lane(message)
    except (ValueError, TypeError, RecursionError):
        parts = [_encode(message)]
    await _send_parts(parts, send)


async def send_error(call: DirectCall, code: int, text: str, send: Send) -> None:
    """Send a JSON-RPC error as the answer to a call."""
    error = {"code": code, "message": sanitize_json(text)}
    message = {"jsonrpc": "2.0", "id": call.request_id, "error": error}
    await _send_parts([_encode(message)], send)


def _encode(message: dict[str, Any]) -> bytes:
    try:
        return encode(message)
    except ValueError:  # NaN, which JSON does not have
        return encode(sanitize_json(message))


async def _send_parts(parts: list[bytes], send: Send) -> None:
    length = str(sum(map(len, parts))).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", length)]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    if len(parts) > 1:
        for part in collect_pieces(parts):
            await send({"type": "http.response.body", "body": part, "more_body": True})
        parts = [b""]
    await send({"type": "http.response.body", "body": parts[0]})

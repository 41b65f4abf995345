"""JSON-RPC and server-sent events: bytes in, values out, no I/O.

The form is MCP's streamable HTTP (modelcontextprotocol.io/specification, Transports). Session
pools leave out fields that the specification requires, and send codes as text. Reading is
therefore tolerant: only the `result` or `error` of the right request must be there. The strict
models are those of what the cci-plugins server adds (`executions`, `progress`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from cci_plugins.common.limits import MIB
from cci_plugins.errors import ProtocolError

PROTOCOL_VERSION = "2025-06-18"
METHOD_NOT_FOUND = -32601
_ENDPOINT_HINT = "check that the endpoint is that of a session pool"
MAX_MEMORY = 512 * MIB  # of the values of one answer, beyond their text
_JSON_TEXT = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)


@dataclass(frozen=True, slots=True)
class RpcError:
    """The error of a JSON-RPC reply."""

    code: int
    message: str
    data: Any = None


@dataclass(frozen=True, slots=True)
class RpcReply:
    """The answer to one request, which is a result or an error."""

    result: Mapping[str, Any] = field(default_factory=dict)
    error: RpcError | None = None


@dataclass(frozen=True, slots=True)
class ToolResult:
    """The answer of a tool.

    Attributes:
        content: Content blocks, as MCP defines them.
        structured: The `structuredContent`, or None.
        is_error: Whether the tool reports that it failed.
        meta: The `_meta` of the answer.
        has_result: Whether it has content of either kind, even if that is empty.
    """

    content: tuple[Mapping[str, Any], ...] = ()
    structured: Mapping[str, Any] | None = None
    is_error: bool = False
    meta: Mapping[str, Any] = field(default_factory=dict)
    has_result: bool = False

    @property
    def text(self) -> str:
        """All text blocks, joined by newlines."""
        texts = [block.get("text") for block in self.content if block.get("type") == "text"]
        return "\n".join(text for text in texts if isinstance(text, str))


def build_request(request_id: int, method: str, params: Mapping[str, Any] | None = None) -> bytes:
    """Encode a request."""
    message: dict[str, Any] = {"jsonrpc": "2.0", "id": request_id, "method": method}
    return _encode(message if params is None else message | {"params": params})


def build_notification(method: str, params: Mapping[str, Any] | None = None) -> bytes:
    """Encode a notification, which has no answer."""
    message: dict[str, Any] = {"jsonrpc": "2.0", "method": method}
    return _encode(message if params is None else message | {"params": params})


def build_initialize_params(name: str, version: str) -> dict[str, Any]:
    """Build the parameters of `initialize` for a client that only calls tools."""
    return {
        "protocolVersion": PROTOCOL_VERSION,
        "capabilities": {},
        "clientInfo": {"name": name, "version": version},
    }


def decode_json(body: bytes) -> Any:
    """Decode JSON that a pool sent.

    Raises:
        ProtocolError: The body is not JSON, or would take much more memory than its text.
    """
    _check_memory(body)
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        kind = "HTML" if body.lstrip()[:1] == b"<" else "not JSON"
        raise ProtocolError(
            f"the pool's answer of {len(body)} bytes is {kind}", hint=_ENDPOINT_HINT
        ) from error


def parse_body(body: bytes, request_id: int) -> RpcReply:
    """Read a whole `application/json` answer.

    Raises:
        ProtocolError: The body is not JSON-RPC, or answers another request.
    """
    message = decode_json(body)
    candidates = message if isinstance(message, list) else [message]
    for candidate in candidates:
        reply = match_reply(candidate, request_id, is_alone=len(candidates) == 1)
        if reply is not None:
            return reply
    raise ProtocolError("the pool's answer does not belong to the request", hint=_ENDPOINT_HINT)


def split_batches(messages: Iterable[Any]) -> Iterator[Any]:
    """Yield single messages. A server may send several in one event, as a JSON-RPC batch."""
    for message in messages:
        yield from message if isinstance(message, list) else [message]


def match_reply(message: object, request_id: int, *, is_alone: bool = False) -> RpcReply | None:
    """Return the reply if the message answers this request, or else None.

    Args:
        message: A decoded message.
        request_id: The id of our request. Servers may return it as text.
        is_alone: Whether the message is the whole answer, so that it may lack an id.

    Raises:
        ProtocolError: The result is not an object.
    """
    if not isinstance(message, Mapping) or not ("result" in message or "error" in message):
        return None
    given = message.get("id")
    if str(given) != str(request_id) and not (given is None and (is_alone or "error" in message)):
        return None
    error = message.get("error")
    if error is not None:
        return RpcReply(error=_parse_rpc_error(error))
    result = message.get("result")  # missing where an `error` is null
    if not isinstance(result, Mapping):
        kind = type(result).__name__
        raise ProtocolError(f"the pool's answer has a result that is not an object ({kind})")
    return RpcReply(result)


def get_notification_params(message: object, method: str) -> Mapping[str, Any] | None:
    """Return the parameters if the message is a notification of this method, or else None."""
    if not isinstance(message, Mapping) or message.get("method") != method or "id" in message:
        return None
    params = message.get("params")
    return params if isinstance(params, Mapping) else None


def parse_tool_result(result: Mapping[str, Any]) -> ToolResult:
    """Read the result of `tools/call`. A field of the wrong type counts as missing."""
    content, structured, meta = (
        result.get(name) for name in ("content", "structuredContent", "_meta")
    )
    blocks = content if isinstance(content, list) else []
    return ToolResult(
        tuple(block for block in blocks if isinstance(block, Mapping)),
        structured if isinstance(structured, Mapping) else None,
        result.get("isError") is True,
        meta if isinstance(meta, Mapping) else {},
        isinstance(content, list) or isinstance(structured, Mapping),
    )


class EventReader:
    """Parser of a `text/event-stream` that arrives in chunks of any size.

    Lines end with LF, CR or CRLF. Comments and unknown fields are skipped. Several `data` lines
    make one message (html.spec.whatwg.org, Server-sent events).

    Attributes:
        size: About how many bytes wait for the end of their message.
    """

    def __init__(self) -> None:
        self._line: list[bytes] = []
        self._data: list[bytes] = []
        self._after_cr = False
        self.size = 0

    def feed(self, chunk: bytes) -> Iterator[Any]:
        """Parse a chunk of the stream and yield the messages that it completes.

        Raises:
            ProtocolError: A message is not JSON.
        """
        if not chunk:
            return
        self.size += len(chunk)
        if self._after_cr and chunk.startswith(b"\n"):
            chunk = chunk[1:]
            self._after_cr = False
            if not chunk:
                return
        self._after_cr = chunk.endswith(b"\r")
        first, *others = chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        self._line.append(first)
        for start in others:
            line, self._line = b"".join(self._line), [start]
            yield from self._handle_line(line)

    def _handle_line(self, line: bytes) -> Iterator[Any]:
        if line:
            name, _, value = line.removeprefix(b"\xef\xbb\xbf").partition(b":")
            if name == b"data":
                self._data.append(value.removeprefix(b" "))
            return
        data, self._data, self.size = b"\n".join(self._data), [], 0
        if data.strip():
            yield decode_json(data)


def _check_memory(body: bytes) -> None:
    """Refuse JSON that would take too much memory: `[]` has 2 bytes here and 64 as a list."""
    if _estimate_memory(body, body.count(b'"') // 2) <= MAX_MEMORY:
        return
    bare, texts = _JSON_TEXT.subn(b"", body)  # a text may hold any number of brackets
    if _estimate_memory(bare, texts) > MAX_MEMORY:
        raise ProtocolError(
            f"the pool's answer of {len(body):,} bytes has too many values "
            f"(more than {MAX_MEMORY:,} bytes of memory)"
        )


def _estimate_memory(body: bytes, texts: int) -> int:
    """Return about how many bytes of memory the values of JSON take beyond their own text."""
    return 64 * (body.count(b"[") + body.count(b"{") + texts) + 16 * body.count(b",")


def _parse_rpc_error(error: object) -> RpcError:
    if not isinstance(error, Mapping):
        return RpcError(0, str(error))
    code = error.get("code")
    message = error.get("message")
    if isinstance(code, str):  # the data plane's own codes are text
        return RpcError(0, f"{code}: {message}", error.get("data"))
    return RpcError(code if isinstance(code, int) else 0, str(message or ""), error.get("data"))


def _encode(message: Mapping[str, Any]) -> bytes:
    try:
        return json.dumps(message, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError:  # a lone surrogate travels as an escape
        return json.dumps(message, separators=(",", ":")).encode()

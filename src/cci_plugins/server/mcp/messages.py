"""JSON-RPC messages that the SDK does not answer, or answers as a fault of the server.

Over standard input and output, the SDK's reader drops a line that it cannot parse, so the client
waits forever. Lone surrogates are among them, which JSON may contain. Over HTTP it fails on some.
Here every request is answered.
"""

from __future__ import annotations

import json
import re
from importlib.metadata import version
from typing import Any

from mcp import types
from mcp.shared.message import SessionMessage
from pydantic import ValidationError

from cci_plugins.server.answers import sanitize_json

_DEEP = 500
# Surrogates, integers that Python refuses, and ids that are neither text nor an integer.
_UNUSUAL = re.compile(
    rb"""\\u[dD][89a-fA-F]|\d{4000}|"id"\s*:(?!\s*(?:"|-?\d+\s*[,}]))""",
)
_PARSE_ERROR, _INVALID_REQUEST = -32700, -32600
# Either major may be installed, so names that only one of them has are reached through Any.
_sdk_types: Any = types
_IS_FIRST_MAJOR = version("mcp").startswith("1.")


class MessageError(Exception):
    """A text that is not a message.

    Attributes:
        answer: The message to answer with, as JSON in ASCII.
    """

    def __init__(self, code: int, message: str, request_id: object = None) -> None:
        super().__init__(message)
        error = {"code": code, "message": message}
        answer = {"jsonrpc": "2.0", "id": request_id, "error": error}
        self.answer = json.dumps(answer)


def check_message(text: str | bytes) -> dict[str, Any]:
    """Return a JSON-RPC message that has no id, or one that an answer can repeat.

    Raises:
        MessageError: The text is not one.
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        raise MessageError(_PARSE_ERROR, "Parse error: it is not JSON") from None
    if not isinstance(value, dict):
        text = "Invalid request: send one JSON-RPC message, not a batch"
        raise MessageError(_INVALID_REQUEST, text)
    request_id = value.get("id")
    if "method" in value and "id" in value and not _is_id(request_id):
        raise MessageError(_INVALID_REQUEST, "Invalid request: its id is not a string or integer")
    if sanitize_json(request_id) != request_id:
        text = "Invalid request: its id is not Unicode text"
        raise MessageError(_INVALID_REQUEST, text, request_id)
    return value


def check_encoding(body: bytes) -> None:
    """Check that a body is UTF-8, so that every parser reads the same.

    Raises:
        MessageError: It is not.
    """
    try:
        body.decode()
    except UnicodeDecodeError:
        raise MessageError(_PARSE_ERROR, "Parse error: it is not UTF-8") from None
    if b"\0" in body:
        raise MessageError(_PARSE_ERROR, "Parse error: it has a zero byte, as UTF-16 has")


def is_unusual(body: bytes) -> bool:
    """Return whether a body may be one of those on which the SDK fails. Most are not."""
    is_deep = body.count(b"[") + body.count(b"{") > _DEEP
    return is_deep or _UNUSUAL.search(body) is not None


def _is_id(value: object) -> bool:
    return isinstance(value, (str, int)) and not isinstance(value, bool)


def parse_line(line: str) -> SessionMessage:
    """Return the message in a line.

    Raises:
        MessageError: The line is not a JSON-RPC message.
    """
    value = check_message(line)
    try:
        if _IS_FIRST_MAJOR:
            message = _sdk_types.JSONRPCMessage.model_validate(value)
        else:
            message = _sdk_types.jsonrpc_message_adapter.validate_python(value, by_name=False)
    except (ValidationError, RecursionError):
        text = "Invalid request: it is not a JSON-RPC 2.0 message"
        request_id = value.get("id")
        request_id = request_id if _is_id(request_id) else None
        raise MessageError(_INVALID_REQUEST, text, request_id) from None
    return SessionMessage(message)


def format_line(message: SessionMessage) -> str:
    """Return a message as a line without its end. Text that UTF-8 cannot hold is replaced."""
    sent: Any = message.message
    options = {"by_alias": True, "exclude_none" if _IS_FIRST_MAJOR else "exclude_unset": True}
    try:
        return str(sent.model_dump_json(**options))
    except ValueError:  # lone surrogates
        return json.dumps(sanitize_json(sent.model_dump(**options)), default=str)

"""Messages over standard input and output, one JSON object in a line.

The SDK's own reader drops a line that it cannot parse, so its client waits forever. Lone surrogates
are among them, which JSON may contain and code often does. Here every request is answered.
"""

from __future__ import annotations

import json
from importlib.metadata import version
from typing import Any

from mcp import types
from mcp.shared.message import SessionMessage
from pydantic import ValidationError

from cci_plugins.server.answers import sanitize_json

_PARSE_ERROR, _INVALID_REQUEST = -32700, -32600
# Either major may be installed, so names that only one of them has are reached through Any.
_sdk_types: Any = types
_IS_FIRST_MAJOR = version("mcp").startswith("1.")


class MessageError(Exception):
    """A line that is not a message.

    Attributes:
        answer: The line to answer with.
    """

    def __init__(self, code: int, message: str, request_id: object = None) -> None:
        super().__init__(message)
        error = {"code": code, "message": message}
        answer = {"jsonrpc": "2.0", "id": request_id, "error": error}
        self.answer = json.dumps(sanitize_json(answer)) + "\n"


def parse_line(line: str) -> SessionMessage:
    """Return the message in a line.

    Raises:
        MessageError: The line is not a JSON-RPC message.
    """
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        raise MessageError(_PARSE_ERROR, "Parse error: the line is not JSON") from None
    if not isinstance(value, dict):
        text = "Invalid request: send one JSON-RPC message in a line, not a batch"
        raise MessageError(_INVALID_REQUEST, text)
    request_id = value.get("id")
    is_id = isinstance(request_id, (str, int)) and not isinstance(request_id, bool)
    if "method" in value and "id" in value and not is_id:
        raise MessageError(_INVALID_REQUEST, "Invalid request: its id is not a string or integer")
    try:
        if _IS_FIRST_MAJOR:
            message = _sdk_types.JSONRPCMessage.model_validate(value)
        else:
            message = _sdk_types.jsonrpc_message_adapter.validate_python(value, by_name=False)
    except (ValidationError, RecursionError):
        text = "Invalid request: it is not a JSON-RPC 2.0 message"
        raise MessageError(_INVALID_REQUEST, text, request_id if is_id else None) from None
    return SessionMessage(message)


def format_line(message: SessionMessage) -> str:
    """Return a message as a line. Text that UTF-8 cannot hold is replaced."""
    sent: Any = message.message
    options = {"by_alias": True, "exclude_none" if _IS_FIRST_MAJOR else "exclude_unset": True}
    try:
        return f"{sent.model_dump_json(**options)}\n"
    except ValueError:  # lone surrogates
        return json.dumps(sanitize_json(sent.model_dump(**options)), default=str) + "\n"

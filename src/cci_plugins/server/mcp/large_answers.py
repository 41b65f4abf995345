"""Large results of MCP requests, encoded in a worker thread instead of by the SDK.

The SDK encodes a result several times on the event loop, so that 30 MB stall every other session
for a second. A large result is therefore encoded here, in pieces. The SDK gets a small placeholder
with a random text in its place. `LargeAnswers.fill` finds that text in the message which the SDK
sends, as one JSON body, one event of a stream or one line, and puts the result there. It needs
nothing of the SDK but its answer, so that both of its major versions work. What cannot be encoded
in this way is left to the SDK.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextvars import ContextVar
from secrets import token_hex
from typing import Any

from starlette.datastructures import MutableHeaders
from starlette.types import Message, Send

from cci_plugins.common.json_pieces import PIECE_CHARACTERS, encode, encode_in_pieces, is_large
from cci_plugins.common.worker_lane import WorkerLane, give_way

_lane = WorkerLane("encoding")
_Fields = dict[str, list[bytes]]


class LargeAnswers:
    """The large results of an HTTP request or a connection, between their making and the wire."""

    def __init__(self) -> None:
        self._encoded: dict[bytes, _Fields] = {}

    async def keep(self, fields: Mapping[str, Any]) -> str | None:
        """Keep the fields of a large result, and return the text that stands for them.

        Args:
            fields: Fields of the result, as JSON. The SDK may add others, and to `_meta`.

        Returns:
            The text that the SDK's result must have somewhere, or None if the result is small.
        """
        if not is_large(fields):
            return None
        try:
            encoded = await _lane.run(lambda: _encode_fields(fields))
        except (ValueError, TypeError, RecursionError):
            return None
        token = token_hex(32)
        self._encoded[token.encode()] = encoded
        return token

    def wrap(self, send: Send) -> Send:
        """Return a sender that puts the results in the place of their placeholders."""
        start: Message | None = None

        async def send_results(message: Message) -> None:
            nonlocal start
            if message["type"] == "http.response.start" and _has_length(message):
                start = message  # its length follows from the body
                return
            parts = None
            if message["type"] == "http.response.body" and self._encoded:
                parts = self.fill(message.get("body", b""))
            if start is not None:
                if parts is not None:
                    length = sum(map(len, parts))
                    start = {**start, "headers": list(start["headers"])}
                    MutableHeaders(scope=start)["content-length"] = str(length)
                await send(start)
                start = None
            if parts is None:
                await send(message)
                return
            for part in collect_pieces(parts):
                await send({"type": "http.response.body", "body": part, "more_body": True})
            await send({**message, "body": b""})

        return send_results

    def forget(self, token: str) -> None:
        """Drop a result that was never sent."""
        self._encoded.pop(token.encode(), None)

    def fill(self, body: bytes) -> list[bytes] | None:
        """Return the body with its result in pieces, or None if it has no placeholder."""
        for token, fields in self._encoded.items():
            if token in body:
                del self._encoded[token]
                lines = body.split(b"\n") if not body.startswith(b"{") else [body]
                return [
                    part
                    for index, line in enumerate(lines)
                    for part in (b"\n" if index else b"", *_fill_line(line, token, fields))
                ]
        return None


large_answers: ContextVar[LargeAnswers | None] = ContextVar("large_answers", default=None)


async def encode_in_lane(value: Any) -> list[bytes]:
    """Return the JSON of a large value in pieces, encoded in a worker thread.

    Raises:
        ValueError: A number is not finite.
        TypeError: It is not a JSON value.
    """
    return await _lane.run(lambda: _encode_slowly(value))


def _encode_fields(fields: Mapping[str, Any]) -> _Fields:
    """Encode each field of a result."""
    return {name: _encode_slowly(value) for name, value in fields.items()}


def _encode_slowly(value: Any) -> list[bytes]:
    pieces, size = [], 0
    for piece in encode_in_pieces(value):
        pieces.append(piece)
        size += len(piece)
        if size > PIECE_CHARACTERS:
            give_way()
            size = 0
    return pieces


def _fill_line(line: bytes, token: bytes, fields: _Fields) -> Iterator[bytes]:
    """Yield a line with a message, whose placeholder is replaced by the fields of the result."""
    if token not in line:
        yield line
        return
    start = line.index(b"{")  # after `data: ` in a stream
    body = line.rstrip(b"\r")
    envelope = json.loads(body[start:])
    result: dict[str, Any] = envelope.pop("result")
    given = result.pop("_meta", None) or {}
    result = {name: value for name, value in result.items() if name not in fields}
    yield line[:start]
    yield from (encode(envelope)[:-1], b',"result":', encode(result)[:-1])
    separator = b"," if result else b""
    for name, pieces in _add_given(fields, given).items():
        yield separator + encode(name) + b":"
        yield from pieces
        separator = b","
    yield b"}}"
    yield line[len(body) :]


def _add_given(fields: _Fields, given: Mapping[str, Any]) -> _Fields:
    """Return the fields with the SDK's own `_meta` and the result's in one object."""
    own = fields.get("_meta", [b"{}"])
    if not given:
        return fields
    between = b"" if own == [b"{}"] else b","
    return fields | {"_meta": [encode(given)[:-1], between, own[0][1:], *own[1:]]}


def _has_length(message: Message) -> bool:
    return any(name.lower() == b"content-length" for name, _ in message.get("headers", ()))


def collect_pieces(parts: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the parts in pieces of a good size for a socket."""
    waiting = bytearray()
    for part in parts:
        waiting += part
        if len(waiting) >= PIECE_CHARACTERS:
            yield bytes(waiting)
            waiting.clear()
    if waiting:
        yield bytes(waiting)

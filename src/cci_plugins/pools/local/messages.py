"""Jupyter's messages: built and signed, and read without trust.

Untrusted code has the key and may write any message. `Message` reads the headers first, which are
small, so that a message that nobody waits for costs nothing more. Its content is checked and
decoded by `read_content`, which may run in a worker thread.

The values of JSON need up to 30 times the memory of their text, and decoding them holds Python's
lock. So a content with more values than could be kept is refused before it is decoded. The search
for them gives way to other work, because a text can be made to slow it down.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import count
from secrets import token_hex
from typing import Any

from cci_plugins.common.worker_lane import give_way
from cci_plugins.in_session.message_bounds import measure_forms

_DELIMITER = b"<IDS|MSG>"
_PARTS = 5  # signature, header, parent header, metadata, content
_MAX_HEADER_BYTES = 64 * 1024
_MAX_TOPICS = 8  # frames before the delimiter
_TEXT = re.compile(rb'[^"\\]*+(?:\\.[^"\\]*+)*+', re.DOTALL)
_SLICE = 64 * 1024  # of a text: the search holds Python's lock so long
_STRINGS_AT_ONCE = 5_000
MAX_VALUES = 2_000_000  # of one content
_VALUES_OF_CONTAINER = 4  # a list or dict needs as much memory as so many numbers


class MalformedMessageError(Exception):
    """A message is not signed, not Jupyter's, or has too many values."""


@dataclass(frozen=True, slots=True)
class Message:
    """A message whose headers were read, and nothing was checked.

    Attributes:
        kind: Its type.
        parent: Identifier of the request that it belongs to.
        parts: Signature, header, parent header, metadata and content.
    """

    kind: str
    parent: str
    parts: list[bytes]


class MessageCodec:
    """Builds and reads the messages of one kernel.

    Args:
        key: The key of its connection info.
    """

    def __init__(self, key: str) -> None:
        self._auth = hmac.new(key.encode(), digestmod=hashlib.sha256)
        self._session = token_hex(16)
        self._numbers = count()

    def build(
        self, kind: str, content: dict[str, Any], metadata: dict[str, Any] | None = None
    ) -> tuple[str, list[bytes]]:
        """Build a request.

        Returns:
            Its identifier and its frames.
        """
        identifier = f"{self._session}_{next(self._numbers)}"
        header = {
            "msg_id": identifier,
            "msg_type": kind,
            "username": "host",
            "session": self._session,
            "date": datetime.now(UTC).isoformat(),
            "version": "5.3",
        }
        parts = [_encode(header), b"{}", _encode(metadata or {}), _encode(content)]
        return identifier, [_DELIMITER, self._sign(parts), *parts]

    def read_content(self, message: Message) -> tuple[dict[str, Any], int]:
        """Check the signature of a message and decode its content.

        Returns:
            The content, and the size of its `data` if that is a dict, for `Collector`.

        Raises:
            MalformedMessageError: The message must be ignored.
        """
        signature, *parts = message.parts
        if not hmac.compare_digest(self._sign(parts), signature):
            raise MalformedMessageError("its signature is wrong")
        _check_values(parts[-1])
        content = _decode(parts[-1])
        if not isinstance(content, dict):
            raise MalformedMessageError("its content is not an object")
        data = content.get("data")
        return content, measure_forms(data) if isinstance(data, dict) else 0

    def _sign(self, parts: list[bytes]) -> bytes:
        digest = self._auth.copy()
        for part in parts:
            digest.update(part)
        return digest.hexdigest().encode()


def read_headers(frames: list[bytes]) -> Message:
    """Read the headers of a message.

    Raises:
        MalformedMessageError: The message must be ignored.
    """
    try:
        at = frames.index(_DELIMITER, 0, _MAX_TOPICS) + 1
    except ValueError:
        raise MalformedMessageError("it has no delimiter") from None
    parts = frames[at : at + _PARTS]
    if len(parts) < _PARTS or len(parts[1]) + len(parts[2]) > _MAX_HEADER_BYTES:
        raise MalformedMessageError("its headers are missing or too large")
    header, parent = _decode(parts[1]), _decode(parts[2])
    kind = header.get("msg_type") if isinstance(header, dict) else None
    request = parent.get("msg_id") if isinstance(parent, dict) else None
    if not isinstance(kind, str):
        raise MalformedMessageError("it has no type")
    return Message(kind, request if isinstance(request, str) else "", parts)


def _encode(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, allow_nan=False).encode(errors="surrogateescape")


def _decode(part: bytes) -> Any:
    try:
        return json.loads(part.decode(errors="replace"))
    except (ValueError, RecursionError) as error:
        raise MalformedMessageError(f"it is not JSON ({type(error).__name__})") from None


def _check_values(part: bytes) -> None:
    """Refuse a content with too many values, by the characters between them."""
    if len(part) * _VALUES_OF_CONTAINER <= MAX_VALUES:
        return
    if _count_values(part, 0, len(part)) <= MAX_VALUES:
        return
    found = strings = start = 0
    while found <= MAX_VALUES and strings <= MAX_VALUES:  # the same without those inside texts
        quote = part.find(b'"', start)
        if quote < 0:
            found += _count_values(part, start, len(part))
            break
        found += _count_values(part, start, quote)
        start = _find_text_end(part, quote + 1)
        strings += 1
        if strings % _STRINGS_AT_ONCE == 0:
            give_way()
    if max(found, strings) > MAX_VALUES:
        raise MalformedMessageError(f"it has more than {MAX_VALUES:,} values")


def _find_text_end(part: bytes, start: int) -> int:
    """Return the position behind the text that starts here."""
    while start < len(part) - 1:
        match = _TEXT.match(part, start, start + _SLICE)
        start = match.end() if match else len(part)
        if part[start : start + 1] == b'"':
            return start + 1
        give_way()  # the slice ended, perhaps within an escape
    return len(part)


def _count_values(part: bytes, start: int, end: int) -> int:
    if end - start <= 1:  # most often a comma or a colon
        return int(part[start:end] == b",")
    containers = part.count(b"[", start, end) + part.count(b"{", start, end)
    return part.count(b",", start, end) + _VALUES_OF_CONTAINER * containers

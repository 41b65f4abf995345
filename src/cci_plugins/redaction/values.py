"""Redaction of JSON-like values."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from .scanner import REDACTED
from .stream import after_slice, redact

MAX_DEPTH = 100
_PAIR_LENGTH = 2
_NAMES = frozenset(
    {"account_key", "accountkey", "authorization", "sharedaccesskey", "sig", "x-ms-apikey"}
)
_PLAIN_TYPES = frozenset({bool, float, int, type(None)})  # hold no text
_BASE64 = re.compile(r"[A-Za-z0-9+/\r\n]*+={0,2}[\r\n]*")


def redact_value(value: Any) -> Any:
    """Return the value without secrets, in dicts (keys too), lists, tuples, sets and bytes.

    Values of other types are returned unchanged. Base64 of images is not searched: texts under
    `image/*` keys of a notebook's MIME bundle, and the `data` of an MCP image.

    Args:
        value: The value. It is not changed.
    """
    return _redact(value, 0)


def _redact(value: Any, depth: int) -> Any:
    if depth > MAX_DEPTH:
        return REDACTED
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, bytes | bytearray):
        return type(value)(redact(value.decode("latin-1")).encode("latin-1"))
    if pause := after_slice.get():
        pause()
    if isinstance(value, Mapping):
        return _redact_mapping(value, depth + 1)
    if type(value) in {list, tuple, set, frozenset}:
        return type(value)(_redact_items(list(value), depth + 1))
    return value


def _redact_items(items: list[Any], depth: int) -> list[Any]:
    if len(items) == _PAIR_LENGTH and _is_secret_name(items[0]):
        return [items[0], _redact_named(items[0], items[1], depth)]
    if _PLAIN_TYPES.issuperset(map(type, items)):  # thousands of numbers take no time
        return items
    return [_redact(item, depth) for item in items]


def _redact_mapping(value: Mapping[Any, Any], depth: int) -> dict[Any, Any]:
    is_image = _is_image(value.get("mimeType")) or _is_image(value.get("mime_type"))
    return {
        _redact(key, depth): item
        if _is_image_data(item) and (_is_image(key) or (is_image and key == "data"))
        else _redact_named(key, item, depth)
        for key, item in value.items()
    }


def _redact_named(name: Any, item: Any, depth: int) -> Any:
    """Redact the value of a header or parameter, which may be secret because of its name."""
    if not _is_secret_name(name):
        return _redact(item, depth)
    if depth <= MAX_DEPTH and isinstance(item, list):
        return [_redact_named(name, inner, depth + 1) for inner in item]
    if isinstance(item, bytes):
        return _redact_named(name, item.decode("latin-1"), depth).encode("latin-1")
    if isinstance(item, str):
        announcement = f"{_decode_name(name)}="
        return redact(announcement + item).removeprefix(announcement)
    return _redact(item, depth)


def _is_secret_name(name: Any) -> bool:
    return _decode_name(name).lower() in _NAMES


def _decode_name(name: Any) -> str:
    if isinstance(name, bytes):
        return name.decode("latin-1")
    return name if isinstance(name, str) else ""


def _is_image(name: Any) -> bool:
    return isinstance(name, str) and name.startswith("image/") and name != "image/svg+xml"


def _is_image_data(item: Any) -> bool:
    if isinstance(item, list):
        return all(isinstance(line, str) and _BASE64.fullmatch(line) for line in item)
    return isinstance(item, str) and _BASE64.fullmatch(item) is not None

"""Images as they come from a session: base64 text that may be anything."""

from __future__ import annotations

import binascii
from base64 import b64decode
from collections.abc import Mapping
from typing import Any

# By MIME type: what the bytes begin with. In the order in which a form is preferred.
_SIGNATURES: dict[str, tuple[bytes, ...]] = {
    "image/png": (b"\x89PNG",),
    "image/jpeg": (b"\xff\xd8\xff",),
    "image/gif": (b"GIF87a", b"GIF89a"),
    "image/webp": (b"RIFF",),
}
SVG = "image/svg+xml"
IMAGE_TYPES = tuple(_SIGNATURES)


def decode_base64(value: object) -> bytes | None:
    """Decode base64 text. Return None if the value is not base64."""
    if not isinstance(value, str):
        return None
    try:
        return b64decode("".join(value.split()), validate=True)
    except (binascii.Error, ValueError):  # a character beyond ASCII is a plain ValueError
        return None


def decode_image(media_type: str, value: object) -> bytes | None:
    """Return the bytes of an image. Return None if they are not of this type.

    Args:
        media_type: The type that the session claims.
        value: Base64 text, or for SVG the document.
    """
    if media_type == SVG:
        is_document = isinstance(value, str) and "<svg" in value
        return value.encode("utf-8", "replace") if is_document and isinstance(value, str) else None
    data = decode_base64(value)
    signatures = _SIGNATURES.get(media_type, (b"",))
    return data if data is not None and data.startswith(signatures) else None


def find_image_type(data: Mapping[str, Any]) -> str | None:
    """Return the first MIME type of a result that is an image, malformed or not."""
    return next((kind for kind in data if str(kind).startswith("image/")), None)


def has_valid_image(data: Mapping[str, Any]) -> bool:
    """Return whether at least one form of a result is an image that can be shown."""
    return any(
        decode_image(kind, value) is not None
        for kind, value in data.items()
        if str(kind).startswith("image/")
    )

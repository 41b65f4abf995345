"""What a token of Microsoft Entra says of itself."""

from __future__ import annotations

import base64
import binascii
import json
from typing import Any

_PARTS = 3


def decode_claims(token: str) -> dict[str, Any]:
    """A token's claims; none when it has no such form.

    They are not checked: Azure itself checks whoever acts on them.
    """
    parts = token.split(".")
    if len(parts) != _PARTS:
        return {}
    try:
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except (ValueError, binascii.Error):
        return {}
    return claims if isinstance(claims, dict) else {}

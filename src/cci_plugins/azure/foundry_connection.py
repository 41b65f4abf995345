"""The connection of a Foundry project to a session pool, as Resource Manager has it.

Azure never returns a connection's key, so a fingerprint in its metadata shows whether the key
still matches. `cci foundry connect` and `cci provision up --foundry` write the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from .credentials import KEY_HEADER
from .resource import lowercase_keys

NAME = "code-interpreter"
CATEGORY, AUTH_TYPE = "RemoteTool", "CustomKeys"
FINGERPRINT_FIELD = "cci-key-fingerprint"


def compute_fingerprint(connection_id: str, key: str) -> str:
    """Return a fingerprint of a key that only fits one connection."""
    return hashlib.sha256(f"{connection_id.lower()}\0{key}".encode()).hexdigest()[:16]


def build_properties(connection_id: str, target: str, key: str) -> dict[str, Any]:
    """Build the properties of a connection.

    Args:
        connection_id: Its resource id.
        target: The MCP endpoint.
        key: The key of that endpoint.
    """
    return {
        "authType": AUTH_TYPE,
        "category": CATEGORY,
        "target": target,
        "credentials": {"keys": {KEY_HEADER: key}},
        "metadata": {FINGERPRINT_FIELD: compute_fingerprint(connection_id, key)},
    }


def is_made_elsewhere(properties: Mapping[str, Any], target: str) -> bool:
    """Return whether a connection was made by something else and leads to another server."""
    values = lowercase_keys(properties)
    kind = (str(values.get("category")).lower(), str(values.get("authtype")).lower())
    if kind != (CATEGORY.lower(), AUTH_TYPE.lower()):
        return True
    is_same = str(values.get("target") or "").rstrip("/").lower() == target.rstrip("/").lower()
    return not is_same and FINGERPRINT_FIELD not in lowercase_keys(values.get("metadata"))

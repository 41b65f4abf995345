"""Whether a resource is as it should be."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_QUANTITY = re.compile(r"(\d+)\.0+(?=[A-Za-z]+$)")


def matches(wanted: object, found: object) -> bool:
    """Whether what was found has all that is wanted; it may have more.

    Azure gives names and values back in another case, in regions with spaces, and quantities
    without their zeros.
    """
    if isinstance(wanted, Mapping):
        return isinstance(found, Mapping) and _matches_all(wanted, found)
    if isinstance(wanted, list):
        return (
            isinstance(found, list)
            and len(wanted) == len(found)
            and all(matches(one, other) for one, other in zip(wanted, found, strict=True))
        )
    if isinstance(wanted, str) and isinstance(found, str):
        return _normalize(wanted) == _normalize(found)
    return wanted == found


def lower(value: object) -> dict[str, Any]:
    """An object with its names in lower case; empty when it is none."""
    if not isinstance(value, Mapping):
        return {}
    return {str(name).lower(): item for name, item in value.items()}


def _matches_all(wanted: Mapping[str, Any], found: Mapping[str, Any]) -> bool:
    given = lower(found)
    return all(matches(value, given.get(name.lower())) for name, value in wanted.items())


def _normalize(text: str) -> str:
    return _QUANTITY.sub(r"\1", text.replace(" ", "").lower())

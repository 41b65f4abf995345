"""The functions and decorators of Bicep that `infra/` uses."""

from __future__ import annotations

import base64
import hashlib
import json
import uuid
from datetime import UTC, datetime
from typing import Any

GROUP = {
    "id": "/subscriptions/00000000-0000-0000-0000-000000000001/resourceGroups/group",
    "name": "group",
    "location": "eastus",
}
_GUIDS = uuid.UUID("11fb06fb-712d-4ddd-98c7-e71bbd588830")  # documented for guid()


def as_string(value: Any) -> str:
    """A value inside a string."""
    if isinstance(value, bool):
        return str(value)
    return value if isinstance(value, str) else json.dumps(value)


def union(*objects: dict[str, Any]) -> dict[str, Any]:
    """All members; a later one wins."""
    return {name: value for each in objects for name, value in each.items()}


def unique_string(*parts: str) -> str:
    """As Azure's: 13 lower-case letters and digits, though not the same ones."""
    digest = hashlib.sha256("-".join(parts).encode()).digest()
    return base64.b32encode(digest).decode().lower()[:13]


def guid(*parts: str) -> str:
    """As Azure's."""
    return str(uuid.uuid5(_GUIDS, "-".join(parts)))


def subscription_resource_id(kind: str, name: str) -> str:
    """Id of something that the whole subscription has."""
    subscription = GROUP["id"].partition("/resourceGroups")[0]
    return f"{subscription}/providers/{kind}/{name}"


def utc_now(form: str) -> str:
    """The time, in .NET's notation."""
    names = {"yyyy": "%Y", "MM": "%m", "dd": "%d", "HH": "%H", "mm": "%M", "ss": "%S"}
    for theirs, ours in names.items():
        form = form.replace(theirs, ours)
    return datetime.now(UTC).strftime(form)


FUNCTIONS: dict[str, Any] = {
    "empty": lambda value: not value,
    "guid": guid,
    "json": json.loads,
    "newGuid": lambda: str(uuid.uuid4()),
    "resourceGroup": lambda: GROUP,
    "string": as_string,
    "subscriptionResourceId": subscription_resource_id,
    "take": lambda value, count: value[:count],
    "union": union,
    "uniqueString": unique_string,
    "utcNow": utc_now,
}


def check(name: str, value: Any, decorator: str, arguments: list[Any]) -> None:
    """Hold a parameter's value against one decorator.

    Raises:
        ValueError: It breaks it.
    """
    held = {
        "allowed": lambda allowed: value in allowed,
        "description": lambda _: True,
        "maxLength": lambda most: len(value) <= most,
        "maxValue": lambda most: value <= most,
        "minLength": lambda least: len(value) >= least,
        "minValue": lambda least: value >= least,
        "secure": lambda: True,
    }[decorator](*arguments)
    if not held:
        raise ValueError(f"{name} breaks @{decorator}{tuple(arguments)}")

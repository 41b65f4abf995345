"""What every request of the REST side has in common: identifier, api-version, a JSON body."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from starlette.requests import Request

from cci_plugins.server import identifiers

from .errors import RequestError

_VERSION = re.compile(r"(\d{4}-\d{2}-\d{2})(-preview)?")
_LAST_OLD = "2024-08-02"


def is_old_form(request: Request) -> bool:
    """Whether the api-version is one of those with a `properties` frame around everything.

    Raises:
        RequestError: The api-version is missing or is no version.
    """
    version = request.query_params.get("api-version", "")
    match = _VERSION.fullmatch(version)
    if match is None:
        raise RequestError(
            400, "InvalidApiVersion", f"The api-version '{version[:50]}' is not valid."
        )
    return match[1] <= _LAST_OLD


def session_of(request: Request) -> str:
    """The session a request is for.

    Raises:
        RequestError: The identifier is missing or not allowed, or the api-version is.
    """
    is_old_form(request)
    identifier = request.query_params.get("identifier", "")
    if (fault := identifiers.fault_of(identifier)) is not None:
        raise RequestError(400, identifiers.CODE, fault)
    return identifier


async def json_body(request: Request, longest: int) -> dict[str, Any]:
    """The body's properties, by lower-case name, out of their frame where they have one.

    Args:
        request: The request.
        longest: Most bytes of a body.

    Raises:
        RequestError: The body is too large or no JSON object.
    """
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > longest:
            raise RequestError(413, "RequestTooLarge", f"At most {longest:,} bytes.")
    try:
        value = json.loads(bytes(body))
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, Mapping):
        raise RequestError(400, "InvalidRequest", "The body must be a JSON object.")
    fields = _lower(value)
    inner = fields.get("properties")
    return _lower(inner) if isinstance(inner, Mapping) else fields


def _lower(value: Mapping[str, Any]) -> dict[str, Any]:
    return {name.lower(): item for name, item in value.items()}

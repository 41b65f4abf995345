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
_LAST_OLD_VERSION = "2024-08-02"


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
    return match[1] <= _LAST_OLD_VERSION


def get_session_id(request: Request) -> str:
    """The session a request is for.

    Raises:
        RequestError: The identifier is missing or not allowed, or the api-version is.
    """
    is_old_form(request)
    identifier = request.query_params.get("identifier", "")
    if (problem := identifiers.check_identifier(identifier)) is not None:
        raise RequestError(400, identifiers.CODE, problem)
    return identifier


async def read_json_body(request: Request, max_bytes: int) -> dict[str, Any]:
    """The body's properties, by lower-case name, out of their frame where they have one.

    Args:
        request: The request.
        longest: Most bytes of a body.

    Raises:
        RequestError: The body is too large or no JSON object.
    """
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > max_bytes:
            raise RequestError(413, "RequestTooLarge", f"At most {max_bytes:,} bytes.")
    try:
        value = json.loads(bytes(body))
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, Mapping):
        raise RequestError(400, "InvalidRequest", "The body must be a JSON object.")
    fields = _lower_keys(value)
    inner = fields.get("properties")
    return _lower_keys(inner) if isinstance(inner, Mapping) else fields


def _lower_keys(value: Mapping[str, Any]) -> dict[str, Any]:
    return {name.lower(): item for name, item in value.items()}

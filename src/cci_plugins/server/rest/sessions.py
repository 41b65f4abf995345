"""Sessions over REST: list them, end one, and describe what the pool runs."""

from __future__ import annotations

import platform
from datetime import UTC, datetime
from hashlib import sha256
from importlib.metadata import distributions
from typing import Any

import anyio
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from cci_plugins.models import SessionInfo
from cci_plugins.pools.base import SessionPool

from .errors import RequestError
from .requests import get_session_id, is_old_form

PAGE_SIZE = 300
_MANAGEMENT = "/.management"


class SessionRoutes:
    """Routes that list and end sessions for REST clients.

    Args:
        pool: Where the sessions are.
    """

    def __init__(self, pool: SessionPool) -> None:
        self._pool = pool
        self._started_at = _format_time(datetime.now(UTC))

    def build_routes(self) -> list[Route]:
        """Return the routes, including `.management` from the conceptual documentation."""
        return [
            Route("/session", self._get, methods=["GET"]),
            Route("/session", self._delete, methods=["DELETE"]),
            Route("/listSessions", self._list, methods=["GET"]),
            Route("/metadata", self._get_metadata, methods=["GET"]),
            Route(f"{_MANAGEMENT}/getSession", self._get, methods=["POST"]),
            Route(f"{_MANAGEMENT}/listSessions", self._list, methods=["POST"]),
            Route(f"{_MANAGEMENT}/stopSession", self._stop, methods=["POST"]),
        ]

    async def _get(self, request: Request) -> Response:
        identifier = get_session_id(request)
        for session in await self._pool.list_sessions():
            if session.identifier == identifier:
                return JSONResponse(_to_json(session))
        raise _build_not_found_error(identifier)

    async def _delete(self, request: Request) -> Response:
        await self._pool.delete_session(get_session_id(request))
        return Response(status_code=204)

    async def _stop(self, request: Request) -> Response:
        identifier = get_session_id(request)
        await self._pool.delete_session(identifier)
        name = self._pool.capabilities.name
        return PlainTextResponse(f"Session {identifier} in session pool {name} stopped.")

    async def _list(self, request: Request) -> Response:
        is_old_form(request)
        skip = request.query_params.get("skip", "0")
        if not skip.isdecimal():
            raise RequestError(400, "InvalidRequest", f"skip is not a number: {skip[:50]!r}.")
        sessions = sorted(await self._pool.list_sessions(), key=lambda s: s.identifier)
        start = int(skip[:9])
        page = [_to_json(session) for session in sessions[start : start + PAGE_SIZE]]
        has_more = len(sessions) > start + PAGE_SIZE
        link = request.url.include_query_params(skip=start + PAGE_SIZE) if has_more else None
        # the specification calls the list `sessions`, the documentation `value`
        body = {"sessions": page, "value": page, "count": len(page)}
        return JSONResponse(body | {"nextLink": None if link is None else str(link)})

    async def _get_metadata(self, request: Request) -> Response:
        is_old_form(request)
        packages = await anyio.to_thread.run_sync(_list_packages)
        version = platform.python_version()
        kernel = {"name": "python3", "version": version, "projectUrl": "", "description": ""}
        return JSONResponse(
            {
                "runtimes": [{"name": "python", "version": version}],
                "preInstalledPackages": packages,
                "createdAt": self._started_at,
                "lastUpdatedAt": self._started_at,
                "jupyterKernel": kernel,
            }
        )


def _build_not_found_error(identifier: str) -> RequestError:
    message = f"Could not find session with name '{identifier}'."
    return RequestError(404, "NoSessionFoundError", message)


def _to_json(session: SessionInfo) -> dict[str, Any]:
    expires = _format_time(session.expires_at)
    return {
        "identifier": session.identifier,
        "createdAt": _format_time(session.created_at),
        "lastAccessedAt": _format_time(session.last_accessed_at),
        "expireAt": expires,
        "expiresAt": expires,
        "etag": sha256(session.identifier.encode()).hexdigest()[:16],
    }


def _list_packages() -> list[dict[str, str]]:
    found = [one.metadata for one in distributions()]  # each access parses a file
    versions = {one["Name"]: one["Version"] for one in found if one["Name"]}
    return [{"name": name, "version": versions[name]} for name in sorted(versions, key=str.lower)]


def _format_time(time: datetime) -> str:
    return time.astimezone(UTC).isoformat()

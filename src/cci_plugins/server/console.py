"""The console of a server: its sessions, and what each of them ran, for holders of the key.

`cci sessions` reads these routes, and the page `/sessions` calls the same functions. Callers who
sign in are refused, because the console shows the sessions of everybody.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from cci_plugins.common.limits import MIB
from cci_plugins.core.redacted_output import redact_in_lane
from cci_plugins.mcp_client.executions import dump_execution
from cci_plugins.mcp_client.failures import BAD_IDENTIFIER
from cci_plugins.models import OutputEvent, SessionInfo
from cci_plugins.pools.base import SessionPool
from cci_plugins.redaction import redact

from .answers import sanitize_json
from .callers import current_caller
from .history import RecordedRun, RecordedSession, RunHistory
from .requests import check_identifier
from .rest.errors import RequestError

MAX_WAIT_SECONDS = 20.0
MAX_ANSWER_BYTES = 8 * MIB
_Handler = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class SessionOverview:
    """A session that lives, or that ran code here.

    Attributes:
        identifier: Its identifier in the pool.
        info: What the pool lists of it. None if it has ended, or the pool lists no sessions.
        recorded: What the history has of it, or None if this server did not run its code.
        is_listed: Whether the pool lists its sessions, so that `info` is certain.
    """

    identifier: str
    info: SessionInfo | None
    recorded: RecordedSession | None
    is_listed: bool

    @property
    def may_live(self) -> bool:
        """Whether it lives, or may live because the pool does not list its sessions."""
        if self.info is not None or self.is_listed:
            return self.info is not None
        return self.recorded is not None and self.recorded.ended_at is None

    @property
    def last_used_at(self) -> datetime:
        """When it was last used."""
        times = [one.last_used_at for one in (self.recorded,) if one is not None]
        times += [one.last_accessed_at for one in (self.info,) if one is not None]
        return max(times)


async def list_overviews(pool: SessionPool, history: RunHistory) -> list[SessionOverview]:
    """Return the sessions that live or that ran code here, the latest used first."""
    live = {info.identifier: info for info in await pool.list_sessions()}
    recorded = {session.identifier: session for session in history.list_sessions()}
    is_listed = pool.capabilities.lists_sessions  # known after the first list
    overviews = [
        SessionOverview(name, live.get(name), recorded.get(name), is_listed)
        for name in {**recorded, **live}
    ]
    return sorted(overviews, key=lambda one: one.last_used_at, reverse=True)


class ConsoleRoutes:
    """Routes of the console that answer in JSON.

    Args:
        pool: Where the sessions are.
        history: What the server ran.
    """

    def __init__(self, pool: SessionPool, history: RunHistory) -> None:
        self._pool, self._history = pool, history

    def build_routes(self) -> list[Route]:
        """Return the routes."""
        return [
            Route("/console/sessions", _for_key_holders(self._list), methods=["GET"]),
            Route("/console/runs", _for_key_holders(self._read_runs), methods=["GET"]),
            Route("/console/files", _for_key_holders(self._list_files), methods=["GET"]),
            Route("/console/session", _for_key_holders(self._end), methods=["DELETE"]),
        ]

    async def _list(self, _: Request) -> Response:
        overviews = await list_overviews(self._pool, self._history)
        capabilities = self._pool.capabilities
        return JSONResponse(
            {
                "pool": capabilities.name,
                "listsSessions": capabilities.lists_sessions,
                "sessions": [_dump_overview(one) for one in overviews],
            }
        )

    async def _read_runs(self, request: Request) -> Response:
        """Answer with the runs from a number on, and with output of the first from a position."""
        identifier = _get_identifier(request)
        first, since = _get_number(request, "from"), _get_number(request, "since")
        version, wait = _get_number(request, "version"), _get_number(request, "wait")
        if wait:
            seconds = min(float(wait), MAX_WAIT_SECONDS)
            await self._history.wait_for_change(identifier, version, seconds=seconds)
        session = self._history.find_session(identifier)
        if session is None:
            return JSONResponse({"version": 0, "dropped": 0, "runs": [], "hasMore": False})
        answer = _dump_runs(session, first, since)  # on this loop, which changes the runs
        return await redact_in_lane(
            sum(run.measure() for run in session.runs),
            lambda: JSONResponse(sanitize_json(answer)),
        )

    async def _list_files(self, request: Request) -> Response:
        identifier = _get_identifier(request)
        await self._check_live(identifier)
        files = await self._pool.list_files(identifier)
        return JSONResponse(
            {
                "files": [
                    {
                        "name": redact(sanitize_json(file.name)),
                        "size": file.size,
                        "mediaType": file.media_type,
                        "modifiedAt": _format_time(file.modified_at),
                    }
                    for file in files
                ]
            }
        )

    async def _end(self, request: Request) -> Response:
        identifier = _get_identifier(request)
        await self._check_live(identifier)
        await self._pool.delete_session(identifier)
        return Response(status_code=204)

    async def _check_live(self, identifier: str) -> None:
        """Refuse a session that does not live, since the pool would start one of this name."""
        overviews = await list_overviews(self._pool, self._history)
        found = next((one for one in overviews if one.identifier == identifier), None)
        if found is None or not found.may_live:
            message = f"Could not find session with name '{identifier}'."
            raise RequestError(404, "NoSessionFoundError", message)


def _for_key_holders(handler: _Handler) -> _Handler:
    async def handle(request: Request) -> Response:
        if current_caller.get():
            raise RequestError(
                403, "Forbidden", "The console is for holders of the server's key, not for tokens."
            )
        response = await handler(request)
        response.headers["cache-control"] = "no-store"
        return response

    return handle


def _get_identifier(request: Request) -> str:
    identifier = request.query_params.get("identifier", "")
    if (problem := check_identifier(identifier)) is not None:
        raise RequestError(400, BAD_IDENTIFIER, problem)
    return identifier


def _get_number(request: Request, name: str) -> int:
    text = request.query_params.get(name, "0")
    if not (text.isascii() and text.isdecimal()) or len(text) > 15:  # noqa: PLR2004
        raise RequestError(400, "InvalidRequest", f"{name} is not a number: {text[:50]!r}.")
    return int(text)


def _dump_overview(overview: SessionOverview) -> dict[str, Any]:
    info, recorded = overview.info, overview.recorded
    return {
        "identifier": overview.identifier,
        "mayLive": overview.may_live,
        "createdAt": _format_time(None if info is None else info.created_at),
        "lastUsedAt": _format_time(overview.last_used_at),
        "expiresAt": _format_time(None if info is None else info.expires_at),
        "endedAt": _format_time(None if recorded is None else recorded.ended_at),
        "runs": 0 if recorded is None else len(recorded.runs) + recorded.dropped,
        "isBusy": recorded is not None and recorded.is_busy,
    }


def _dump_runs(session: RecordedSession, first: int, since: int) -> dict[str, Any]:
    """Return the runs of a session from a number on, as many as one answer holds."""
    runs: list[dict[str, Any]] = []
    size, has_more = 0, False
    for run in session.runs:
        if run.number < first:
            continue
        if runs and size > MAX_ANSWER_BYTES:
            has_more = True
            break
        runs.append(_dump_run(run, since if run.number == first else 0))
        size += run.measure()
    return {
        "version": session.version,
        "endedAt": _format_time(session.ended_at),
        "dropped": session.dropped,
        "runs": runs,
        "hasMore": has_more,
    }


def _dump_run(run: RecordedRun, since: int) -> dict[str, Any]:
    """Return a run. One that ended before its output was read has it in the execution only."""
    execution = run.execution
    at, events = run.read(since)
    if execution is not None and since == 0:
        events = ()
    return {
        "number": run.number,
        "entry": run.entry,
        "code": run.code,
        "status": run.status,
        "startedAt": _format_time(run.started_at),
        "endedAt": _format_time(run.ended_at),
        "error": run.error,
        "at": at,
        "output": list(_dump_events(events)),
        "execution": None if execution is None else dump_execution(execution),
    }


def _dump_events(events: tuple[OutputEvent, ...]) -> Iterator[dict[str, Any]]:
    for event in events:
        if event.result is None:
            yield {"stream": event.stream, "text": event.text}
        else:
            result = {"data": dict(event.result.data), "isMain": event.result.is_main}
            yield {"stream": "result", "result": result}


def _format_time(time: datetime | None) -> str | None:
    return None if time is None else time.isoformat()

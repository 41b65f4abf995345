"""The routes of the console's page: sign in, look, download, end a session, sign out."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from datetime import UTC, datetime
from functools import partial
from urllib.parse import parse_qs, quote

import anyio
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route

from cci_plugins.errors import CodeInterpreterError
from cci_plugins.mcp_client.failures import get_code_and_status
from cci_plugins.models import FileInfo, SessionInfo
from cci_plugins.pools.base import SessionPool
from cci_plugins.redaction import redact
from cci_plugins.server.history import RecordedRun, RecordedSession, RunHistory
from cci_plugins.server.requests import read_body

from .gate import ConsoleGate, Visit
from .page import build_headers
from .runs import RunView, format_duration
from .sessions import (
    DOWNLOAD,
    END,
    ROOT,
    SIGN_IN,
    SIGN_OUT,
    TOKEN,
    Frame,
    SessionView,
    build_list_page,
    build_message_page,
    build_session_page,
    build_sign_in_page,
)

RUNS_PER_PAGE = 20
_FORM_BYTES = 16 * 1024
_POOL_SECONDS = 10
_FORM_TYPE = "application/x-www-form-urlencoded"


class ConsolePage:
    """Routes of the console's page.

    Args:
        pool: Where the sessions are. It notes in the history which of them end.
        history: What this server ran.
        gate: Who may see it. `Guard` asks it before a request comes here.
    """

    def __init__(self, pool: SessionPool, history: RunHistory, gate: ConsoleGate) -> None:
        self._pool, self._history, self._gate = pool, history, gate

    def build_routes(self) -> list[Route]:
        """Return the routes."""
        return [
            Route(SIGN_IN, self._sign_in, methods=["POST"]),
            Route(SIGN_OUT, self._sign_out, methods=["POST"]),
            Route(END, self._end, methods=["POST"]),
            Route(DOWNLOAD, self._download, methods=["GET"]),
            Route(ROOT, self._show_list, methods=["GET"]),
            Route(f"{ROOT}/{{identifier:path}}", self._show_session, methods=["GET"]),
        ]

    async def _sign_in(self, request: Request) -> Response:
        form = await _read_form(request)
        answer = self._gate.sign_in(form.get("key", ""), request.scope)
        if answer is None:
            page = build_sign_in_page("This is not the key of this server.")
            return HTMLResponse(page, 401, build_headers())
        return answer

    async def _sign_out(self, request: Request) -> Response:
        if await self._read_valid_form(request) is None:
            return _build_form_refusal()
        return self._gate.sign_out(request.scope)

    async def _end(self, request: Request) -> Response:
        form = await self._read_valid_form(request)
        if form is None:
            return _build_form_refusal()
        try:
            await self._pool.delete_session(form.get("id", ""))
        except CodeInterpreterError as error:
            _, status = get_code_and_status(error)
            return _build_message(status, "The session was not ended", redact(str(error)))
        return RedirectResponse(ROOT, 303, build_headers())

    async def _show_list(self, request: Request) -> Response:
        frame = self._build_frame(request)
        live, problem = await self._list_live()
        views = self._build_views(live, frame.now)
        page = await _render(partial(build_list_page, views, frame, problem=problem))
        return HTMLResponse(page, headers=build_headers())

    async def _show_session(self, request: Request) -> Response:
        identifier = request.path_params["identifier"]
        if request.url.path == SIGN_IN and self._find_visit(request) is None:
            return HTMLResponse(build_sign_in_page(), headers=build_headers())
        frame = self._build_frame(request)
        live, problem = await self._list_live()
        recorded = self._history.find_session(identifier)
        views = self._build_views(live, frame.now)
        view = next((one for one in views if one.identifier == identifier), None)
        if view is None:
            if request.url.path == SIGN_IN:
                return RedirectResponse(ROOT, 303, build_headers())
            text = "No session of this name lives here, and nothing is kept of one."
            return _build_message(404, "Unknown session", text)
        runs = [] if recorded is None else _choose_runs(recorded, request)
        first = runs[-1].number if runs else 0
        build = partial(
            build_session_page,
            view,
            [_build_run_view(run) for run in runs],
            frame,
            files=problem or await self._list_files(identifier, live),
            older=first if recorded and recorded.runs[0].number < first else None,
            dropped=0 if recorded is None else recorded.dropped,
            is_latest=recorded is None or not runs or runs[0] is recorded.runs[-1],
        )
        return HTMLResponse(await _render(build), headers=build_headers())

    async def _download(self, request: Request) -> Response:
        identifier, name = (request.query_params.get(key, "") for key in ("id", "name"))
        live, problem = await self._list_live()
        try:
            if identifier not in live:
                text = problem or "The session has ended, and its files with it."
                return _build_message(404, "No such file", text)
            chunks = _to_generator(self._pool.download(identifier, name))
            first = await anext(chunks, b"")  # a missing file raises before the status is sent
        except CodeInterpreterError as error:
            _, status = get_code_and_status(error)
            return _build_message(status, "No such file", redact(str(error)))
        plain = quote(name.rpartition("/")[2], safe="", errors="replace")
        headers = {
            **build_headers(),
            "content-security-policy": "default-src 'none'; sandbox",
            "content-disposition": f"attachment; filename*=UTF-8''{plain}",
        }
        return StreamingResponse(
            _chain(first, chunks), media_type="application/octet-stream", headers=headers
        )

    def _find_visit(self, request: Request) -> Visit | None:
        return self._gate.find(request.scope)

    def _build_frame(self, request: Request) -> Frame:
        visit = self._find_visit(request) or Visit()  # it may have expired since the guard looked
        return Frame(visit.form_token, visit.has_key, datetime.now(UTC))

    async def _read_valid_form(self, request: Request) -> dict[str, str] | None:
        """Return the fields of a form, or None if it does not come from a page of the visit."""
        visit, form = self._find_visit(request), await _read_form(request)
        return form if visit is not None and visit.is_form_valid(form.get(TOKEN, "")) else None

    async def _list_live(self) -> tuple[dict[str, SessionInfo], str]:
        """Return the pool's live sessions, and why they are not known."""
        if not self._pool.capabilities.lists_sessions:
            return {}, ""
        try:
            with anyio.fail_after(_POOL_SECONDS):
                sessions = await self._pool.list_sessions()
        except CodeInterpreterError as error:
            return {}, f"The pool's sessions could not be listed: {redact(str(error))}."
        except TimeoutError:
            return {}, f"The pool did not list its sessions within {_POOL_SECONDS} s."
        return {session.identifier: session for session in sessions}, ""

    async def _list_files(
        self, identifier: str, live: dict[str, SessionInfo]
    ) -> list[FileInfo] | str:
        """Return the files of a session, or why not. A session that ended is not started again."""
        if not self._pool.capabilities.lists_sessions:
            return "This pool does not list its sessions, so their files are not shown."
        if identifier not in live:
            return "The session has ended, and its files with it."
        try:
            with anyio.fail_after(_POOL_SECONDS):
                return await self._pool.list_files(identifier)
        except CodeInterpreterError as error:
            return f"The files could not be listed: {redact(str(error))}."
        except TimeoutError:
            return "The files are shown when no code runs."

    def _build_views(self, live: dict[str, SessionInfo], now: datetime) -> list[SessionView]:
        """Return all sessions: those that run code, those that live, and those that ended."""
        recorded = {one.identifier: one for one in self._history.list_sessions()}
        views = [
            self._build_view(name, live.get(name), recorded.get(name), now)
            for name in {**live, **recorded}
        ]
        order = ("running", "live", "unknown", "ended")
        return sorted(views, key=lambda one: (order.index(one.state), now - one.last_used_at))

    def _build_view(
        self,
        identifier: str,
        info: SessionInfo | None,
        recorded: RecordedSession | None,
        now: datetime,
    ) -> SessionView:
        lists = self._pool.capabilities.lists_sessions
        is_busy = recorded is not None and recorded.is_busy
        has_ended = info is None and (lists or recorded is None or recorded.ended_at is not None)
        state = "running" if is_busy else "ended" if has_ended else "live" if info else "unknown"
        started = [one.created_at for one in (info,) if one]
        started += [one.first_used_at for one in (recorded,) if one]
        used = [one.last_accessed_at for one in (info,) if one]
        used += [one.last_used_at for one in (recorded,) if one]
        left = "" if info is None or is_busy else format_duration(info.expires_at - now)
        runs = 0 if recorded is None else len(recorded.runs) + recorded.dropped
        return SessionView(identifier, state, min(started), max(used), left or "\N{EN DASH}", runs)


async def _render(build: Callable[[], str]) -> bytes:
    """Build a page in a thread, because it may be long."""
    return await anyio.to_thread.run_sync(lambda: build().encode(errors="replace"))


def _choose_runs(session: RecordedSession, request: Request) -> list[RecordedRun]:
    """Return the runs of one page, the newest first."""
    before = request.query_params.get("before", "")
    limit = int(before[:12]) if before.isascii() and before.isdigit() else None
    runs = [run for run in session.runs if limit is None or run.number < limit]
    return runs[: -RUNS_PER_PAGE - 1 : -1]


def _build_run_view(run: RecordedRun) -> RunView:
    return RunView(
        run.number,
        run.code,
        run.status,
        run.started_at,
        run.duration,
        run.entry,
        run.outputs,
        run.execution,
        run.error,
    )


async def _read_form(request: Request) -> dict[str, str]:
    """Return the fields of a form, or none if it is too large or not a form."""
    body = await read_body(request.receive, _FORM_BYTES)
    if body is None or request.headers.get("content-type", "").partition(";")[0] != _FORM_TYPE:
        return {}
    fields = parse_qs(body.decode("latin-1"), keep_blank_values=True, errors="replace")
    return {name: values[0] for name, values in fields.items()}


def _build_form_refusal() -> Response:
    text = "This form is too old, or it does not come from this page. Load the page again."
    return _build_message(403, "Nothing was changed", text)


def _build_message(status: int, title: str, text: str) -> Response:
    page = build_message_page(title, text)
    return HTMLResponse(page.encode(errors="replace"), status, build_headers())


async def _chain(first: bytes, chunks: AsyncGenerator[bytes]) -> AsyncIterator[bytes]:
    async with aclosing(chunks) as rest:
        yield first
        async for chunk in rest:
            yield chunk


async def _to_generator(chunks: AsyncIterator[bytes]) -> AsyncGenerator[bytes]:
    async for chunk in chunks:
        yield chunk

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

from cci_plugins.core.html_pages.page import build_headers
from cci_plugins.core.html_pages.runs import RunView
from cci_plugins.errors import CodeInterpreterError
from cci_plugins.mcp_client.failures import get_code_and_status
from cci_plugins.models import FileInfo
from cci_plugins.pools.base import SessionPool
from cci_plugins.redaction import redact
from cci_plugins.server.console import SessionOverview, list_overviews
from cci_plugins.server.history import RecordedRun, RunHistory
from cci_plugins.server.requests import read_body

from .gate import ConsoleGate, Visit
from .sessions import (
    DOWNLOAD,
    END,
    ROOT,
    SIGN_IN,
    SIGN_OUT,
    STATES,
    TOKEN,
    Frame,
    SessionView,
    State,
    build_list_page,
    build_message_page,
    build_session_page,
    build_sign_in_page,
)

RUNS_PER_PAGE = 20
_FORM_BYTES = 16 * 1024
_POOL_SECONDS = 10
_BUSY = "The files are shown when no code runs."
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
        overview, _ = await self._find_overview(form.get("id", ""))
        try:
            if overview is not None:
                await self._pool.delete_session(overview.identifier)
        except CodeInterpreterError as error:
            _, status = get_code_and_status(error)
            return _build_message(status, "The session was not ended", redact(str(error)))
        return RedirectResponse(ROOT, 303, build_headers())

    async def _show_list(self, request: Request) -> Response:
        frame = self._build_frame(request)
        overviews, problem = await self._list_overviews()
        views = [_build_view(overview, frame.now) for overview in overviews]
        views.sort(key=lambda view: STATES.index(view.state))  # the latest used first in each
        return await _answer(partial(build_list_page, views, frame, problem=problem))

    async def _show_session(self, request: Request) -> Response:
        identifier, is_sign_in = request.path_params["identifier"], request.url.path == SIGN_IN
        if is_sign_in and self._gate.find(request.scope) is None:
            return HTMLResponse(build_sign_in_page(), headers=build_headers())
        frame = self._build_frame(request)
        overview, problem = await self._find_overview(identifier)
        if overview is None and (is_sign_in or not identifier):
            return RedirectResponse(ROOT, 303, build_headers())
        if overview is None:
            text = problem or "No session of this name lives here, and nothing is kept of one."
            return _build_message(404, "Unknown session", text)
        recorded = overview.recorded
        kept = [] if recorded is None else [*recorded.runs]
        runs = _choose_runs(kept, request)
        build = partial(
            build_session_page,
            _build_view(overview, frame.now),
            [_build_run_view(run) for run in runs],
            frame,
            files=problem or await self._list_files(overview),
            older=runs[-1].number if runs and runs[-1] is not kept[0] else None,
            dropped=0 if recorded is None else recorded.dropped,
            is_latest=not runs or runs[0] is kept[-1],
        )
        return await _answer(build)

    async def _find_overview(self, identifier: str) -> tuple[SessionOverview | None, str]:
        overviews, problem = await self._list_overviews()
        return next((one for one in overviews if one.identifier == identifier), None), problem

    async def _download(self, request: Request) -> Response:
        identifier, name = (request.query_params.get(key, "") for key in ("id", "name"))
        overview, problem = await self._find_overview(identifier)
        try:
            if overview is None or overview.info is None:
                text = problem or _describe_missing_files(overview)
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

    def _build_frame(self, request: Request) -> Frame:
        visit = self._gate.find(request.scope) or Visit()  # it may have expired by now
        return Frame(visit.form_token, datetime.now(UTC))

    async def _read_valid_form(self, request: Request) -> dict[str, str] | None:
        """Return the fields of a form, or None if it does not come from a page of the visit."""
        visit, form = self._gate.find(request.scope), await _read_form(request)
        return form if visit is not None and visit.is_form_valid(form.get(TOKEN, "")) else None

    async def _list_overviews(self) -> tuple[list[SessionOverview], str]:
        """Return the sessions, and why those of the pool are not known."""
        try:
            with anyio.fail_after(_POOL_SECONDS):
                return await list_overviews(self._pool, self._history), ""
        except CodeInterpreterError as error:
            problem = f"The pool's sessions could not be listed: {redact(str(error))}."
        except TimeoutError:
            problem = f"The pool did not list its sessions within {_POOL_SECONDS} s."
        recorded = self._history.list_sessions()
        return [
            SessionOverview(one.identifier, None, one, is_listed=False) for one in recorded
        ], problem

    async def _list_files(self, overview: SessionOverview) -> list[FileInfo] | str:
        """Return the files of a session, or why not. A session that ended is not started again."""
        if overview.info is None:
            return _describe_missing_files(overview)
        try:
            with anyio.fail_after(_POOL_SECONDS):
                if _is_busy(overview) and not await self._pool.has_files_api(overview.identifier):
                    return _BUSY
                return await self._pool.list_files(overview.identifier)
        except CodeInterpreterError as error:
            return f"The files could not be listed: {redact(str(error))}."
        except TimeoutError:
            return _BUSY


def _build_view(overview: SessionOverview, now: datetime) -> SessionView:
    info, recorded = overview.info, overview.recorded
    is_busy = _is_busy(overview)
    started = [one.created_at for one in (info,) if one is not None]
    started += [one.first_used_at for one in (recorded,) if one is not None]
    return SessionView(
        overview.identifier,
        "running" if is_busy else _get_state(overview),
        min(started),
        overview.last_used_at,
        None if info is None or is_busy else info.expires_at - now,
        0 if recorded is None else len(recorded.runs) + recorded.dropped,
    )


def _get_state(overview: SessionOverview) -> State:
    if overview.info is not None:
        return "live"
    return "unknown" if overview.may_live else "ended"


def _is_busy(overview: SessionOverview) -> bool:
    return overview.recorded is not None and overview.recorded.is_busy


def _describe_missing_files(overview: SessionOverview | None) -> str:
    if overview is not None and overview.may_live:
        return "This pool does not list its sessions, so their files are not shown."
    return "The session has ended, and its files with it."


async def _answer(build: Callable[[], str]) -> Response:
    """Build a page in a thread, because it may be long, and answer with it."""
    page = await anyio.to_thread.run_sync(lambda: build().encode(errors="replace"))
    return HTMLResponse(page, headers=build_headers())


def _choose_runs(kept: list[RecordedRun], request: Request) -> list[RecordedRun]:
    """Return the runs of one page, the newest first."""
    before = request.query_params.get("before", "")
    limit = int(before[:12]) if before.isascii() and before.isdigit() else None
    runs = [run for run in kept if limit is None or run.number < limit]
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

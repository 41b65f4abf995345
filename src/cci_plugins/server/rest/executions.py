"""Runs over REST: at once or in the background, in the newer and the older form.

Both forms follow learn.microsoft.com, Container Apps code interpreter sessions, and the
DynamicSessions specification in github.com/Azure/azure-rest-api-specs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from typing import Any
from urllib.parse import quote
from uuid import uuid4

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from cci_plugins.common.limits import Limits
from cci_plugins.core.redacted_output import transform_in_lane
from cci_plugins.mcp_client.failures import get_code_and_status
from cci_plugins.models import Execution
from cci_plugins.pools.base import SessionPool
from cci_plugins.redaction import redact
from cci_plugins.server.answers import (
    build_run_fields,
    find_image,
    get_main_value,
)
from cci_plugins.server.redacted_run import run_redacted
from cci_plugins.server.runs import Run, RunKey, RunRegistry

from .errors import RequestError
from .requests import RunBody, get_session_id, is_old_form, read_run_body

OLD_PATHS = ("/code/execute", "/python/execute", "/execute")
DEFAULT_OUTPUT = 4096  # the data plane's own


@dataclass(frozen=True, slots=True)
class _RunRequest:
    """One run, as a request asks for it."""

    code: str
    timeout: timedelta
    limit: int
    in_background: bool
    is_shell: bool = False


class ExecutionRoutes:
    """Routes that run code for REST clients.

    Args:
        pool: Where code runs.
        limits: `execution_timeout` is the longest run, `background_timeout` the longest one in
            the background.
        body_bytes: Longest body of a request.
        runs: Where runs in the background are held.
    """

    def __init__(
        self, pool: SessionPool, limits: Limits, body_bytes: int, runs: RunRegistry
    ) -> None:
        self._pool = pool
        self._body_bytes = body_bytes
        self._limits = limits
        self._runs = runs

    def build_routes(self) -> list[Route]:
        """Return the routes of both forms."""
        return [
            Route("/executions", self._execute, methods=["POST"]),
            Route("/executions/{id}", self._get_execution, methods=["GET"]),
            *(Route(path, self._execute, methods=["POST"]) for path in OLD_PATHS),
        ]

    async def _execute(self, request: Request) -> Response:
        session_id = get_session_id(request)
        body = await read_run_body(request, self._body_bytes)
        run_request = _build_run_request(body, self._get_limits())
        if is_old_form(request):
            execution = await self._run(session_id, run_request)
            return await transform_in_lane(
                execution, lambda run: JSONResponse(_to_old_form(run, run_request.limit))
            )
        run_id = request.headers.get("operation-id") or str(uuid4())
        headers = {"operation-id": run_id}
        if run_request.in_background:
            location = request.url.replace(path=f"/executions/{quote(run_id, safe='')}")
            started = self._start(run_id, session_id, run_request)
            headers["operation-location"] = str(location)
            return await _answer_run(started, run_request, 202, headers)
        execution = await self._run(session_id, run_request)
        return await transform_in_lane(
            execution,
            lambda run: JSONResponse(
                _to_new_form(run_id, session_id, run_request, run), headers=headers
            ),
        )

    async def _get_execution(self, request: Request) -> Response:
        run_id = request.path_params["id"]
        run = self._runs.find(RunKey(get_session_id(request), run_id))
        if run is None or not isinstance(run.detail, _RunRequest):
            raise RequestError(
                404, "ExecutionNotFound", f"The session has no execution {run_id!r:.100}."
            )
        return await _answer_run(run, run.detail)

    def _start(self, run_id: str, session_id: str, run_request: _RunRequest) -> Run:
        """Start a run in the background. A request that comes again finds the same run."""
        run = self._runs.start(
            RunKey(session_id, run_id),
            lambda _: self._run(session_id, run_request),
            detail=run_request,
        )
        if not isinstance(run.detail, _RunRequest):
            raise RequestError(409, "ExecutionExists", f"The run {run_id!r:.100} is another one.")
        return run

    async def _run(self, session_id: str, run_request: _RunRequest) -> Execution:
        is_long = run_request.timeout > self._limits.execution_timeout
        run = self._pool.execute_in_background if is_long else self._pool.execute
        return await run_redacted(
            partial(run, session_id, run_request.code, timeout=run_request.timeout), None
        )

    def _get_limits(self) -> Limits:
        if self._pool.capabilities.background_runs is not False:
            return self._limits
        return replace(self._limits, background_timeout=self._limits.execution_timeout)


def _build_run_request(body: RunBody, limits: Limits) -> _RunRequest:
    in_background = (body.execution_type or "").lower() == "asynchronous"
    default = longest = limits.execution_timeout.total_seconds()
    if in_background:
        longest = limits.background_timeout.total_seconds()
    return _RunRequest(
        code=body.build_code(),
        timeout=timedelta(seconds=min(body.timeout_in_seconds or default, longest)),
        limit=int(body.output_streams_max_length or DEFAULT_OUTPUT),
        in_background=in_background,
        is_shell=body.command is not None,
    )


async def _answer_run(
    run: Run, run_request: _RunRequest, status: int = 200, headers: dict[str, str] | None = None
) -> Response:
    """Answer with the record of a run in the background, from a thread if it is large."""
    outcome = run.outcome if isinstance(run.outcome, Execution) else Execution()
    return await transform_in_lane(
        outcome, lambda _: JSONResponse(_describe_run(run, run_request), status, headers)
    )


def _describe_run(run: Run, run_request: _RunRequest) -> dict[str, Any]:
    """Return the record of a run in the background."""
    run_id, session_id = run.key.name, run.key.session_id
    if run.outcome is None:
        status = "Running" if run.has_begun else "NotStarted"
        return _build_record(run_id, session_id, run_request, status)
    if isinstance(run.outcome, Execution):
        return _to_new_form(run_id, session_id, run_request, run.outcome)
    record = _build_record(run_id, session_id, run_request, "Failed")
    code, _ = get_code_and_status(run.outcome)
    return record | {"error": {"error": {"code": code, "message": redact(str(run.outcome))}}}


def _get_result_value(execution: Execution) -> Any:
    return find_image(execution) or get_main_value(execution)


def _to_new_form(
    run_id: str, session_id: str, run_request: _RunRequest, execution: Execution
) -> dict[str, Any]:
    succeeded = execution.status == "succeeded"
    record = _build_record(run_id, session_id, run_request, "Succeeded" if succeeded else "Failed")
    record["result"] = build_run_fields(execution, run_request.limit, _get_result_value(execution))
    if run_request.is_shell:
        record["status"] = str(record["result"].pop("executionResult") if succeeded else -1)
    elif execution.error is not None:
        error = execution.error
        record["error"] = {"error": {"code": error.name, "message": error.message}}
    return record


def _build_record(
    run_id: str, session_id: str, run_request: _RunRequest, status: str
) -> dict[str, Any]:
    kind = "Asynchronous" if run_request.in_background else "Synchronous"
    return {"id": run_id, "identifier": session_id, "executionType": kind, "status": status}


def _to_old_form(execution: Execution, limit: int) -> dict[str, Any]:
    fields = build_run_fields(execution, limit, _get_result_value(execution))
    status = "Success" if execution.status == "succeeded" else "Failure"
    result = fields.pop("executionResult")
    return {"properties": {"$id": "1", "status": status, "result": result, **fields}}

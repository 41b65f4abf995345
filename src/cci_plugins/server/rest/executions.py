"""Runs over REST: at once or in the background, in the newer and the older form.

Both forms follow learn.microsoft.com, Container Apps code interpreter sessions, and the
DynamicSessions specification in github.com/Azure/azure-rest-api-specs.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import uuid4

import anyio
from anyio.abc import TaskGroup
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from cci_plugins.common.limits import Limits
from cci_plugins.core.redacted_output import (
    redact_execution,
    redact_in_lane,
    transform_in_lane,
)
from cci_plugins.errors import CodeInterpreterError
from cci_plugins.in_session.message_bounds import measure_forms
from cci_plugins.mcp_client.failures import get_code_and_status
from cci_plugins.models import Execution
from cci_plugins.pools.base import SessionPool
from cci_plugins.server.answers import (
    build_run_fields,
    find_image,
    get_main_value,
    sanitize_execution,
)

from .errors import RequestError
from .requests import RunBody, get_session_id, is_old_form, read_run_body

OLD_PATHS = ("/code/execute", "/python/execute", "/execute")
DEFAULT_OUTPUT = 4096  # the data plane's own
_MAX_RECORDS = 1_000


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
        limits: `execution_timeout` is the longest run.
        body_bytes: Longest body of a request.
    """

    def __init__(self, pool: SessionPool, limits: Limits, body_bytes: int) -> None:
        self._pool = pool
        self._body_bytes = body_bytes
        self._limits = limits
        self._records: OrderedDict[tuple[str, str], dict[str, Any]] = OrderedDict()
        self._tasks: TaskGroup | None = None

    @asynccontextmanager
    async def run(self) -> AsyncIterator[None]:
        """Allow background runs inside this block, and cancel them at its end."""
        async with anyio.create_task_group() as tasks:
            self._tasks = tasks
            try:
                yield
            finally:
                self._tasks = None
                tasks.cancel_scope.cancel()

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
        run_request = _build_run_request(body, self._limits)
        if is_old_form(request):
            execution = await self._run(session_id, run_request)
            return await transform_in_lane(
                execution, lambda run: JSONResponse(_to_old_form(run, run_request.limit))
            )
        run_id = request.headers.get("operation-id") or str(uuid4())
        headers = {"operation-id": run_id}
        if run_request.in_background and self._tasks is not None:
            location = request.url.replace(path=f"/executions/{run_id}")
            record = _build_record(run_id, session_id, run_request, "NotStarted")
            self._store_record(record)
            self._tasks.start_soon(self._run_in_background, run_id, session_id, run_request)
            return JSONResponse(record, 202, headers | {"operation-location": str(location)})
        execution = await self._run(session_id, run_request)
        return await transform_in_lane(
            execution,
            lambda run: JSONResponse(
                _to_new_form(run_id, session_id, run_request, run), headers=headers
            ),
        )

    async def _get_execution(self, request: Request) -> Response:
        run_id = request.path_params["id"]
        record = self._records.get((get_session_id(request), run_id))
        if record is None:
            raise RequestError(
                404, "ExecutionNotFound", f"The session has no execution {run_id!r:.100}."
            )
        return await redact_in_lane(measure_forms(record), lambda: JSONResponse(record))

    async def _run_in_background(
        self, run_id: str, session_id: str, run_request: _RunRequest
    ) -> None:
        self._store_record(_build_record(run_id, session_id, run_request, "Running"))
        try:
            execution = await self._run(session_id, run_request)
        except CodeInterpreterError as error:
            record = _build_record(run_id, session_id, run_request, "Failed")
            record["error"] = {
                "error": {"code": get_code_and_status(error)[0], "message": str(error)}
            }
        else:
            record = await transform_in_lane(
                execution, lambda run: _to_new_form(run_id, session_id, run_request, run)
            )
        self._store_record(record)

    async def _run(self, session_id: str, run_request: _RunRequest) -> Execution:
        execution = await self._pool.execute(
            session_id, run_request.code, timeout=run_request.timeout
        )
        return await transform_in_lane(
            execution, lambda raw: sanitize_execution(redact_execution(raw))
        )

    def _store_record(self, record: dict[str, Any]) -> None:
        self._records[record["identifier"], record["id"]] = record
        if len(self._records) > _MAX_RECORDS:
            self._records.popitem(last=False)


def _build_run_request(body: RunBody, limits: Limits) -> _RunRequest:
    max_seconds = limits.execution_timeout.total_seconds()
    return _RunRequest(
        code=body.build_code(),
        timeout=timedelta(seconds=min(body.timeout_in_seconds or max_seconds, max_seconds)),
        limit=int(body.output_streams_max_length or DEFAULT_OUTPUT),
        in_background=(body.execution_type or "").lower() == "asynchronous",
        is_shell=body.command is not None,
    )


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

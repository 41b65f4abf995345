"""Runs over REST: at once or in the background, in the newer and the older form.

Both forms as in learn.microsoft.com, Container Apps code interpreter sessions, and the
DynamicSessions specification in github.com/Azure/azure-rest-api-specs.
"""

from __future__ import annotations

from base64 import b64decode
from binascii import Error as Base64Error
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
from cci_plugins.core.redacted_output import covered
from cci_plugins.errors import CodeInterpreterError
from cci_plugins.mcp_client.failures import code_of
from cci_plugins.models import Execution
from cci_plugins.pools.base import SessionPool
from cci_plugins.server.answers import main_value, picture, run_fields, sendable
from cci_plugins.server.shell import shell_code

from .errors import RequestError
from .requests import is_old_form, json_body, session_of

OLD_PATHS = ("/code/execute", "/python/execute", "/execute")
DEFAULT_OUTPUT = 4096  # the data plane's own
_REMEMBERED = 1_000


@dataclass(frozen=True, slots=True)
class _Order:
    """What a request asks for."""

    code: str
    timeout: timedelta
    limit: int
    in_background: bool
    is_shell: bool = False


class Executions:
    """Runs code for REST clients.

    Args:
        pool: Where code runs.
        limits: `execution_timeout` is the longest run.
        body_bytes: Longest body of a request.
    """

    def __init__(self, pool: SessionPool, limits: Limits, body_bytes: int) -> None:
        self._pool = pool
        self._body_bytes = body_bytes
        self._limits = limits
        self._told: OrderedDict[tuple[str, str], dict[str, Any]] = OrderedDict()
        self._tasks: TaskGroup | None = None

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Keep background runs for as long as this lasts."""
        async with anyio.create_task_group() as tasks:
            self._tasks = tasks
            try:
                yield
            finally:
                self._tasks = None
                tasks.cancel_scope.cancel()

    def routes(self) -> list[Route]:
        """The routes of both forms."""
        return [
            Route("/executions", self._execute, methods=["POST"]),
            Route("/executions/{id}", self._tell, methods=["GET"]),
            *(Route(path, self._execute, methods=["POST"]) for path in OLD_PATHS),
        ]

    async def _execute(self, request: Request) -> Response:
        session_id = session_of(request)
        order = _order(await json_body(request, self._body_bytes), self._limits)
        if is_old_form(request):
            execution = await self._run(session_id, order)
            return JSONResponse(_old_form(execution, order.limit))
        run_id = request.headers.get("operation-id") or str(uuid4())
        headers = {"operation-id": run_id}
        if order.in_background and self._tasks is not None:
            location = request.url.replace(path=f"/executions/{run_id}")
            told = _frame(run_id, session_id, order, "NotStarted")
            self._remember(told)
            self._tasks.start_soon(self._run_in_background, run_id, session_id, order)
            return JSONResponse(told, 202, headers | {"operation-location": str(location)})
        execution = await self._run(session_id, order)
        return JSONResponse(_new_form(run_id, session_id, order, execution), headers=headers)

    async def _tell(self, request: Request) -> Response:
        told = self._told.get((session_of(request), request.path_params["id"]))
        if told is None:
            raise RequestError(404, "ExecutionNotFound", "There is no such execution.")
        return JSONResponse(told)

    async def _run_in_background(self, run_id: str, session_id: str, order: _Order) -> None:
        self._remember(_frame(run_id, session_id, order, "Running"))
        try:
            execution = await self._run(session_id, order)
        except CodeInterpreterError as error:
            told = _frame(run_id, session_id, order, "Failed")
            told["error"] = {"error": {"code": code_of(error)[0], "message": str(error)}}
        else:
            told = _new_form(run_id, session_id, order, execution)
        self._remember(told)

    async def _run(self, session_id: str, order: _Order) -> Execution:
        execution = await self._pool.execute(session_id, order.code, timeout=order.timeout)
        return sendable(covered(execution))

    def _remember(self, told: dict[str, Any]) -> None:
        self._told[told["identifier"], told["id"]] = told
        if len(self._told) > _REMEMBERED:
            self._told.popitem(last=False)


def _order(fields: dict[str, Any], limits: Limits) -> _Order:
    command = fields.get("shellcommand") or fields.get("execcommandandargs")
    longest = limits.execution_timeout.total_seconds()
    return _Order(
        code=_code(fields) if command is None else shell_code(command),
        timeout=timedelta(seconds=min(_number(fields, "timeoutInSeconds", longest), longest)),
        limit=int(_number(fields, "outputStreamsMaxLength", DEFAULT_OUTPUT)),
        in_background=str(fields.get("executiontype", "")).lower() == "asynchronous",
        is_shell=command is not None,
    )


def _code(fields: dict[str, Any]) -> str:
    code = fields.get("code", fields.get("pythoncode"))
    if not isinstance(code, str):
        raise RequestError(400, "SessionPropertiesMissing", "The property 'code' is missing.")
    if str(fields.get("codeinputtype", "")).lower() != "inlinebase64":
        return code
    try:
        return b64decode(code, validate=True).decode()
    except (Base64Error, ValueError):
        raise RequestError(400, "InvalidRequest", "The code is no UTF-8 in base64.") from None


def _number(fields: dict[str, Any], name: str, default: float) -> float:
    value = fields.get(name.lower())
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 1e9:  # noqa: PLR2004
        raise RequestError(400, "InvalidRequest", f"{name} must be a number above 0.")
    return value


def _value(execution: Execution) -> Any:
    return picture(execution) or main_value(execution)


def _new_form(run_id: str, session_id: str, order: _Order, execution: Execution) -> dict[str, Any]:
    succeeded = execution.status == "succeeded"
    told = _frame(run_id, session_id, order, "Succeeded" if succeeded else "Failed")
    told["result"] = run_fields(execution, order.limit, _value(execution))
    if order.is_shell:
        told["status"] = str(told["result"].pop("executionResult") if succeeded else -1)
    elif execution.error is not None:
        error = execution.error
        told["error"] = {"error": {"code": error.name, "message": error.message}}
    return told


def _frame(run_id: str, session_id: str, order: _Order, status: str) -> dict[str, Any]:
    kind = "Asynchronous" if order.in_background else "Synchronous"
    return {"id": run_id, "identifier": session_id, "executionType": kind, "status": status}


def _old_form(execution: Execution, limit: int) -> dict[str, Any]:
    fields = run_fields(execution, limit, _value(execution))
    status = "Success" if execution.status == "succeeded" else "Failure"
    result = fields.pop("executionResult")
    return {"properties": {"$id": "1", "status": status, "result": result, **fields}}

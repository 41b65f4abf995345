"""Runs of the platform's tools that go on after the answer: `LeftRuns`.

A client that is not ours, such as Foundry, ends a call after some time, and it keeps no MCP
session. So a run is held by the server of its session (`held_runs.py`) under a name that the answer
gives, and the tool `check_run` takes that name. Nothing is kept here: each replica of a gateway can
answer for a run that another one started.

A request that is cancelled ends the run that it started. A run that was left goes on.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from secrets import token_hex
from typing import Any, Literal

import anyio

from cci_plugins.common.log import describe_error, logger
from cci_plugins.core.rendering import clip
from cci_plugins.errors import CodeInterpreterError, ExecutionTimeoutError, PoolError
from cci_plugins.mcp_client import executions, failures
from cci_plugins.mcp_client.executions import load_execution
from cci_plugins.mcp_client.failures import MAY_HAVE_RUN
from cci_plugins.mcp_client.http import map_protocol_errors
from cci_plugins.models import Execution
from cci_plugins.pools.run_exchange import HELD_KEY, RunQuery, RunReport, load_report
from cci_plugins.server.requests import RequestModel, Text
from cci_plugins.tools import check_run
from cci_plugins.tools.long_run_texts import CHECK_RUN

from .answers import ToolCallResult, build_json_result
from .held_runs import HeldRequest, HeldRuns, RunCode

ASK_SECONDS = 20.0  # so that a request that got lost on the way is noticed
CANCEL_SECONDS = 5.0
RUN = "run"
RUN_SCHEMA = {"type": "string", "description": "The run: the name that its answer gave."}
_NAME = re.compile(r"run-[0-9a-f]{8}")

BuildResult = Callable[[Execution], ToolCallResult]


@dataclass(frozen=True, slots=True)
class LeftRun:
    """A run, as a request of this server names it.

    Attributes:
        request: Its session, name and code.
        run_code: Runs its code in the session, if it starts here.
        build_result: Builds the answer from its execution.
    """

    request: HeldRequest
    run_code: RunCode
    build_result: BuildResult


class CheckArguments(RequestModel):
    """Arguments of `check_run`."""

    environment_id: Any = None
    run: Text
    action: Literal["wait", "look", "stop"]


def create_name() -> str:
    """Create the name of a run."""
    return f"run-{token_hex(4)}"


def is_name(value: object) -> bool:
    """Return whether `create_name` may have created a name."""
    return isinstance(value, str) and _NAME.fullmatch(value) is not None


def describe_check_tool(wait: timedelta, schema: dict[str, Any]) -> dict[str, Any]:
    """Return `check_run` in the form of `tools/list`.

    Args:
        wait: Longest time until an answer.
        schema: Schema of its arguments.
    """
    return {
        "name": CHECK_RUN,
        "title": "Check a run",
        "description": check_run.build_description(wait),
        "inputSchema": schema,
        "annotations": {"readOnlyHint": False, "destructiveHint": True, "openWorldHint": False},
    }


class LeftRuns:
    """Answers in time for runs that may take longer, and answers for them later.

    Args:
        held_runs: Holds the runs, or passes them on.
        wait: Longest time until an answer.
        output_characters: Most characters of output in an answer.
    """

    def __init__(self, held_runs: HeldRuns, wait: timedelta, output_characters: int) -> None:
        self.wait = wait
        self._held_runs = held_runs
        self._output_characters = output_characters

    def describe_tool(self, environment: dict[str, Any]) -> dict[str, Any]:
        """Return `check_run` for these runs in the form of `tools/list`.

        Args:
            environment: Schema of the argument `environmentId`.
        """
        names = {"environmentId": environment, RUN: RUN_SCHEMA}
        properties = names | check_run.PARAMETERS["properties"]
        schema = {"type": "object", "properties": properties, "required": list(properties)}
        return describe_check_tool(self.wait, schema)

    async def start(self, run: LeftRun) -> ToolCallResult:
        """Start code, and return its result, or an answer that names the run.

        Raises:
            CodeInterpreterError: The code did not start, or the pool failed.
        """
        deadline = time.monotonic() + self.wait.total_seconds()
        try:
            report, answer = await self._start(run)
            return await self._wait(run, report, answer, deadline)
        except BaseException as error:
            if not isinstance(error, CodeInterpreterError) or MAY_HAVE_RUN in str(error):
                await self._cancel(run)
            raise

    async def check(self, run: LeftRun, action: object) -> ToolCallResult:
        """Look at a run, wait for it or stop it.

        Raises:
            CodeInterpreterError: The pool failed, or did with the run.
        """
        deadline = time.monotonic()
        if action == "wait":
            deadline += self.wait.total_seconds()
        stops = action == "stop"
        report, answer = await self._ask(run, RunQuery(cancels=stops, since=0 if stops else None))
        if report.state == "unknown":
            raise PoolError(f"this environment has no run {run.request.name!r}")
        if stops and report.state == "ended" and executions.META_KEY not in answer.meta:
            return self._build_unfinished("Stopped", report, {RUN: run.request.name})
        return await self._wait(run, report, answer, deadline)

    async def _start(self, run: LeftRun) -> tuple[RunReport, ToolCallResult]:
        """Start the run. After an answer that got lost, ask whether it has started."""
        wait = min(self.wait.total_seconds(), ASK_SECONDS)
        query = RunQuery(starts=True, wait=wait, is_background=True)
        try:
            return await self._ask(run, query)
        except (PoolError, ExecutionTimeoutError) as error:
            if MAY_HAVE_RUN not in str(error):
                raise
            report, answer = await self._ask(run, RunQuery())
            if report.state == "unknown":
                raise
            return report, answer

    async def _wait(
        self, run: LeftRun, report: RunReport, answer: ToolCallResult, deadline: float
    ) -> ToolCallResult:
        """Wait until the run has ended, or the time is over."""
        try:
            while report.state == "running" and (seconds := deadline - time.monotonic()) > 0:
                report, answer = await self._ask(run, RunQuery(wait=min(seconds, ASK_SECONDS)))
            if report.state == "running":
                report, answer = await self._ask(run, RunQuery(since=0))
        except CodeInterpreterError as error:  # the run goes on
            logger.info("a run that goes on could not be asked for: %s", describe_error(error))
        if report.state == "running":
            name = run.request.name
            return self._build_unfinished("Running", report, {RUN: name, "note": _describe(name)})
        if executions.META_KEY in answer.meta:
            with map_protocol_errors(starts_code=True):
                stored = load_execution(answer.meta[executions.META_KEY], run.request.session_id)
            return run.build_result(stored)
        failure = answer.meta.get(failures.META_KEY)
        if isinstance(failure, Mapping):
            raise failures.load_error(failure)
        raise PoolError(f"the session's server no longer has the run; {MAY_HAVE_RUN}")

    async def _ask(self, run: LeftRun, query: RunQuery) -> tuple[RunReport, ToolCallResult]:
        request = replace(run.request, query=query, value=query.dump())
        if not query.starts:
            request = replace(request, code="")
        answer = await self._held_runs.answer(request, run.run_code)
        if HELD_KEY not in answer.meta:
            failure = answer.meta.get(failures.META_KEY)
            if isinstance(failure, Mapping):
                raise failures.load_error(failure)
            raise PoolError(f"the session's server sent no report of the run; {MAY_HAVE_RUN}")
        with map_protocol_errors(starts_code=True):
            return load_report(answer.meta[HELD_KEY]), answer

    async def _cancel(self, run: LeftRun) -> None:
        """End a run whose request was cancelled or failed."""
        with (
            anyio.CancelScope(shield=True),
            anyio.move_on_after(CANCEL_SECONDS),
            suppress(CodeInterpreterError),
        ):
            await self._ask(run, RunQuery(cancels=True))

    def _build_unfinished(
        self, status: str, report: RunReport, more: dict[str, str]
    ) -> ToolCallResult:
        """Build the answer for a run without a result, in the fields of a result."""
        streams = {
            stream: clip(
                "".join(text for kind, text in report.output if kind == stream),
                self._output_characters,
            )
            for stream in ("stdout", "stderr")
        }
        return build_json_result({"status": status} | streams | more)


def _describe(name: str) -> str:
    return (
        f"The code has not ended, and goes on. Call {CHECK_RUN} with this environmentId, run "
        f'"{name}" and action "wait" for its result, or action "stop" to end it.'
    )

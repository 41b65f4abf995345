"""Recording of the runs of a pool in a server's history: `record_runs`.

A server with a console gives each entry point a pool that records. So whatever runs code is
recorded by the same means: requests, held runs, runs in the background and later tools. Transfers
of files that run as code are left out.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any, cast

import anyio

from cci_plugins.core.redacted_output import (
    RedactingOutput,
    redact_execution,
    redact_in_lane,
    transform_in_lane,
)
from cci_plugins.errors import CodeInterpreterError, ProtocolError
from cci_plugins.files.in_session_transfer import is_transfer_code
from cci_plugins.in_session.script_comment import remove_script
from cci_plugins.in_session.shell_expression import describe_shell_code
from cci_plugins.mcp_client import executions, failures
from cci_plugins.mcp_client.messages import ToolResult
from cci_plugins.models import Execution, OutputEvent
from cci_plugins.pools.azure.agent_client import is_agent_call
from cci_plugins.pools.base import OutputHandler, SessionPool
from cci_plugins.pools.run_exchange import (
    HELD_KEY,
    RelayedQuery,
    RunRelay,
    load_query,
    load_report,
)
from cci_plugins.redaction import redact

from .answers import sanitize_execution
from .history import EntryPoint, RecordedRun, RunHistory

_STOPPED = "the run was cancelled"


def record_runs(pool: SessionPool, history: RunHistory, entry: EntryPoint) -> SessionPool:
    """Return a pool that does the same, and records each run in a history.

    Args:
        pool: The pool.
        history: Where runs are recorded.
        entry: How the runs of this pool come.
    """
    return cast("SessionPool", _RecordingPool(pool, history, entry))


class _RecordingPool:
    """Stands for a pool in every respect, also for `isinstance`, and records its runs.

    It is not a subclass of `SessionPool`, whose defaults would hide methods of the pool.
    """

    def __init__(self, pool: SessionPool, history: RunHistory, entry: EntryPoint) -> None:
        self._pool, self._history = pool, history
        self._entry: EntryPoint = entry
        self._relayed: dict[tuple[str, object], _RelayedRun] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pool, name)

    def __getattribute__(self, name: str) -> Any:
        if name == "__class__":  # as `unittest.mock` does for `spec`
            return type(self._pool)
        return super().__getattribute__(name)

    async def execute(self, session_id: str, code: str, **options: Any) -> Execution:
        """Run code in the pool, and record it."""
        return await self._record(self._pool.execute, session_id, code, options)

    async def execute_in_background(self, session_id: str, code: str, **options: Any) -> Execution:
        """Run code in the pool for long, and record it."""
        execute = self.__getattr__("execute_in_background")
        return await self._record(execute, session_id, code, options)

    async def delete_session(self, session_id: str) -> None:
        """End a session of the pool, and note it."""
        await self._pool.delete_session(session_id)
        self._history.end_session(session_id)

    async def relay_run(self, session_id: str, query: RelayedQuery) -> ToolResult:
        """Pass a query on, and record the run that it starts and what the answers report."""
        key = (session_id, query.meta.get(executions.RUN_KEY))
        asked = load_query(query.meta[HELD_KEY])
        if asked.starts and key not in self._relayed:
            self._forget_relayed()
            run = await self._begin(session_id, query.code, limit=query.timeout)
            if run is not None:
                self._relayed[key] = _RelayedRun(run, self._history)
        relayed = self._relayed.get(key)
        try:
            answer = await cast("RunRelay", self._pool).relay_run(session_id, query)
        except CodeInterpreterError as error:
            if relayed is not None and asked.starts and error.retryable:
                self._history.drop(relayed.run)
                del self._relayed[key]
            raise
        if relayed is not None:
            await relayed.handle_answer(answer)
            if relayed.run.status != "running":
                self._relayed.pop(key, None)
        return answer

    def _forget_relayed(self) -> None:
        """Forget the runs that ended, or that nobody asked for until their time was over."""
        for key, relayed in list(self._relayed.items()):
            if relayed.run.status != "running":
                del self._relayed[key]

    async def _begin(
        self, session_id: str, code: str, limit: timedelta | None = None
    ) -> RecordedRun | None:
        """Record the start of a run, unless its code is not the user's."""
        if not code or is_transfer_code(code) or is_agent_call(code):
            return None
        shown = describe_shell_code(code) or remove_script(code)
        clean = await redact_in_lane(len(shown), lambda: redact(shown))
        return self._history.begin(session_id, self._entry, clean, limit=limit)

    async def _record(
        self,
        execute: Callable[..., Awaitable[Execution]],
        session_id: str,
        code: str,
        options: dict[str, Any],
    ) -> Execution:
        run = await self._begin(session_id, code)
        if run is None:
            return await execute(session_id, code, **options)
        given: OutputHandler | None = options.get("on_output")
        output = RedactingOutput(lambda event: self._history.add_output(run, event))

        def handle_output(event: OutputEvent) -> None:
            output.handle(event)
            if given is not None:
                given(event)

        if given is not None or self._pool.capabilities.streams_output:
            options["on_output"] = handle_output
        try:
            execution = await execute(session_id, code, **options)
        except CodeInterpreterError as error:
            if error.retryable:
                self._history.drop(run)
            else:
                self._history.end(run, error=redact(str(error)))
            raise
        except BaseException:
            self._history.end(run, error=_STOPPED)
            raise
        with anyio.CancelScope(shield=True):
            await output.finish()
            self._history.end(run, await _clean(execution))
        return execution


class _RelayedRun:
    """A run that another server holds, as the answers on their way show it."""

    def __init__(self, run: RecordedRun, history: RunHistory) -> None:
        self.run = run
        self._history = history
        self._received = 0  # characters of output
        self._output = RedactingOutput(lambda event: history.add_output(run, event))

    async def handle_answer(self, answer: ToolResult) -> None:
        """Record the output and the end that an answer reports."""
        try:
            report = load_report(answer.meta.get(HELD_KEY))
        except ProtocolError:
            return
        position = report.at
        for stream, text in report.output:
            new = text[max(self._received - position, 0) :]
            position += len(text)
            if new:
                self._received = position
                self._output.handle(OutputEvent(stream, new))
        if report.state == "running":
            return
        await self._output.finish()
        if (stored := answer.meta.get(executions.META_KEY)) is not None:
            try:
                execution = executions.load_execution(stored, self.run.session_id)
                self._history.end(self.run, await _clean(execution))
            except ProtocolError as malformed:  # which the client finds itself
                self._history.end(self.run, error=redact(str(malformed)))
            return
        failure = answer.meta.get(failures.META_KEY)
        error = failures.load_error(failure) if isinstance(failure, dict) else "its server lost it"
        self._history.end(self.run, error=redact(str(error)))


async def _clean(execution: Execution) -> Execution:
    return await transform_in_lane(execution, lambda raw: sanitize_execution(redact_execution(raw)))

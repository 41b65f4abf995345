"""The client's end of a run that outlives its requests: `HeldRun`.

One request starts the run, and each further one asks for it (`pools/run_exchange`). The last of
them that was sent waits at the server until there is something to report. When the answer to a call
is ready, it is brought by a new request, and the server ends the wait of the one before.

Nothing happens twice:

- Only a request that the server has answered is known to have started the run. If the answer is
  lost, the client asks for the name. It never starts a name of which it does not know that.
- A refusal by something on the way is repeated under the same name (`remote_pool`).
- Once the run has started, no error is `retryable`, because a second run would call tools again.
- A call is answered by one task, whatever reports repeat it. Requests with answers may be repeated.

When the run ends for its client, whether it was cancelled or failed, a last request ends it in the
session.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import Any

import anyio
from anyio.abc import TaskGroup

from cci_plugins.common.log import logger
from cci_plugins.errors import (
    AuthenticationError,
    CodeInterpreterError,
    ConfigurationError,
    ExecutionTimeoutError,
    PoolError,
    PoolUnavailableError,
    ProtocolError,
    SessionLostError,
    ToolCallError,
    ToolErrorKind,
)
from cci_plugins.mcp_client import failures
from cci_plugins.mcp_client.executions import ENV_KEY, INSTANCE_KEY, RUN_KEY, dump_env
from cci_plugins.mcp_client.failures import MAY_HAVE_RUN
from cci_plugins.mcp_client.http import map_protocol_errors
from cci_plugins.mcp_client.messages import ToolResult
from cci_plugins.mcp_client.progress import StreamedOutput
from cci_plugins.models import Execution, OutputEvent
from cci_plugins.pools.base import OutputHandler
from cci_plugins.pools.run_exchange import (
    HELD_KEY,
    PendingCall,
    RunQuery,
    RunReport,
    ToolAnswer,
    load_report,
)
from cci_plugins.pools.tool_host import ToolHost

from .cci_server import RunRequest, RunTool, build_unclear_error, read_execution_of
from .retry import RetryPolicy

ASK_WAIT = timedelta(seconds=20)  # so that a request that got lost is noticed while calls wait
LOOK_PAUSE_SECONDS = 0.3  # between reports of a run that prints all the time
QUICK_SECONDS = 0.02  # in which most tools return, so that one request does for a call
CANCEL_SECONDS = 5.0
PART_CHARACTERS = 256 * 1024  # of one answer in one request, whose body is bounded
BATCH_CHARACTERS = 512 * 1024


class HeldRun:
    """One run on the cci-plugins server, in the background or with host tools.

    Args:
        tool: The tool that runs Python there.
        request: The run, which has a name.
        tools: Answers its calls, if it has any.
        retry: Repeats requests that may be sent twice.
        on_output: Called with each chunk of output while the code runs.
    """

    def __init__(
        self,
        tool: RunTool,
        request: RunRequest,
        tools: ToolHost | None,
        retry: RetryPolicy,
        on_output: OutputHandler | None,
    ) -> None:
        self._tool, self._request, self._tools, self._retry = tool, request, tools, retry
        self._output = None if on_output is None else StreamedOutput(on_output)
        self._received = 0  # characters of output
        self._calls: dict[int, anyio.CancelScope] = {}  # those that a tool answers now
        self._known: set[int] = set()  # and those whose answer the server may not have
        self._begun: set[int] = set()  # all so far, since a late report may repeat one
        self._ready: deque[ToolAnswer] = deque()
        self._reports: deque[tuple[RunReport, ToolResult]] = deque()
        self._open_requests = 0
        self._failure: Exception | None = None
        self._changed = anyio.Event()

    async def execute(self) -> Execution:
        """Run the code once, answer its calls, and return its execution.

        Raises:
            CodeInterpreterError: The code did not start, or the pool failed. In the first case
                it may be `retryable`.
        """
        try:
            report, answer = await self._start()
            try:
                if report.state == "running":
                    answer = await self._serve(report)
            except CodeInterpreterError as error:
                if MAY_HAVE_RUN in str(error) and not error.retryable:
                    raise
                raise build_unclear_error(error) from error
        except BaseException as error:
            if not _is_refused(error):
                await self._cancel()
            raise
        execution = read_execution_of(answer, self._request.session_id, needs_whole=True)
        if self._output is not None:
            self._output.finish(execution)
        return execution

    async def check(self) -> None:
        """Ask for the run without starting it, since a gateway refuses what it cannot pass on.

        Raises:
            ConfigurationError: The sessions behind the gateway cannot do it.
        """
        await self._ask_until_answered(RunQuery(is_background=self._request.is_background))

    async def _start(self) -> tuple[RunReport, ToolResult]:
        """Start the run, or find out whether a request without an answer has started it."""
        query = RunQuery(
            starts=True,
            wait=ASK_WAIT.total_seconds(),
            since=None if self._output is None else 0,
            tools=() if self._tools is None else self._tools.specs,
            bounds=None if self._tools is None else self._tools.bounds,
            is_background=self._request.is_background,
        )
        try:
            return await self._send(query)
        except (PoolError, ExecutionTimeoutError) as error:
            if MAY_HAVE_RUN not in str(error):
                raise
            logger.info("asking for a run whose start has no answer: %s", error)
            try:
                report, answer = await self._ask_until_answered(RunQuery())
            except CodeInterpreterError as later:
                raise build_unclear_error(later) from later
            if report.state == "unknown":
                raise
            return report, answer

    async def _serve(self, report: RunReport) -> ToolResult:
        """Answer calls until the run has ended, and return the last answer of the server."""
        ended: ToolResult | None = None
        failure: Exception | None = None
        async with anyio.create_task_group() as tasks:
            try:
                await self._handle(report, tasks)
                ended = await self._ask_until_ended(tasks)
            except Exception as error:  # noqa: BLE001 - raised again outside the task group
                failure = error
            tasks.cancel_scope.cancel()
        if failure is not None:
            raise failure
        if ended is None:
            raise PoolError(f"the run did not end; {MAY_HAVE_RUN}")
        return ended

    async def _ask_until_ended(self, tasks: TaskGroup) -> ToolResult:
        while True:
            if self._ready or not self._open_requests:
                self._open_requests += 1
                tasks.start_soon(self._ask, self._take_ready())
            await self._wait_until(
                lambda: (
                    bool(self._failure or self._reports or self._ready) or not self._open_requests
                )
            )
            if self._failure is not None:
                raise self._failure
            while self._reports:
                report, answer = self._reports.popleft()
                await self._handle(report, tasks)
                if report.state == "ended":
                    return answer
                if self._tools is None:
                    await anyio.sleep(LOOK_PAUSE_SECONDS)
                if report.state == "unknown":
                    raise PoolError(
                        "the session's server no longer has the run, perhaps because it was "
                        f"replaced; {MAY_HAVE_RUN}"
                    )

    def _take_ready(self) -> tuple[ToolAnswer, ...]:
        """Take the answers that fit into one request."""
        taken, size = list[ToolAnswer](), 0
        while self._ready and (not taken or size + len(self._ready[0].text) <= BATCH_CHARACTERS):
            taken.append(self._ready.popleft())
            size += len(taken[-1].text)
        return tuple(taken)

    async def _ask(self, answers: tuple[ToolAnswer, ...]) -> None:
        """Bring answers and wait for a report."""
        query = RunQuery(
            wait=ASK_WAIT.total_seconds(),
            since=None if self._output is None else self._received,
            known=tuple(self._known),
            answers=answers,
        )
        try:
            self._reports.append(await self._ask_until_answered(query))
            self._known.difference_update(answer.call for answer in answers)
        except Exception as error:  # noqa: BLE001 - raised by `_ask_until_ended`
            self._failure = error
        finally:
            self._open_requests -= 1
            self._notify()

    async def _handle(self, report: RunReport, tasks: TaskGroup) -> None:
        """Emit output, start and cancel tools, and give quick ones the time to return."""
        self._emit(report)
        for number in report.gone:
            self._known.discard(number)
            if (scope := self._calls.get(number)) is not None:
                scope.cancel()
        for call in report.calls:
            if call.number not in self._begun:
                self._begun.add(call.number)
                self._known.add(call.number)
                self._calls[call.number] = anyio.CancelScope()
                tasks.start_soon(self._answer, call)
        if report.calls:
            with anyio.move_on_after(QUICK_SECONDS):
                await self._wait_until(lambda: not self._calls)

    async def _answer(self, call: PendingCall) -> None:
        """Run a tool, and make its answer ready. All but its last part is sent at once."""
        with self._calls[call.number] as scope:
            text, error = await self._run_tool(call)
            at = 0
            try:
                while len(text) - at > PART_CHARACTERS:
                    part = text[at : at + PART_CHARACTERS]
                    answer = ToolAnswer(call.number, part, at, is_last=False, error=error)
                    await self._ask_until_answered(
                        RunQuery(known=tuple(self._known), answers=(answer,))
                    )
                    at += len(part)
            except Exception as failure:  # noqa: BLE001 - raised by `_ask_until_ended`
                self._failure = failure
            self._ready.append(ToolAnswer(call.number, text[at:], at, error=error))
        if scope.cancelled_caught:
            logger.debug("a call of a host tool was cancelled by the session")
        del self._calls[call.number]
        self._notify()

    async def _run_tool(self, call: PendingCall) -> tuple[str, ToolErrorKind | None]:
        if self._tools is None:
            return "the run has no host tools", "invalid"
        try:
            return await self._tools.call(call.name, call.arguments), None
        except ToolCallError as error:
            return str(error), error.kind
        except Exception:  # noqa: BLE001 - the host's fault must not end the run
            logger.exception("a call of a host tool failed unexpectedly")
            return "the host failed unexpectedly", "failed"

    def _emit(self, report: RunReport) -> None:
        """Emit output that no earlier report had."""
        at = report.at
        if self._output is None:
            return
        try:
            if report.output and at > self._received:
                self._output.skip(at - self._received)
            for stream, text in report.output:
                new = text[max(self._received - at, 0) :]
                at += len(text)
                if new:
                    self._received = at
                    self._output.emit(OutputEvent(stream, new))
        except Exception:  # noqa: BLE001 - the host's callback may raise anything
            logger.exception("on_output failed; the run goes on without it")
            self._output = None

    async def _ask_until_answered(self, query: RunQuery) -> tuple[RunReport, ToolResult]:
        """Send a query that may arrive twice, until it has an answer."""
        return await self._retry.call_with_retry(lambda: self._send(query), idempotent=True)

    async def _send(self, query: RunQuery) -> tuple[RunReport, ToolResult]:
        """Send a query once.

        Raises:
            CodeInterpreterError: The server refused it, or did not answer.
        """
        request = self._request
        env = dump_env(request.env) if query.starts and request.env is not None else None
        given: dict[str, Any] = {
            RUN_KEY: request.run,
            INSTANCE_KEY: request.instance,
            ENV_KEY: env,
            HELD_KEY: query.dump(),
        }
        try:
            answer = await self._tool.call(
                request.code if query.starts else "",
                request.timeout,
                wait=timedelta(seconds=query.wait) + request.margin,
                meta={key: value for key, value in given.items() if value is not None},
            )
        except SessionLostError as error:  # of something on the way, which proves nothing
            raise build_unclear_error(error) from error
        except PoolUnavailableError as error:
            request.note_refusal(error)
            raise
        request.refusals.clear()
        if HELD_KEY not in answer.meta:
            failure = answer.meta.get(failures.META_KEY)
            if isinstance(failure, dict):
                raise failures.load_error(failure)
            raise ProtocolError(f"the pool sent no report of the run; {MAY_HAVE_RUN}")
        with map_protocol_errors(starts_code=True):
            return load_report(answer.meta[HELD_KEY]), answer

    async def _cancel(self) -> None:
        """End the run in the session, as far as the server can be reached in a short time."""
        with (
            anyio.CancelScope(shield=True),
            anyio.move_on_after(CANCEL_SECONDS),
            suppress(CodeInterpreterError),
        ):
            await self._send(RunQuery(cancels=True))

    async def _wait_until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            await self._changed.wait()

    def _notify(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()


def _is_refused(error: BaseException) -> bool:
    """Return whether an error proves that nothing was started."""
    return isinstance(error, (ConfigurationError, AuthenticationError)) or (
        isinstance(error, CodeInterpreterError) and error.retryable
    )

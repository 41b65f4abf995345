"""The session of one conversation: run code, move files, end it.

A pool may lose or replace a session at any time. `Session` makes this visible to the model, and
never runs code twice. Its state between runs:

- `_handle.instance`: the pool's name for the instance of the last run, or of uploads before a first
  one. The next run requires it. If the pool has another one, it raises a retryable
  `SessionLostError` and the code has not started.
- `_has_lost_uploads`: the last run ended the session, or restoring its uploads failed half way.
  The next run restores the uploads first.
- `_loss_note`, `_notes`: what happened before the next execution, in the order of events. They
  stay until a run returns, so a failed attempt in between does not hide them.
- `_ends`: counts the calls of `delete` and `restart`. A run that waited for its turn meanwhile is
  refused, because it would run in another session than its caller knows.

After a loss the order is: restore uploads, run the code once without an instance, attach the notes.
`delete` ends the run in progress (`_active_run`): in the pool, and after `STOP_SECONDS` by
cancelling it here. The run returns that the session ended. Everything private runs on the pool's
event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import anyio

from cci_plugins.common.cancellation import run_to_end
from cci_plugins.common.code_text import check_code
from cci_plugins.common.durations import Duration, to_timedelta
from cci_plugins.common.environment import SessionEnvironment
from cci_plugins.common.settings import is_content_capture_enabled
from cci_plugins.errors import CodeInterpreterError, ConfigurationError, SessionLostError
from cci_plugins.models import ErrorInfo, Execution, note_malformed_images
from cci_plugins.pools.base import (
    OutputHandler,
    SessionPool,
    build_no_interrupt_error,
    check_code_size,
)
from cci_plugins.pools.network_notes import add_network_note
from cci_plugins.pools.tool_host import build_unsupported_error
from cci_plugins.redaction import redact_exception

from .active_run import ActiveRun, delete_during
from .conversation import get_running_sessions
from .host_calls import HostCalls
from .host_tools import HostTool, ToolApprover, check_tools
from .long_runs import LongRuns, LongRunSession
from .notebook import Notebook
from .redacted_output import (
    RedactingOutput,
    estimate_execution,
    redact_execution,
    redact_in_lane,
    transform_in_lane,
)
from .rendering import render_text
from .run_metrics import measure_run
from .session_files import SessionFiles
from .session_handle import SessionHandle
from .session_host import bind_to_current_loop
from .session_packages import PackageSession
from .session_restart import restart_with_files
from .session_saving import REPLACED_NOTE, RESTARTED_NOTE
from .spans import record_content, record_execution, start_execution_span

EVICTED_NOTE = (
    "this conversation was idle, or its session was needed for another one; "
    "variables and files of earlier calls are gone"
)
FORKED_NOTE = (
    "this process was forked and has a session of its own; "
    "variables and files of earlier calls are gone"
)
DELETED_TEXT = "the session ended while the code ran: it was deleted; variables and files are gone"
MAX_NESTED_RUNS = 8  # sessions whose code waits for a tool that runs code in the next one
FIRST_LOOK_SECONDS, LAST_LOOK_SECONDS = 0.05, 1.0  # between two attempts to interrupt a run


@dataclass(frozen=True, slots=True)
class _RunRequest:
    """One run."""

    code: str
    timeout: timedelta
    on_output: OutputHandler | None
    calls: HostCalls | None
    env: SessionEnvironment | None
    in_background: bool

    def get_options(self) -> dict[str, Any]:
        """Return the options for the pool. One that cannot use `tools` or `env` does not get it."""
        given = {"tools": self.calls, "env": self.env}
        options = {"timeout": self.timeout, "on_output": self.on_output}
        return options | {name: value for name, value in given.items() if value is not None}


class Session(LongRunSession, PackageSession):
    """A stateful Python session. Variables and files last from run to run.

    `CodeInterpreter.session` creates it. One run is active at a time, further ones wait.

    Attributes:
        key: The conversation, as the application names it.
        files: The session's files.
    """

    def __init__(
        self,
        handle: SessionHandle,
        *,
        on_delete: Callable[[], object],
        was_evicted: bool = False,
    ) -> None:
        self.key = handle.key
        self.files = SessionFiles(handle)
        self._handle = handle
        self._on_delete = on_delete
        self._loss_note = EVICTED_NOTE if was_evicted else None
        self._notes: list[str] = []
        self._has_lost_uploads = False
        self._lock: anyio.Lock | None = None
        self._active_run: ActiveRun | None = None
        self._ends = 0
        self._notebook = Notebook()
        self._long_runs = LongRuns()
        handle.on_fork = self._reset_after_fork

    def __repr__(self) -> str:
        return f"Session(id={self.id!r})"

    start_code = PackageSession.start_code
    save = PackageSession.save  # listed here, because they are of the session's own API
    restore = PackageSession.restore
    install = PackageSession.install

    @property
    def id(self) -> str:
        """The derived identifier that the pool knows."""
        return self._handle.id

    @property
    def busy(self) -> bool:
        """Whether a run or a transfer is in progress."""
        return self._handle.is_busy

    async def run_code(
        self,
        code: str,
        *,
        timeout: Duration | None = None,
        on_output: OutputHandler | None = None,
        tools: Sequence[HostTool] = (),
        approve_tool: ToolApprover | None = None,
    ) -> Execution:
        """Run code in this session and wait until it ends.

        An exception of the code, a timeout and a crash are not raised. The `Execution` reports
        them in `error`, `status` and `state`. Cancelling the call interrupts the code.

        Args:
            code: Python source. IPython syntax such as `%timeit` works too.
            timeout: Longest run, in seconds or as a `timedelta`. None means
                `Limits.execution_timeout`.
            on_output: Called with each chunk of output while the code runs, on the caller's loop.
            tools: Functions of the application that the code may call, as `tools.NAME(...)`.
            approve_tool: Asked before a call of a tool with `needs_approval`, while the code waits.

        Raises:
            ConfigurationError: The timeout is not a duration, the code is too long, or it has a
                lone surrogate. Or the pool cannot call the tools, one of them needs approval and
                nobody can be asked, or a tool of this session's own run made the call. Nothing
                was run.
            PoolUnavailableError: Nothing was started. You can call again.
            PoolExhaustedError: No session is free.
            PoolError: The pool failed. Unless it is `retryable`, the code may have run.
            ExecutionTimeoutError: The pool did not answer. The code may have run.
            AuthenticationError: The pool refused the key or the token.
            IsolationError: This machine supports no isolation backend.

        Example:
            ```python
            execution = await interpreter.session("alice").run_code("6 * 7")
            assert execution.text == "42"
            ```
        """
        check_code(code)
        check_code_size(code)
        self._refuse_nested_run()
        limit = None if timeout is None else to_timedelta(timeout, "timeout")
        calls = self._build_calls(code, tools, approve_tool)
        dispatch = self._handle.host.dispatch
        if on_output is None:
            return await dispatch(self._run, code, limit, None, calls)
        try:
            return await dispatch(self._run, code, limit, bind_to_current_loop(on_output), calls)
        finally:
            await asyncio.sleep(0)  # events that are queued on this loop come before the return

    def _refuse_nested_run(self) -> None:
        """Refuse a run that would wait for itself: its code waits for the tool that asks for it."""
        running = [one.id for one in get_running_sessions()]
        if self.id in running:
            raise ConfigurationError(
                "this session runs the code that called this tool, so it cannot run more code",
                hint="use a session of another key inside the tool",
            )
        if len(running) >= MAX_NESTED_RUNS:
            raise ConfigurationError(
                f"{len(running)} runs wait for each other through their tools",
                hint="do not run code in a tool that code calls",
            )

    def _build_calls(
        self, code: str, tools: Sequence[HostTool], approve_tool: ToolApprover | None
    ) -> HostCalls | None:
        """Build what answers the tool calls of a run, on the caller's loop."""
        chosen = check_tools(tools, approve_tool)
        if not chosen:
            return None
        return HostCalls(
            chosen,
            self._handle.host.limits,
            code=code,
            session_key=self.key,
            session_id=self.id,
            approve_tool=approve_tool,
        )

    async def _run(
        self,
        code: str,
        timeout: timedelta | None,
        on_output: OutputHandler | None,
        calls: HostCalls | None,
        *,
        in_background: bool = False,
    ) -> Execution:
        host = self._handle.host
        limit = host.limits.execution_timeout if timeout is None else timeout
        ends = self._ends
        async with self._exclusive():
            if self._ends != ends:
                raise _build_ended_error()
            pool = await host.get_pool()
            if calls is not None and pool.capabilities.host_tools is False:
                raise build_unsupported_error(pool.capabilities.name)
            env = self._handle.get_env(pool)
            await self._handle.begin()
            await self._open_workspace()
            request = _RunRequest(code, limit, on_output, calls, env, in_background)
            with start_execution_span(self.id, pool.capabilities.name) as span:
                try:
                    with measure_run(pool.capabilities.name) as measured:
                        raw_execution = await self._execute(pool, request)
                        measured.append(raw_execution)
                except CodeInterpreterError as error:
                    clean = redact_exception(error)
                    if clean is error:
                        raise
                    raise clean from None
                if calls is not None:
                    raw_execution = replace(raw_execution, tool_calls=tuple(calls.records))
                noted = add_network_note(self._attach_notes(raw_execution), pool.capabilities)
                noted = await self._keep_files(noted)
                execution = await transform_in_lane(
                    noted, lambda raw: redact_execution(note_malformed_images(raw))
                )
                size = len(code) + estimate_execution(execution)
                record_execution(span, execution)
                if is_content_capture_enabled():
                    budget = host.limits.output_characters
                    await redact_in_lane(
                        size, lambda: record_content(span, code, render_text(execution, budget))
                    )
            await redact_in_lane(size, lambda: self._add_to_history(code, execution))
            self._loss_note, self._notes = None, []  # a cancelled call leaves them to the next run
        return execution

    async def _execute(self, pool: SessionPool, request: _RunRequest) -> Execution:
        if request.on_output is None:
            return await self._execute_unless_deleted(pool, request)
        output = RedactingOutput(request.on_output)
        try:
            request = replace(request, on_output=output.handle)
            return await self._execute_unless_deleted(pool, request)
        finally:
            await output.finish()

    async def _execute_unless_deleted(self, pool: SessionPool, request: _RunRequest) -> Execution:
        """Run code once, or until `delete` ends it."""
        run = self._active_run = ActiveRun()
        try:
            with run.scope:
                return await self._execute_once(pool, request)
        except CodeInterpreterError:
            if not run.is_deleted:
                raise
        finally:
            self._active_run = None
            run.done.set()
            if request.calls is not None:
                request.calls.end()
        error = ErrorInfo("SessionDied", DELETED_TEXT)
        return Execution(error=error, session_id=self.id, status="died", state="lost")

    async def _execute_once(self, pool: SessionPool, request: _RunRequest) -> Execution:
        """Run code once. If the session was replaced, run it in the new instance instead."""
        if self._has_lost_uploads:
            await self._restore_uploads()
        execute = pool.execute_in_background if request.in_background else pool.execute
        try:
            return await execute(
                self.id, request.code, instance=self._handle.instance, **request.get_options()
            )
        except SessionLostError as lost:
            if not lost.retryable:
                raise
            if self._active_run is not None and self._active_run.is_restarted:
                raise _build_ended_error() from lost
            await self._restore_replaced(REPLACED_NOTE)
            return await execute(self.id, request.code, **request.get_options())

    def _attach_notes(self, execution: Execution) -> Execution:
        """Return the execution with the notes about what happened before it."""
        loss, notes = self._loss_note, self._notes
        self._loss_note = REPLACED_NOTE if execution.state == "lost" else loss
        self._handle.instance = execution.instance or None
        self._has_lost_uploads = execution.state == "lost" and not execution.instance
        if loss is not None and execution.state != "lost":  # else the pool has given the reason
            notes = [loss, *notes]
        if loss is None and not notes:
            return execution
        state = execution.state if loss is None else "lost"
        return replace(execution, state=state, notes=(*execution.notes, *notes))

    async def _restore_uploads(self) -> None:
        self._has_lost_uploads = True  # until all of them are restored
        restored, missing = await self._handle.restore_uploads()
        try:
            await self._restore_packages()
            self._has_lost_uploads = False
        finally:
            if restored:
                self._notes.append(f"uploaded again: {', '.join(restored)}")
            if missing:
                gone = ", ".join(missing)
                self._notes.append(f"uploaded files are gone: {gone}; upload them again")

    def notebook(self) -> str:
        """Return the session's history as a Jupyter notebook, in nbformat 4 JSON."""
        return self._notebook.to_json()

    async def interrupt(self) -> bool:
        """Stop the run in progress, and keep the variables and files.

        The run returns with the error `KeyboardInterrupt`. Code that does not stop within some
        seconds is ended with its session, as after a timeout.

        Returns:
            False if no run is in progress.

        Raises:
            ConfigurationError: The pool cannot stop a run.
        """
        return await self._handle.host.dispatch(self._interrupt)

    async def _interrupt(self) -> bool:
        run, wait = self._active_run, FIRST_LOOK_SECONDS
        pool = await self._handle.host.get_pool()
        while run is not None and not run.done.is_set():
            if await pool.interrupt(self.id):
                await run.done.wait()
                return True
            with anyio.move_on_after(wait):  # its kernel starts, or its uploads are restored
                await run.done.wait()
            wait = min(2 * wait, LAST_LOOK_SECONDS)
        return False

    async def restart(self) -> None:
        """Give the session a new Python process, and keep its files.

        Variables are gone, and a run in progress ends. Environment variables are given again. On
        a pool that cannot restart a session, its files move into a new one by way of this machine.

        Raises:
            ConfigurationError: Code runs, and the pool cannot end it. Or a tool of this session's
                own run made the call. Nothing has happened.
            FileTransferError: A file cannot be kept, so that nothing has happened. Or files are
                gone, as the message states.
        """
        self._refuse_nested_run()
        await self._handle.host.dispatch(self._restart)

    async def _restart(self) -> None:
        pool = await self._handle.host.get_pool()
        if self._active_run is None:
            async with self._exclusive():
                self._ends += 1
                await self._handle.begin()
                if not await run_to_end(self._restart_idle(pool)):
                    await restart_with_files(self._handle)
                    await self._note_restart(has_state=self._handle.instance is not None)
        else:
            await run_to_end(self._restart_during(self._active_run, pool))

    async def _restart_idle(self, pool: SessionPool) -> bool:
        """Restart a session whose code does not run. Return False if its pool cannot."""
        if not await pool.restart_session(self.id):
            return False
        await self._note_restart(has_state=self._handle.instance is not None)
        return True

    async def _restart_during(self, run: ActiveRun, pool: SessionPool) -> None:
        self._ends += 1  # a run that waits must not begin in what is about to end
        run.is_restarted = True
        if not await pool.restart_session(self.id):
            self._ends -= 1
            run.is_restarted = False
            raise build_no_interrupt_error(pool.capabilities.name)
        self._ends += 1
        async with self._exclusive():
            await self._note_restart(has_state=True)

    async def _note_restart(self, *, has_state: bool) -> None:
        self._handle.instance, self._has_lost_uploads = None, False
        if has_state and RESTARTED_NOTE not in self._notes:
            self._notes.append(RESTARTED_NOTE)
        if has_state:  # its files can still be lost before the next run
            with suppress(CodeInterpreterError):  # the restart is done
                await self._handle.note_instance()

    async def delete(self) -> None:
        """End the session now, with the code that runs in it. A later run starts a new one."""
        await self._handle.host.dispatch(self._delete)

    async def _delete(self) -> None:
        pool = await self._handle.host.get_pool()
        self._ends += 1
        if self._active_run is not None:
            await delete_during(self._active_run, pool, self.id)
        async with self._exclusive():
            await pool.delete_session(self.id)
            self._handle.host.note_end(self.id)
            self._handle.instance, self._has_lost_uploads = None, False
            self._handle.forget_uploads()
            self._packages = ()
            self._on_delete()

    def _reset_after_fork(self, is_lost: bool) -> None:  # noqa: FBT001 - it has one argument
        """Forget the runs of the parent process, in a forked child."""
        self._lock, self._long_runs = None, LongRuns()
        if is_lost and self._handle.was_used:
            self._loss_note, self._handle.instance, self._has_lost_uploads = FORKED_NOTE, None, True

    @asynccontextmanager
    async def _exclusive(self) -> AsyncIterator[None]:
        """Wait until no other run is active. The wait also counts as use of the session."""
        with self._handle.in_use():
            if self._lock is None:
                self._lock = anyio.Lock()
            async with self._lock:
                yield


def _build_ended_error() -> SessionLostError:
    return SessionLostError(
        "the session was deleted or restarted while this call waited for it",
        hint="run the earlier steps again",
        retryable=True,
    )

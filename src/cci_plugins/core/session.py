"""One conversation's session: run code, move files, end it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import copy_context
from dataclasses import replace
from datetime import timedelta

import anyio

from cci_plugins.common import event_loop
from cci_plugins.common.code_text import check_code
from cci_plugins.common.settings import is_content_capture_enabled
from cci_plugins.errors import CodeInterpreterError, SessionLostError
from cci_plugins.in_session.script_comment import remove_script
from cci_plugins.models import Execution, OutputEvent
from cci_plugins.pools.base import OutputHandler, SessionPool
from cci_plugins.pools.network_notes import add_network_note
from cci_plugins.redaction import redact, redact_exception

from .notebook import Notebook
from .redacted_output import RedactingOutput, redact_execution
from .rendering import render_text
from .session_files import Owner, SessionFiles
from .spans import record_content, record_execution, start_execution_span

EVICTED_NOTE = (
    "this conversation was idle, or its session was needed for another one; "
    "variables and files of earlier calls are gone"
)
REPLACED_NOTE = "the pool replaced the session; variables and files of earlier calls are gone"


class Session:
    """One stateful Python session: variables and files last from run to run.

    Made by `CodeInterpreter.session`; one run at a time, further ones wait their turn.

    Attributes:
        key: The conversation, as the application names it.
        id: The derived identifier that the pool knows.
        files: The session's files.
        used: Something was asked of it, so it may be there in the pool.
    """

    def __init__(
        self,
        owner: Owner,
        key: str,
        identifier: str,
        on_delete: Callable[[], None],
        *,
        was_evicted: bool = False,
    ) -> None:
        self.key = key
        self.id = identifier
        self.files = SessionFiles(owner, identifier, self._use)
        self._owner = owner
        self._on_delete = on_delete
        self._is_stale = was_evicted
        self._loss_note = EVICTED_NOTE if was_evicted else None
        self._notes: list[str] = []
        self._instance: str | None = None
        self._has_lost_inputs = False
        self._use_count = 0
        self._was_used = False
        self._lock: anyio.Lock | None = None
        self._notebook = Notebook()

    def __repr__(self) -> str:
        return f"Session(id={self.id!r})"

    @property
    def busy(self) -> bool:
        """Whether a run or a transfer is under way."""
        return self._use_count > 0

    async def run_code(
        self,
        code: str,
        *,
        timeout: timedelta | None = None,
        on_output: OutputHandler | None = None,
    ) -> Execution:
        """Run code in this session and wait for its end.

        An exception of the code, a time-out and a crash are told on the `Execution`
        (`error`, `status`, `state`), not raised. Cancelling the call interrupts the code.

        Args:
            code: Python source; IPython syntax such as `%timeit` works too.
            timeout: Longest run; `Limits.execution_timeout` when None.
            on_output: Called with each piece of output while the code runs, on the caller's loop.

        Raises:
            ConfigurationError: The code has a lone surrogate, so nothing was run.
            PoolUnavailableError: Nothing was started; the call may be made again.
            PoolExhaustedError: No session is free.
            PoolError: The pool failed; unless `retryable`, the code may have run.
            ExecutionTimeoutError: The pool did not answer; the code may have run.
            AuthenticationError: The pool refused the key or the token.
            IsolationError: This machine offers no fence.

        Example:
            ```python
            execution = await interpreter.session("alice").run_code("6 * 7")
            assert execution.text == "42"
            ```
        """
        check_code(code)
        handler = None if on_output is None else _bind_to_current_loop(on_output)
        return await event_loop.dispatch(self._run_on_loop, code, timeout, handler)

    async def _run_on_loop(
        self, code: str, timeout: timedelta | None, on_output: OutputHandler | None
    ) -> Execution:
        """`run_code`, for callers that are on the portal's loop already."""
        limit = self._owner.limits.execution_timeout if timeout is None else timeout
        async with _SessionLock(self):
            pool = await self._owner._get_pool()
            if self._is_stale:
                await pool.delete_session(self.id)  # what was told to be gone must be gone
                self._is_stale = False
            with start_execution_span(self.id, pool.capabilities.name) as span:
                try:
                    raw_execution = await self._execute(pool, code, limit, on_output)
                except CodeInterpreterError as error:
                    clean = redact_exception(error)
                    if clean is error:
                        raise
                    raise clean from None
                noted = add_network_note(self._attach_notes(raw_execution), pool.capabilities)
                execution = redact_execution(noted)
                record_execution(span, execution)
                if is_content_capture_enabled():
                    rendered = render_text(execution, self._owner.limits.output_characters)
                    record_content(span, code, rendered)
        self._notebook.add(redact(remove_script(code)), execution)
        return execution

    async def _execute(
        self, pool: SessionPool, code: str, limit: timedelta, on_output: OutputHandler | None
    ) -> Execution:
        """Run code once; after a loss in a new instance that has the inputs back."""
        output = None if on_output is None else RedactingOutput(on_output)
        handle = None if output is None else output.handle
        try:
            return await self._execute_once(pool, code, limit, handle)
        finally:
            if output is not None:
                output.finish()

    async def _execute_once(
        self, pool: SessionPool, code: str, limit: timedelta, on_output: OutputHandler | None
    ) -> Execution:
        if self._has_lost_inputs:
            await self._restore_inputs()
        try:
            return await pool.execute(
                self.id, code, timeout=limit, on_output=on_output, instance=self._instance
            )
        except SessionLostError as lost:
            if not lost.retryable:
                raise
            self._instance, self._loss_note = None, REPLACED_NOTE
            await self._restore_inputs()
            return await pool.execute(self.id, code, timeout=limit, on_output=on_output)

    def _attach_notes(self, execution: Execution) -> Execution:
        """The execution with what happened to the session before it."""
        loss, self._loss_note = self._loss_note, None
        notes, self._notes = self._notes, []
        self._instance = execution.instance or None
        self._has_lost_inputs = execution.state == "lost" and not execution.instance
        if loss is not None and execution.state != "lost":  # else the pool has said why itself
            notes = [loss, *notes]
        if loss is None and not notes:
            return execution
        state = execution.state if loss is None else "lost"
        return replace(execution, state=state, notes=(*execution.notes, *notes))

    async def _restore_inputs(self) -> None:
        """Upload again what was uploaded before, and note it for the next answer."""
        self._has_lost_inputs = True  # until it is done
        restored, missing = await self.files._restore_inputs()
        self._has_lost_inputs = False
        if restored:
            self._notes.append(f"uploaded again: {', '.join(restored)}")
        if missing:
            self._notes.append(f"uploaded files are gone: {', '.join(missing)}; upload them again")

    def notebook(self) -> str:
        """The session's history so far as a Jupyter notebook, in nbformat 4 JSON."""
        return self._notebook.to_json()

    async def delete(self) -> None:
        """End the session now and free its place in the pool; running it again starts anew."""
        await event_loop.dispatch(self._delete_on_loop)

    async def _delete_on_loop(self) -> None:
        """`delete`, for callers that are on the portal's loop already."""
        async with _SessionLock(self):
            await (await self._owner._get_pool()).delete_session(self.id)
            self._instance = None
            self.files._forget_inputs()
            self._on_delete()

    def _use(self, change: int) -> None:
        self._use_count += change
        self._was_used = True

    def _get_lock(self) -> anyio.Lock:
        """The lock that lets one run in at a time; made on the portal's loop."""
        if self._lock is None:
            self._lock = anyio.Lock()
        return self._lock


class _SessionLock:
    """Waiting for and holding a session's turn counts as using it."""

    def __init__(self, session: Session) -> None:
        self._session = session

    async def __aenter__(self) -> None:
        self._session._use(1)  # noqa: SLF001 - same module, one job
        try:
            await self._session._get_lock().acquire()
        except BaseException:
            self._session._use(-1)  # noqa: SLF001
            raise

    async def __aexit__(self, *_: object) -> None:
        self._session._get_lock().release()
        self._session._use(-1)  # noqa: SLF001


def _bind_to_current_loop(handler: OutputHandler) -> OutputHandler:
    """Hand events to the caller's loop and context, in order and before the call returns."""
    loop, context = asyncio.get_running_loop(), copy_context()

    def forward(event: OutputEvent) -> None:
        loop.call_soon_threadsafe(handler, event, context=context)

    return forward

"""Runs that go on while their caller does something else.

`BackgroundSession.start_code` runs code by the same path as `run_code`, in a task on the pool's
event loop. A `BackgroundRun` shows what it printed so far, waits for it, and cancels it. Output
beyond `MAX_OUTPUT_CHARACTERS` drops its oldest part. The `Execution` has all that `run_code` keeps.
"""

from __future__ import annotations

import asyncio
import os
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from threading import Lock
from typing import Any, Literal, overload

from cci_plugins.common.code_text import check_code
from cci_plugins.common.durations import Duration, to_timedelta
from cci_plugins.common.event_loop import submit
from cci_plugins.common.limits import Limits
from cci_plugins.errors import ConfigurationError, SessionLostError
from cci_plugins.models import ErrorInfo, Execution, OutputEvent
from cci_plugins.pools.base import OutputHandler, check_background_support, check_code_size

from .conversation import get_running_sessions
from .host_calls import HostCalls
from .host_tools import HostTool, ToolApprover
from .session_handle import SessionHandle
from .session_host import bind_to_current_loop
from .session_saving import SavableSession

MAX_OUTPUT_CHARACTERS = 1_000_000  # that a run keeps for `output`
_CHUNK_CHARACTERS = 8_000
CANCELLED_TEXT = "the run was cancelled"
_tasks: set[asyncio.Task[Execution]] = set()  # an event loop alone does not keep them

BackgroundStatus = Literal[
    "running", "succeeded", "failed", "timed_out", "died", "cancelled", "error"
]
"""How far a background run is.

* `running`: the code runs, or waits for its turn.
* `cancelled`: `cancel` ended it.
* `error`: the pool failed, and `wait` raises its error.
* Every other value is the status of its `Execution`.
"""


@dataclass(frozen=True, slots=True)
class BackgroundOutput:
    """A part of what a background run printed and displayed, as text.

    Attributes:
        text: The part.
        end: Where it ends. Pass it as `since` to read what comes next.
        missed: Characters after `since` that are no longer kept.
    """

    text: str
    end: int
    missed: int = 0


class _OutputTail:
    """The last characters of a run's output. Any thread may read it."""

    def __init__(self) -> None:
        self._chunks: deque[str] = deque()
        self._start = self._end = 0
        self._lock = Lock()

    def add(self, event: OutputEvent) -> None:
        """Append a chunk of output."""
        text = event.text
        if event.result is not None:
            text = (event.result.text or repr(event.result)) + "\n"
        with self._lock:
            chunks = range(0, len(text), _CHUNK_CHARACTERS)  # since the first one is cut each time
            self._chunks.extend(text[at : at + _CHUNK_CHARACTERS] for at in chunks)
            self._end += len(text)
            while self._end - self._start > MAX_OUTPUT_CHARACTERS:
                excess = self._end - self._start - MAX_OUTPUT_CHARACTERS
                first = self._chunks.popleft()
                if len(first) > excess:
                    self._chunks.appendleft(first[excess:])
                self._start += min(len(first), excess)

    def read(self, since: int) -> BackgroundOutput:
        """Return what came after the first `since` characters."""
        with self._lock:
            begin = min(max(since, self._start), self._end)
            text = "".join(self._chunks)[begin - self._start :]
            return BackgroundOutput(text, self._end, max(0, self._start - since))


class BackgroundRun:
    """Code that runs in a session while its caller goes on.

    `Session.start_code` creates it. The run goes on if this object is dropped.
    """

    def __init__(
        self, handle: SessionHandle, task: asyncio.Task[Execution], output: _OutputTail
    ) -> None:
        self._handle = handle
        self._task = task
        self._output = output
        self._pid = os.getpid()

    def __repr__(self) -> str:
        return f"BackgroundRun(session={self._handle.id!r}, status={self.status!r})"

    @property
    def status(self) -> BackgroundStatus:
        """How far the run is."""
        if not self._task.done():
            return "running" if self._pid == os.getpid() else "died"
        if self._task.cancelled():
            return "cancelled"
        return "error" if self._task.exception() is not None else self._task.result().status

    def output(self, since: int = 0) -> BackgroundOutput:
        """Return what the code printed and displayed so far, without waiting.

        Args:
            since: `BackgroundOutput.end` of an earlier call. 0 means from the start.

        Raises:
            ConfigurationError: It is negative.
        """
        if since < 0:
            raise ConfigurationError(f"since is negative ({since})", hint="pass 0 or more")
        return self._output.read(since)

    @overload
    async def wait(self, timeout: None = None) -> Execution: ...

    @overload
    async def wait(self, timeout: Duration) -> Execution | None: ...

    async def wait(self, timeout: Duration | None = None) -> Execution | None:
        """Wait for the end of the run, and return what `run_code` would return.

        A cancelled run returns the error `KeyboardInterrupt`, with what it printed as `stdout`.
        Cancelling the call does not end the run.

        Args:
            timeout: Longest wait, in seconds or as a `timedelta`. None means no limit.

        Returns:
            None if the run goes on after the timeout.

        Raises:
            CodeInterpreterError: The pool failed, as for `run_code`.
            ConfigurationError: The timeout is not a duration. Or a tool that the run called waits
                for the run.
        """
        self._check_process()
        waiting = {one.id for one in get_running_sessions()}
        if not self._task.done() and self._handle.id in waiting:
            raise ConfigurationError(
                "this run waits for the tool that made this call, so the tool cannot wait for it",
                hint="wait for the run outside of its tools",
            )
        limit = None if timeout is None else to_timedelta(timeout, "timeout", allow_zero=True)
        return await self._handle.host.dispatch(self._wait, limit)

    async def _wait(self, limit: timedelta | None) -> Execution | None:
        seconds = None if limit is None else limit.total_seconds()
        await asyncio.wait((self._task,), timeout=seconds)
        if not self._task.done():
            return None
        if not self._task.cancelled():
            return self._task.result()
        output = self._output.read(0)
        return Execution(
            stdout=output.text,
            error=ErrorInfo("KeyboardInterrupt", CANCELLED_TEXT),
            session_id=self._handle.id,
            status="failed",
            state="unknown",
            dropped_characters=output.missed,
        )

    async def cancel(self) -> bool:
        """End the run, as cancelling a call of `run_code` does: interrupt its code.

        Returns:
            False if it had ended already.
        """
        self._check_process()
        return await self._handle.host.dispatch(self._cancel)

    async def _cancel(self) -> bool:
        if not self._task.done():
            self._task.cancel()
            await asyncio.wait((self._task,))
        return self._task.cancelled()

    def _check_process(self) -> None:
        if self._pid != os.getpid() and not self._task.done():
            raise SessionLostError(
                "this run belongs to the process that this one was forked from",
                hint="wait for it there, or start another run here",
            )


class BackgroundSession(SavableSession):
    """A session that runs code in the background."""

    @abstractmethod
    def _refuse_nested_run(self) -> None: ...

    @abstractmethod
    def _build_calls(
        self, code: str, tools: Sequence[HostTool], approve_tool: ToolApprover | None
    ) -> HostCalls | None: ...

    @abstractmethod
    def _run(
        self,
        code: str,
        timeout: timedelta | None,
        on_output: OutputHandler | None,
        calls: HostCalls | None,
        *,
        in_background: bool = False,
    ) -> Coroutine[Any, Any, Execution]: ...

    async def start_code(
        self,
        code: str,
        *,
        timeout: Duration | None = None,
        on_output: OutputHandler | None = None,
        tools: Sequence[HostTool] = (),
        approve_tool: ToolApprover | None = None,
    ) -> BackgroundRun:
        """Start code in this session, and return while it runs.

        One run is active at a time, so this one waits for those before it.

        Args:
            code: Python source, as for `run_code`.
            timeout: Longest run, in seconds or as a `timedelta`. None means
                `Limits.background_timeout`, which is also the longest one.
            on_output: Called with each chunk of output while the code runs, on the caller's loop
                until that closes.
            tools: Functions of the application that the code may call, as for `run_code`.
            approve_tool: Asked before a call of a tool with `needs_approval`.

        Raises:
            ConfigurationError: The pool cannot run code in the background, or the timeout is
                longer than `Limits.background_timeout`. Or `run_code` would refuse the call.
                Nothing was run.
            PoolError: The pool cannot start, or its session cannot be asked. Nothing was run.

        Example:
            ```python
            run = await interpreter.session("alice").start_code("6 * 7")
            execution = await run.wait()
            assert execution.text == "42"
            ```
        """
        check_code(code)
        check_code_size(code)
        self._refuse_nested_run()
        check_background_support(self._handle.host.pool.capabilities)
        limit = _choose_limit(self._handle.host.limits, timeout)
        calls = self._build_calls(code, tools, approve_tool)
        handler = None if on_output is None else bind_to_current_loop(on_output)
        started: list[BackgroundRun] = []
        start = partial(self._start, code, limit, handler, calls, started)
        try:
            return await self._handle.host.dispatch(start)
        except asyncio.CancelledError:
            submit(_cancel_all, started)  # nobody else can
            raise

    async def _start(
        self,
        code: str,
        limit: timedelta,
        handler: OutputHandler | None,
        calls: HostCalls | None,
        started: list[BackgroundRun],
    ) -> BackgroundRun:
        await self._check_pool()
        output = _OutputTail()

        def handle(event: OutputEvent) -> None:
            output.add(event)
            if handler is not None:
                handler(event)

        run = self._run(code, limit, handle, calls, in_background=True)
        task = asyncio.create_task(run)
        _tasks.add(task)
        self._handle.background_runs.add(task)
        task.add_done_callback(_forget)
        task.add_done_callback(self._handle.background_runs.discard)
        try:
            await asyncio.sleep(0)  # it takes its place before runs that are asked for later
        except asyncio.CancelledError:
            task.cancel()
            raise
        started.append(BackgroundRun(self._handle, task, output))
        return started[0]

    async def _check_pool(self) -> None:
        """Refuse the run before it is started. The first call may have to ask the session."""
        pool = await self._handle.host.get_pool()
        check_background_support(pool.capabilities)
        if pool.capabilities.background_runs is None:
            with self._handle.in_use():
                await self._handle.begin()
                await pool.check_background_runs(self._handle.id)


class BackgroundInterpreter(ABC):
    """An interpreter that runs code in the background of its current session."""

    @abstractmethod
    def session(self) -> BackgroundSession:
        """Return the session of the current conversation."""

    async def start_code(
        self,
        code: str,
        *,
        timeout: Duration | None = None,
        tools: Sequence[HostTool] = (),
        approve_tool: ToolApprover | None = None,
    ) -> BackgroundRun:
        """Start code in the current session, as `Session.start_code` does.

        Args:
            code: Python source.
            timeout: Longest run, in seconds or as a `timedelta`. None means
                `Limits.background_timeout`.
            tools: Functions of the application that the code may call, as for `run_code`.
            approve_tool: Asked before a call of a tool with `needs_approval`.
        """
        return await self.session().start_code(
            code, timeout=timeout, tools=tools, approve_tool=approve_tool
        )


def _choose_limit(limits: Limits, timeout: Duration | None) -> timedelta:
    longest = limits.background_timeout
    limit = longest if timeout is None else to_timedelta(timeout, "timeout")
    if limit > longest:
        raise ConfigurationError(
            f"timeout is {limit.total_seconds():g} s, and a background run may take at most "
            f"{longest.total_seconds():g} s",
            hint="pass a shorter timeout, or Limits(background_timeout=...)",
        )
    return limit


async def _cancel_all(runs: Sequence[BackgroundRun]) -> None:
    for run in runs:
        await run.cancel()


def _forget(task: asyncio.Task[Execution]) -> None:
    """Forget a task that has ended, and mark its error as seen: `wait` raises it."""
    _tasks.discard(task)
    if not task.cancelled():
        task.exception()

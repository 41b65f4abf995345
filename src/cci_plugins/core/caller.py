"""The caller of a run: its event loop and context variables, in which host tools run.

A pool lives on the package's own event loop. A tool belongs to the application: it may use objects
of the application's loop, and the context variables of the call, such as those of a framework.

- An async function runs on the caller's loop. A blocking caller has none, so it runs on
  `common/tool_loop`.
- Any other function runs in a worker thread. It cannot be cancelled: its thread is abandoned, and
  too many abandoned ones refuse further calls.
- Every function runs in a copy of the caller's context. `running_sessions` there names the sessions
  whose code waits for it, so that it cannot wait for itself.
"""

from __future__ import annotations

import asyncio
import inspect
import sys
import threading
from collections.abc import Callable
from contextvars import Context, copy_context
from dataclasses import dataclass
from functools import partial
from typing import Any

import anyio
import anyio.to_thread

from cci_plugins.common import event_loop, tool_loop
from cci_plugins.errors import ToolCallError

from .conversation import RunningSession, get_running_sessions, running_sessions
from .host_tools import is_async
from .spans import inherit_span

MAX_ABANDONED = 64  # threads of calls that were given up and have not returned


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a function returned or raised. Some exceptions cannot pass a future."""

    value: Any = None
    error: BaseException | None = None

    def get(self) -> Any:
        """Return the value, or raise the exception."""
        if isinstance(self.error, Exception):
            raise self.error
        if self.error is not None:  # a tool must not end the event loop
            raise ToolCallError(f"the tool ended with {type(self.error).__name__}")
        return self.value


class _Abandoned:
    """Counts calls whose threads were given up. Threads of any loop use it."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self.count = 0

    def add(self, number: int) -> None:
        with self._guard:
            self.count += number


_abandoned = _Abandoned()


class Caller:
    """The event loop and the context of the caller of `run_code`.

    Create it there. Its methods run on the pool's loop.

    Args:
        session_id: The session whose code will call.
        at_once: Most functions in threads at once.
    """

    def __init__(self, session_id: str, at_once: int) -> None:
        self._context = copy_context()
        self._session = RunningSession(session_id)
        self._sessions = (*get_running_sessions(), self._session)
        loop = event_loop.get_running_loop()
        self._loop = None if event_loop.is_package_loop(loop) else loop
        self._at_once = at_once
        self._limiter: anyio.CapacityLimiter | None = None

    def end(self) -> None:
        """Note that the run has ended, for what its tools started and left running."""
        self._session.has_ended = True

    async def call(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Call a function where it belongs, and return its result.

        Raises:
            ToolCallError: Too many earlier calls have not returned.
            Exception: What the function raised.
        """
        context = self._context.copy()
        context.run(running_sessions.set, self._sessions)
        inherit_span(context)
        bound = partial(function, *args, **kwargs)
        if is_async(function):
            return (await self._call_on_loop(context, bound)).get()
        result = (await self._call_in_thread(context, bound)).get()
        if inspect.isawaitable(result):
            return (await self._call_on_loop(context, lambda: result)).get()
        return result

    async def _call_on_loop(self, context: Context, function: Callable[[], Any]) -> Outcome:
        async def run() -> Outcome:
            try:
                return Outcome(await function())
            except asyncio.CancelledError as error:
                if _is_cancelled():
                    raise
                return Outcome(error=error)
            except Exception as error:  # noqa: BLE001 - the application's own code
                return Outcome(error=error)
            except SystemExit as error:
                return Outcome(error=error)

        loop = self._loop or tool_loop.get_tool_loop()
        future = context.run(asyncio.run_coroutine_threadsafe, run(), loop)
        return await asyncio.wrap_future(future)

    async def _call_in_thread(self, context: Context, function: Callable[[], Any]) -> Outcome:
        if _abandoned.count >= MAX_ABANDONED:
            raise ToolCallError(
                f"{MAX_ABANDONED} earlier calls of host tools have not returned", kind="limit"
            )
        if self._limiter is None:
            self._limiter = anyio.CapacityLimiter(self._at_once)
        _leave_async_library(context)
        call = _ThreadCall(partial(context.run, function))
        try:
            return await anyio.to_thread.run_sync(
                call.run, abandon_on_cancel=True, limiter=self._limiter
            )
        except asyncio.CancelledError:
            call.abandon()
            raise


class _ThreadCall:
    """A call in a thread, which is counted from the moment it is given up until it returns."""

    def __init__(self, function: Callable[[], Any]) -> None:
        self._function = function
        self._guard = threading.Lock()
        self._is_running = self._is_abandoned = False

    def run(self) -> Outcome:
        if not self._switch(is_running=True):
            return Outcome()  # it was never counted
        try:
            return Outcome(self._function())
        except BaseException as error:  # noqa: BLE001 - the application's own code
            return Outcome(error=error)
        finally:
            if not self._switch(is_running=False):
                _abandoned.add(-1)

    def _switch(self, *, is_running: bool) -> bool:
        """Note the start or the end. Return False if the call was given up before."""
        with self._guard:
            self._is_running = is_running
            return not self._is_abandoned

    def abandon(self) -> None:
        """Give the call up. It counts until it returns."""
        with self._guard:
            self._is_abandoned = True
            if self._is_running:
                _abandoned.add(1)


def _leave_async_library(context: Context) -> None:
    """Let a function in a thread start its own event loop, as `anyio.run` checks for sniffio."""
    sniffio: Any = sys.modules.get("sniffio")
    if sniffio is not None:
        context.run(sniffio.current_async_library_cvar.set, None)


def _is_cancelled() -> bool:
    """Return whether somebody cancelled the current task, so that it must end."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0

"""Runs of a tool that go on after its answer: one table for each session.

A tool that answers in time starts its code by `Session.start_code`, and waits only so long. The
states of such a run:

- It runs within its call. No other call starts a run meanwhile, because a session does one thing at
  a time. Cancelling the call ends the run.
- It is left: the call has answered with the name of the run, and it goes on without the call.
- It has ended, and waits to be read. Other runs may start. The first call that reads it removes it.

Any thread may use a table. A forked process begins with an empty one.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import timedelta
from threading import Lock

import anyio

from cci_plugins.common import event_loop
from cci_plugins.common.cancellation import run_to_end
from cci_plugins.common.log import logger
from cci_plugins.errors import CodeInterpreterError
from cci_plugins.models import Execution
from cci_plugins.pools.base import check_background_support

from .background_run import BackgroundOutput, BackgroundRun, BackgroundSession

MAX_UNREAD_RUNS = 8
_STARTING_SECONDS = 0.05  # between two looks at a run that another call starts


class LongRun:
    """A run that one call of a tool starts, and that later calls may ask for.

    Attributes:
        name: What the model calls it. Empty until it is left.
        error: Exception of a framework that ended it, for the call that reads it.
    """

    def __init__(self) -> None:
        self.name = ""
        self.error: BaseException | None = None
        self._background: BackgroundRun | None = None
        self._started = time.monotonic()
        self._seen = 0

    @property
    def is_left(self) -> bool:
        """Whether it goes on without the call that started it, or went on."""
        return bool(self.name)

    @property
    def is_running(self) -> bool:
        """Whether it has not ended."""
        return self._background is None or self._background.status == "running"

    @property
    def seconds(self) -> int:
        """Whole seconds since it was started."""
        return round(time.monotonic() - self._started)

    async def run(
        self, start: Callable[[], Awaitable[BackgroundRun]], wait: timedelta
    ) -> Execution | None:
        """Start the code, and wait. Return None if it goes on after that.

        Cancelling the call ends the run.
        """
        self._background = background = await start()
        try:
            execution = await background.wait(wait)
        except asyncio.CancelledError:
            with suppress(CodeInterpreterError):
                await run_to_end(background.cancel())
            raise
        await asyncio.sleep(0)  # events that are queued on this loop come before the return
        return execution

    async def wait(self, limit: timedelta | float) -> Execution | None:
        """Wait for its end. Return None if it goes on.

        Raises:
            CodeInterpreterError: The pool failed.
        """
        if self._background is None:  # another call is starting it
            seconds = limit.total_seconds() if isinstance(limit, timedelta) else limit
            await anyio.sleep(min(seconds, _STARTING_SECONDS))
            return None
        return await self._background.wait(limit)

    async def cancel(self) -> None:
        """End it."""
        if self._background is not None:
            await self._background.cancel()

    def abort(self, error: BaseException) -> None:
        """End it soon, because of an exception of a framework. Do not wait."""
        self.error = error
        event_loop.submit(self.cancel)

    def read_output(self) -> BackgroundOutput | None:
        """Return what it printed since the last call, or None before it starts."""
        if self._background is None:
            return None
        output = self._background.output(self._seen)
        self._seen = output.end
        return output


class LongRuns:
    """The runs of one session that are in progress, or wait to be read.

    Attributes:
        last: One sentence about the run that was read last, or empty.
    """

    def __init__(self) -> None:
        self.last = ""
        self._runs: list[LongRun] = []
        self._count = 0
        self._lock = Lock()

    async def begin(self, deadline: float) -> LongRun | None:
        """Reserve the session for a run. Return None if another one is left, or goes on too long.

        Args:
            deadline: End of the wait for a run within another call, by `time.monotonic()`.
        """
        while True:
            with self._lock:
                running = next((one for one in self._runs if one.is_running), None)
                if running is None:
                    run = LongRun()
                    self._runs.append(run)
                    return run
            seconds = deadline - time.monotonic()
            if running.is_left or seconds <= 0:
                return None
            with suppress(CodeInterpreterError):  # its own call reports it
                await running.wait(seconds)

    def leave(self, run: LongRun) -> None:
        """Name a run that goes on without its call."""
        with self._lock:
            self._count += 1
            run.name = f"run-{self._count}"
            ended = [one for one in self._runs if one.is_left and not one.is_running]
            for one in ended[:-MAX_UNREAD_RUNS]:
                self._runs.remove(one)
                logger.warning("%s was never read, and is forgotten", one.name)

    def remove(self, run: LongRun, summary: str | None = None) -> bool:
        """Forget a run. Return False if another call was first.

        Args:
            run: The run.
            summary: One sentence about it, if it was read.
        """
        with self._lock:
            if run not in self._runs:
                return False
            self._runs.remove(run)
            if summary is not None:
                self.last = summary
            return True

    def find_running(self) -> LongRun | None:
        """Return the run that is left and goes on, or None."""
        with self._lock:
            return next((one for one in self._runs if one.is_left and one.is_running), None)

    def find_ended(self) -> LongRun | None:
        """Return the oldest run that was left, has ended and was not read, or None."""
        with self._lock:
            return next((one for one in self._runs if one.is_left and not one.is_running), None)


class LongRunSession(BackgroundSession):
    """A session that keeps the runs that tools started and left."""

    _long_runs: LongRuns


def get_long_runs(session: LongRunSession) -> LongRuns:
    """Return the runs of a session that tools started and left.

    Raises:
        ConfigurationError: The pool cannot run code in the background.
    """
    check_background_support(session._handle.host.pool.capabilities)  # noqa: SLF001 - the public
    return session._long_runs  # noqa: SLF001 - API has no need of either

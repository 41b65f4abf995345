"""The runs that the server holds, by name: `RunRegistry` and `Run`.

A run belongs to a session and to the caller who started it, and has a name that its client chose.
Nobody finds it by other means. There are two kinds:

- `RunRegistry.start` runs code in a task of its own, which outlives the request. Requests that
  know the name ask with `Run.wait_for_news`, and end it with `Run.cancel`. It ends by itself with
  its code, after `limit`, or `patience` after the last request if its calls of tools wait.
- `RunRegistry.claim` only keeps the name of a run that ends with its request.

A name starts code once. A second start finds the run of the first, or is refused if that run is
not held, until the name is too old to be remembered. A run that did not begin frees its name. A
name that was cancelled before it was started is refused, too.

What an ended run left is kept for `keep`, and less if it is too much in all.

Example, as a background run would use it:
    ```text
    run = registry.start(RunKey("session-1", "nightly"), work, limit=timedelta(hours=1))
    await run.wait_for_news(wait=60, since=0)  # returns at once if there is output
    at, chunks = run.output.read(since=0)
    run.outcome  # None while it runs, else the execution or the error
    run.cancel("the user asked for it")
    ```
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import timedelta

import anyio
from anyio.abc import TaskGroup

from cci_plugins.common.limits import MIB
from cci_plugins.common.log import logger
from cci_plugins.errors import (
    CodeInterpreterError,
    PoolError,
    PoolExhaustedError,
    PoolUnavailableError,
)
from cci_plugins.mcp_client.failures import MAY_HAVE_RUN
from cci_plugins.models import Execution

from .callers import current_caller
from .output_log import OutputLog
from .tool_relay import ToolRelay

PATIENCE = timedelta(seconds=60)  # for calls that wait while nobody asks
KEEP = timedelta(hours=1)
MAX_NAMES = 10_000
MAX_RUNNING = 256
MAX_KEPT_BYTES = 256 * MIB
BATCH_SECONDS = 0.005  # for several calls to share a report
OUTPUT_SECONDS = 0.1  # for several chunks of output to share a report
CANCEL_SECONDS = 5.0
_MAX_NAME = 256


@dataclass(frozen=True, slots=True)
class RunKey:
    """What identifies a run: its session, its name, and who started it."""

    session_id: str
    name: str
    caller: str = field(default_factory=current_caller.get)


class Run:
    """A run in a task of its own.

    Attributes:
        key: Its session and name.
        detail: What its starter needs to answer for it later.
        output: Its output so far.
        relay: Its calls of host tools. None without tools.
        has_begun: Whether its task runs.
        outcome: Its execution, or the error that ended it. None while it runs.

    Args:
        key: Its session and name.
        patience: How long its calls wait while nobody asks.
        detail: What its starter needs to answer for it later.
    """

    def __init__(self, key: RunKey, patience: timedelta, detail: object) -> None:
        self.key, self.detail = key, detail
        self.output = OutputLog(self.notify)
        self.relay: ToolRelay | None = None
        self.has_begun = False
        self.outcome: Execution | CodeInterpreterError | None = None
        self.ended_at = 0.0
        self._patience = patience.total_seconds()
        self._scope = anyio.CancelScope()
        self._end_reason = "the server ended it"
        self._changed = anyio.Event()
        self._askers: list[anyio.CancelScope] = []
        self._timer: asyncio.TimerHandle | None = None

    def notify(self) -> None:
        """Wake up the requests that wait, because something changed."""
        self._changed.set()
        self._changed = anyio.Event()
        self._watch_patience()

    async def wait_for_news(
        self, *, wait: float, known: Collection[int] = (), since: int | None = None
    ) -> None:
        """Wait until the run has ended, or there are new calls or new output.

        Where calls are answered, a later wait ends an earlier one: the client has sent it to
        bring an answer, or has lost the earlier one.

        Args:
            wait: Longest wait in seconds.
            known: Calls that are not new.
            since: Characters of output that are not new. None if output is not wanted.
        """
        with anyio.move_on_after(wait) as scope:
            if wait and self.relay is not None:
                for earlier in self._askers:
                    earlier.cancel()
            self._askers.append(scope)
            self._watch_patience()
            try:
                while not self._has_news(known, since):
                    await self._changed.wait()
                if self.outcome is None:
                    has_calls = self._has_news(known, None)
                    await anyio.sleep(BATCH_SECONDS if has_calls else OUTPUT_SECONDS)
            finally:
                self._askers.remove(scope)
                self._watch_patience()

    def cancel(self, reason: str) -> None:
        """End the run, if it goes on.

        Args:
            reason: Why, as a clause.
        """
        if self.outcome is None:
            self._end_reason = reason
            self._scope.cancel()

    async def wait_ended(self, seconds: float) -> None:
        """Wait for the end of a run that was cancelled."""
        with anyio.move_on_after(seconds):
            while self.outcome is None:
                await self._changed.wait()

    async def execute(self, work: Callable[[Run], Awaitable[Execution]], limit: float) -> None:
        """Run the code, and keep what came of it. Only the registry calls this."""
        self.has_begun = True
        outcome: Execution | CodeInterpreterError | None = None
        self._scope.deadline = anyio.current_time() + limit
        try:
            with self._scope:
                outcome = await work(self)
        except CodeInterpreterError as error:
            outcome = error
        except Exception:  # noqa: BLE001 - it must not end the server
            logger.exception("a run failed because of a fault in the server")
            outcome = PoolError(f"the server failed unexpectedly; {MAY_HAVE_RUN}")
        finally:
            if outcome is None:
                is_late = self._scope.deadline <= anyio.current_time()
                reason = f"it took longer than {limit:g} s" if is_late else self._end_reason
                outcome = PoolError(f"the run was ended: {reason}; {MAY_HAVE_RUN}")
            self.outcome, self.ended_at = outcome, time.monotonic()
            self.notify()

    def measure(self) -> int:
        """Return about how many bytes are kept of the run."""
        size = self.output.kept
        if isinstance(self.outcome, Execution):
            size += len(self.outcome.stdout) + len(self.outcome.stderr)
            size += sum(
                len(value) if isinstance(value, str) else 1024
                for result in self.outcome.results
                for value in result.data.values()
            )
        return size

    def _has_news(self, known: Collection[int], since: int | None) -> bool:
        return (
            self.outcome is not None
            or (self.relay is not None and self.relay.has_news(known))
            or (since is not None and len(self.output) > since)
        )

    def _watch_patience(self) -> None:
        """Begin to count while calls wait and nobody asks, or else stop."""
        is_waiting = self.relay is not None and self.relay.is_waiting
        if not is_waiting or self._askers or self.outcome is not None:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
        elif self._timer is None:
            reason = f"its calls of tools waited for {self._patience:g} s, and nobody asked for it"
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self._patience, self.cancel, reason)


class RunRegistry:
    """The runs of one server, on its event loop.

    Args:
        patience: How long the calls of a run wait while nobody asks. None for `PATIENCE`.
        keep: How long the end of a run is kept. None for `KEEP`.
    """

    def __init__(self, *, patience: timedelta | None = None, keep: timedelta | None = None) -> None:
        self._patience = PATIENCE if patience is None else patience
        self._keep = (KEEP if keep is None else keep).total_seconds()
        self._runs: OrderedDict[RunKey, Run | None] = OrderedDict()  # None if it is not held
        self._tasks: TaskGroup | None = None

    @asynccontextmanager
    async def run(self) -> AsyncIterator[None]:
        """Allow held runs inside this block, and cancel them at its end."""
        async with anyio.create_task_group() as tasks:
            self._tasks = tasks
            try:
                yield
            finally:
                self._tasks = None
                tasks.cancel_scope.cancel()

    @contextmanager
    def claim(self, key: RunKey | None) -> Iterator[None]:
        """Start a run that ends with this block. Its name is free again if it did not start.

        Args:
            key: Its session and name. None for a run that its client never sends again.

        Raises:
            PoolError: A run of this name was started before.
        """
        if key is None or len(key.name) > _MAX_NAME:
            yield
            return
        self._claim(key, None)
        try:
            yield
        except CodeInterpreterError as error:
            if error.retryable:
                self._runs.pop(key, None)
            raise

    def start(
        self,
        key: RunKey,
        work: Callable[[Run], Awaitable[Execution]],
        *,
        limit: timedelta | None = None,
        detail: object = None,
        relay: Callable[[Callable[[], None]], ToolRelay] | None = None,
    ) -> Run:
        """Start a run, or return the one of this name.

        Args:
            key: Its session and name.
            work: Runs the code. Cancelling it must end the code.
            limit: Longest run. None leaves that to `work`.
            detail: What is kept in `Run.detail`.
            relay: Builds what relays its calls of host tools, from a callback for changes.

        Raises:
            PoolError: A run of this name was started before, and is not held.
            PoolExhaustedError: Too many runs are in progress.
            PoolUnavailableError: The server ends, or the name is too long.
        """
        self._forget_old()
        found = self.find(key)
        if found is not None and not _is_free(found):
            return found
        if self._tasks is None or len(key.name) > _MAX_NAME:
            reason = "the server is ending" if self._tasks is None else "the run's name is too long"
            raise PoolUnavailableError(f"the run cannot be held: {reason}")
        if sum(map(_is_running, self._runs.values())) >= MAX_RUNNING:
            raise PoolExhaustedError(f"{MAX_RUNNING} runs are in progress", retry_after=5)
        run = Run(key, self._patience, detail)
        if relay is not None:
            run.relay = relay(run.notify)
        self._claim(key, run)
        self._tasks.start_soon(
            run.execute, work, float("inf") if limit is None else limit.total_seconds()
        )
        return run

    def find(self, key: RunKey) -> Run | None:
        """Return the held run of this name, which may have ended, or None."""
        run = self._runs.get(key)
        if run is not None and run.outcome is not None and self._is_old(run):
            self._runs[key] = run = None
        return run

    async def cancel(self, key: RunKey, reason: str) -> Run | None:
        """End the run of this name and wait for its end. The name cannot be started later.

        Args:
            key: Its session and name.
            reason: Why, as a clause.
        """
        run = self.find(key)
        if run is not None:
            run.cancel(reason)
            await run.wait_ended(CANCEL_SECONDS)
        elif key not in self._runs and len(key.name) <= _MAX_NAME:
            self._claim(key, None)
        return run

    def _claim(self, key: RunKey, run: Run | None) -> None:
        if key in self._runs:
            earlier = self._runs[key]
            if earlier is None or not _is_free(earlier):
                raise PoolError(f"a run of this name has begun before; {MAY_HAVE_RUN}")
        self._runs[key] = run
        self._runs.move_to_end(key)
        if len(self._runs) > MAX_NAMES:
            oldest = next(key for key, one in self._runs.items() if not _is_running(one))
            del self._runs[oldest]

    def _forget_old(self) -> None:
        """Drop what is kept of ended runs for too long, or beyond the bound in bytes."""
        size = 0
        for key, run in reversed(self._runs.items()):
            if run is None or run.outcome is None:
                continue
            size += run.measure()
            if size > MAX_KEPT_BYTES or self._is_old(run):
                self._runs[key] = None

    def _is_old(self, run: Run) -> bool:
        return time.monotonic() - run.ended_at > self._keep


def _is_running(run: Run | None) -> bool:
    return run is not None and run.outcome is None


def _is_free(run: Run) -> bool:
    """Return whether a run ended before its code began, so that its name may be used again."""
    return isinstance(run.outcome, CodeInterpreterError) and run.outcome.retryable

"""Executions and their output without secrets, also those that the code itself printed.

A session may print megabytes, and the search in them takes seconds. Small output is redacted at
once. Larger output goes to a worker thread, one piece at a time, so that no other call of the
same event loop waits for it.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import anyio

from cci_plugins.common.limits import MIB
from cci_plugins.common.log import logger
from cci_plugins.common.worker_lane import WorkerLane, give_way
from cci_plugins.in_session.message_bounds import measure_forms
from cci_plugins.models import Execution, OutputEvent, Result, transform_execution
from cci_plugins.pools.base import OutputHandler
from cci_plugins.redaction import Redactor, redact, redact_value
from cci_plugins.redaction.stream import after_slice

T = TypeVar("T")
SMALL_CHARACTERS = 32 * 1024  # take less time than the way to a thread and back
MAX_WAITING_CHARACTERS = 96 * MIB  # of displays that wait to be redacted while the code runs
MAX_COUNTED_VALUES = 5_000  # take about a millisecond
LARGE_CHARACTERS = 32 * MIB  # what a display with more values is taken for
TURN_SECONDS = 0.002  # of work in the lane, before the next one continues

_lane = WorkerLane("redaction")


class _Turns:
    """The turns of one piece of work in the lane."""

    def __init__(self) -> None:
        self._started = time.monotonic()

    def end(self) -> None:
        """Let other work continue if this turn has lasted long enough."""
        if time.monotonic() - self._started >= TURN_SECONDS:
            give_way()
            self._started = time.monotonic()


async def redact_in_lane(size: int, work: Callable[[], T]) -> T:
    """Return `work()`, from a worker thread if it has much text to search.

    Args:
        size: Characters of the text.
        work: What to call. Redaction in it pauses after each slice of a text.
    """
    if size <= SMALL_CHARACTERS:
        return work()

    def work_in_slices() -> T:
        after_slice.set(_Turns().end)  # in the thread's own copy of the context
        return work()

    return await _lane.run(work_in_slices)


def measure_execution(execution: Execution) -> int:
    """Return the characters of all texts and data of an execution."""
    error = execution.error
    texts = (execution.stdout, execution.stderr, *execution.notes)
    texts += () if error is None else (error.message, error.traceback)
    return sum(map(len, texts)) + sum(
        measure_forms(dict(result.data)) for result in execution.results
    )


def estimate_execution(execution: Execution) -> int:
    """Return the same as `measure_execution`, at once. Many values count as a large display."""
    values = [dict(result.data) for result in execution.results]
    return LARGE_CHARACTERS if _has_many_values(values) else measure_execution(execution)


def _estimate_display(result: Result) -> int:
    data = dict(result.data)
    return LARGE_CHARACTERS if _has_many_values(data) else measure_forms(data)


def _has_many_values(value: Any) -> bool:
    count, waiting = 0, [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, dict | list | tuple):
            count += len(item) + 1
            if count > MAX_COUNTED_VALUES:
                return True
            waiting += item.values() if isinstance(item, dict) else item
    return False


async def transform_in_lane(execution: Execution, transform: Callable[[Execution], T]) -> T:
    """Return `transform(execution)`, from a worker thread if the execution is large."""
    return await redact_in_lane(estimate_execution(execution), partial(transform, execution))


def redact_execution(execution: Execution) -> Execution:
    """Return the execution with secrets redacted, or the same object if it has none."""
    if measure_execution(execution) <= SMALL_CHARACTERS and _is_clean(execution):
        return execution  # as nearly all are, and to find out is less than to build another one
    clean = transform_execution(execution, redact, redact_value)
    return execution if clean == execution else clean


def _is_clean(execution: Execution) -> bool:
    """Return whether nothing of what `transform_execution` replaces has a secret."""
    error, calls = execution.error, execution.tool_calls
    texts = [execution.stdout, execution.stderr, *execution.notes]
    texts += [] if error is None else [error.name, error.message, error.traceback]
    texts += [text for call in calls for text in (call.name, call.error or "")]
    data = [*(result.data for result in execution.results), *(call.arguments for call in calls)]
    return all(redact(text) == text for text in texts) and all(
        redact_value(value) == value for value in data
    )


def _redact_result(result: Result) -> Result:
    return replace(result, data=redact_value(result.data))


class RedactingOutput:
    """Forwards output with secrets redacted, even when a secret spans two chunks.

    A large chunk is redacted in a worker thread. Those that follow wait for it, so the order
    stays. Displays are left out while too many wait. The execution still has them.

    Args:
        handler: Called with the redacted output, on the event loop.
    """

    def __init__(self, handler: OutputHandler) -> None:
        self._handler = handler
        self._streams = {"stdout": Redactor(), "stderr": Redactor()}
        self._waiting: deque[tuple[OutputEvent, int]] = deque()
        self._waiting_size = 0
        self._task: asyncio.Task[None] | None = None

    def handle(self, event: OutputEvent) -> None:
        """Forward a chunk of output, except its end if that may be the start of a secret."""
        size = len(event.text)
        if event.result is not None:
            size += _estimate_display(event.result)
        if self._task is None and size <= SMALL_CHARACTERS:
            self._forward(self._redact(event))
            return
        if event.result is not None and self._waiting_size + size > MAX_WAITING_CHARACTERS:
            return
        self._waiting.append((event, size))
        self._waiting_size += size
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._forward_waiting())

    async def finish(self) -> None:
        """Forward what waits and what was held back."""
        await self._wait()
        if text := self._streams["stdout"].finish():
            self._handler(OutputEvent("stdout", text))
        if text := self._streams["stderr"].finish():
            self._handler(OutputEvent("stderr", text))

    async def _wait(self) -> None:
        if self._task is not None:
            with anyio.CancelScope(shield=True):
                await asyncio.wait((self._task,))

    async def _forward_waiting(self) -> None:
        try:
            while self._waiting:
                event, size = self._waiting.popleft()
                clean = await redact_in_lane(size, partial(self._redact, event))
                self._waiting_size -= size
                self._forward(clean)
        except Exception:  # noqa: BLE001 - the host's callback may raise anything
            logger.exception("on_output failed, so the run continues without it")
            self._waiting.clear()
        self._task = None

    def _redact(self, event: OutputEvent) -> OutputEvent:
        if event.result is not None:
            return replace(event, result=_redact_result(event.result))
        if event.stream == "result":
            return event
        return OutputEvent(event.stream, self._streams[event.stream].feed(event.text))

    def _forward(self, event: OutputEvent) -> None:
        if event.text or event.stream == "result":
            self._handler(event)

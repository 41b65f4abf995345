"""Large messages of all kernels, decoded in worker threads: short runs of others go first.

All kernels share one event loop and the processors of one machine. A kernel that prints megabytes
makes them as fast as the host takes them, and waits while it does not (`in_session/output_pace`).
So the host decides how much of the machine goes to output. After each `BATCH_BYTES` of it, the
next large message waits for the runs that have just begun elsewhere. A run that takes longer, or
that sends large messages itself, holds nobody up, and each wait has a short end.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

import anyio
from anyio.lowlevel import RunVar

from cci_plugins.common.worker_lane import WorkerLane

T = TypeVar("T")
BATCH_BYTES = 512 * 1024
SHORT_RUN_SECONDS = 0.1  # since its start
MAX_WAIT_SECONDS = 0.01

_lane = WorkerLane("kernel_messages")


class _Turns:
    """The order of large messages in one event loop."""

    def __init__(self) -> None:
        self.gate = anyio.Lock()
        self.batch_bytes = 0
        self.run_starts: dict[int, float] = {}  # of kernels, by their ids
        self._waiter: asyncio.Future[None] | None = None

    def end_run(self, kernel: int) -> None:
        """Forget a run, and let a message go on that waits for it."""
        if self.run_starts.pop(kernel, None) is not None:
            self._wake_up()

    async def wait_for_short_runs(self) -> None:
        """Wait until no run is short, for a moment at most."""
        loop, deadline = asyncio.get_running_loop(), time.monotonic() + MAX_WAIT_SECONDS
        while (now := time.monotonic()) < deadline and self._has_short_runs(now):
            self._waiter = loop.create_future()
            timer = loop.call_later(deadline - now, self._wake_up)
            try:
                await self._waiter
            finally:
                timer.cancel()

    def _has_short_runs(self, now: float) -> bool:
        return any(now - start < SHORT_RUN_SECONDS for start in self.run_starts.values())

    def _wake_up(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


_turns: RunVar[_Turns] = RunVar("cci_large_messages")


def _get_turns() -> _Turns:
    turns = _turns.get(None)
    if turns is None:  # each event loop has its own
        turns = _Turns()
        _turns.set(turns)
    return turns


class LargeMessages:
    """The large messages of one kernel."""

    def __init__(self) -> None:
        self._turns = _get_turns()

    def start_run(self) -> None:
        """Note that a run begins."""
        self._turns.run_starts[id(self)] = time.monotonic()

    def end_run(self) -> None:
        """Note that it has ended."""
        self._turns.end_run(id(self))

    async def decode(self, work: Callable[[], T], size: int) -> T:
        """Decode a large message in a worker thread when it is its turn.

        Args:
            work: Decodes it.
            size: Its size in bytes.
        """
        turns = self._turns
        turns.end_run(id(self))  # it is not short
        async with turns.gate:
            if turns.batch_bytes >= BATCH_BYTES:
                turns.batch_bytes = 0
                await turns.wait_for_short_runs()
            turns.batch_bytes += size
        return await _lane.run(work)

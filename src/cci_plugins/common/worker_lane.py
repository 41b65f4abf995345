"""Heavy work in a worker thread, one piece at a time, so that the event loop stays free.

Decoding and redacting megabytes takes longer than a call of another session may wait. The work
holds Python's lock (the GIL) for most of its time, so several threads would only slow the loop
down. A lane therefore runs one piece at a time, in the order of the calls. A piece that takes
long calls `give_way` again and again.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextvars import ContextVar
from typing import TypeVar

import anyio
from anyio.lowlevel import RunVar

T = TypeVar("T")
PAUSE_SECONDS = 0.0003  # longer than a thread that waits for the lock needs to wake up

_is_in_lane: ContextVar[bool] = ContextVar("cci_is_in_lane", default=False)


class WorkerLane:
    """A queue of heavy work of one kind.

    Args:
        name: Its kind.
    """

    def __init__(self, name: str) -> None:
        self._limiter: RunVar[anyio.CapacityLimiter] = RunVar(f"cci_{name}")

    async def run(self, work: Callable[[], T]) -> T:
        """Run `work()` in a worker thread when it is its turn, and return its result."""
        limiter = self._limiter.get(None)
        if limiter is None:  # each event loop has its own, and so has a forked child
            limiter = anyio.CapacityLimiter(1)
            self._limiter.set(limiter)

        def run_here() -> T:
            _is_in_lane.set(True)  # a copy of the context, which this thread alone has
            return work()

        return await anyio.to_thread.run_sync(run_here, limiter=limiter)


def give_way() -> None:
    """Let other threads run for a moment, if this is the thread of a lane."""
    if _is_in_lane.get():
        time.sleep(PAUSE_SECONDS)

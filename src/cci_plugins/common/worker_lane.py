"""Heavy work in worker threads, one at a time, so that the event loop stays free.

Decoding and redacting megabytes takes longer than a call of another session may wait. The work
holds Python's lock (the GIL) for most of its time, so threads side by side would only slow the
loop down. In a lane, one thread works at a time. Work that takes long calls `give_way` again and
again, and then the next one continues, so that a short piece need not wait for a long one. Short
runs of other sessions go first, too (`short_runs`).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextvars import ContextVar
from typing import TypeVar

import anyio
from anyio.lowlevel import RunVar

from .short_runs import wait_for_short_runs
from .threads import run_in_thread

T = TypeVar("T")
MAX_THREADS = 32
PAUSE_SECONDS = 0.0003  # longer than a thread that waits for a lock needs to wake up

_turn: ContextVar[threading.Lock | None] = ContextVar("cci_lane_turn", default=None)


class WorkerLane:
    """A queue of heavy work of one kind.

    Args:
        name: Its kind.
    """

    def __init__(self, name: str) -> None:
        self._state: RunVar[tuple[anyio.CapacityLimiter, threading.Lock]] = RunVar(f"cci_{name}")

    async def run(self, work: Callable[[], T]) -> T:
        """Run `work()` in a worker thread when it is its turn, and return its result."""
        state = self._state.get(None)
        if state is None:  # each event loop has its own, and so has a forked child
            state = (anyio.CapacityLimiter(MAX_THREADS), threading.Lock())
            self._state.set(state)
        limiter, turn = state

        def run_here() -> T:
            _turn.set(turn)  # in a copy of the context, which this thread alone has
            with turn:
                return work()

        return await run_in_thread(run_here, limiter=limiter)


def give_way() -> None:
    """Let other work continue for a moment, if this is a thread of a lane."""
    turn = _turn.get()
    if turn is not None:
        turn.release()
        time.sleep(PAUSE_SECONDS)
        turn.acquire()
        wait_for_short_runs()

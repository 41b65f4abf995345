"""Timing of two calls in turns, so that other load on the machine affects both."""

from __future__ import annotations

import statistics
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

Call = Callable[[], Awaitable[object]]


@dataclass(frozen=True)
class Ratio:
    """Result of one benchmark: two times in milliseconds, and the highest ratio that is fine."""

    name: str
    ours: float
    theirs: float
    against: str
    aim: float

    @property
    def value(self) -> float:
        return self.ours / self.theirs

    @property
    def is_kept(self) -> bool:
        return self.value <= self.aim


async def in_turns(ours: Call, theirs: Call, *, rounds: int, warm: int = 5) -> tuple[float, float]:
    """Call both alternately and return their median times in milliseconds."""
    for _ in range(warm):
        await ours()
        await theirs()
    times: tuple[list[float], list[float]] = ([], [])
    for turn in range(rounds):
        for which in (0, 1) if turn % 2 else (1, 0):
            started = time.perf_counter()
            await (ours, theirs)[which]()
            times[which].append((time.perf_counter() - started) * 1000)
    return statistics.median(times[0]), statistics.median(times[1])

"""Timing two things in turns, so that what slows the machine slows both."""

from __future__ import annotations

import statistics
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

Call = Callable[[], Awaitable[object]]


@dataclass(frozen=True)
class Ratio:
    """One result: ours against theirs, in milliseconds, and what is aimed for."""

    name: str
    ours: float
    theirs: float
    against: str
    aim: float

    @property
    def value(self) -> float:
        return self.ours / self.theirs

    @property
    def kept(self) -> bool:
        return self.value <= self.aim


async def in_turns(ours: Call, theirs: Call, *, rounds: int, warm: int = 5) -> tuple[float, float]:
    """Median milliseconds of each, called alternately."""
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

"""Rates of clients and environments: `Rate`, a moving window of 60 seconds for each key.

The cost of a hit does not depend on how many keys there are. Keys stand in the order of their last
admitted hit, so those that are over are at the front and leave with the next hit.
"""

from __future__ import annotations

import math
import time
from collections import OrderedDict, deque
from collections.abc import Callable

__all__ = ["WINDOW_SECONDS", "Rate"]

WINDOW_SECONDS = 60


class Rate:
    """Counts hits of each key over the last 60 seconds. Each replica counts for itself.

    Args:
        most: Most hits of one key, at least 1.
        clock: Returns seconds, and never goes back.
    """

    def __init__(self, most: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.most = most
        self._clock = clock
        self._hits: OrderedDict[str, deque[float]] = OrderedDict()

    def __len__(self) -> int:
        """Return how many keys are kept."""
        return len(self._hits)

    def hit(self, key: str) -> int | None:
        """Count a hit, unless there were too many.

        Returns:
            None, or the whole seconds until the next hit is admitted, at least 1. Such a hit is
            not counted.
        """
        now = self._clock()
        self._forget(now - WINDOW_SECONDS)
        hits = self._hits.setdefault(key, deque())
        while hits and hits[0] <= now - WINDOW_SECONDS:
            hits.popleft()
        if len(hits) >= self.most:
            return max(1, math.ceil(hits[0] + WINDOW_SECONDS - now))
        hits.append(now)
        self._hits.move_to_end(key)
        return None

    def _forget(self, before: float) -> None:
        """Remove the keys whose last hit is over."""
        while self._hits and next(iter(self._hits.values()))[-1] <= before:
            self._hits.popitem(last=False)

"""Short runs go first: heavy work waits a moment for the runs that have just begun.

The runs of all sessions share this process and the processors of the machine. One that prints
megabytes keeps both busy for seconds, while most others take a few milliseconds. So a worker
thread with heavy work pauses while such a run is in progress (`worker_lane`). A run that takes
longer, or that prints much itself, holds nobody up, and each pause has a short end.
"""

from __future__ import annotations

import time

SHORT_SECONDS = 0.1  # since its start
MAX_PAUSE_SECONDS = 0.03
_LOOK_SECONDS = 0.001

_starts: dict[object, float] = {}  # a dict of this process, which its threads share


def begin_run(key: object) -> None:
    """Note that a run has begun.

    Args:
        key: What runs it.
    """
    _starts[key] = time.monotonic()


def end_run(key: object) -> None:
    """Note that a run has ended, or that it is not short."""
    _starts.pop(key, None)


def wait_for_short_runs() -> None:
    """Wait until no run is short, for a moment at most. For worker threads only."""
    end = time.monotonic() + MAX_PAUSE_SECONDS
    while (now := time.monotonic()) < end and _has_short_run(now):
        time.sleep(_LOOK_SECONDS)


def _has_short_run(now: float) -> bool:
    return any(now - start < SHORT_SECONDS for start in tuple(_starts.values()))

"""Metrics of runs, counted where they end."""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import contextmanager

from cci_plugins.common.metrics import count_loss, count_run
from cci_plugins.models import Execution


@contextmanager
def measure_run(pool: str) -> Generator[list[Execution]]:
    """Count the run in this block, with its status and duration.

    Args:
        pool: Name of the pool.

    Yields:
        A list for the execution. It stays empty if the run raised an error.
    """
    found: list[Execution] = []
    started = time.perf_counter()
    try:
        yield found
    finally:
        if found:
            execution = found[0]
            usage = execution.usage
            count_run(
                pool,
                execution.status,
                execution.duration.total_seconds(),
                None if usage is None else usage.cpu_seconds,
            )
            if execution.state == "lost":
                count_loss(pool)
        else:
            count_run(pool, "error", time.perf_counter() - started, None)

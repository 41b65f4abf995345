"""Short work in a worker thread, which is done even if the system starts no more threads."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import copy_context
from typing import TypeVar

import anyio
import anyio.to_thread

T = TypeVar("T")


async def run_in_thread(
    function: Callable[..., T], *arguments: object, limiter: anyio.CapacityLimiter | None = None
) -> T:
    """Run a function in a worker thread. Where none can be started, run it here.

    No thread starts at the limit of processes, nor from Python 3.12 on while the program ends.

    Args:
        function: It ends soon.
        arguments: What it is called with.
        limiter: Bounds the number of threads.
    """
    has_begun = False

    def work() -> T:
        nonlocal has_begun
        has_begun = True
        return function(*arguments)

    try:
        return await anyio.to_thread.run_sync(work, limiter=limiter)
    except RuntimeError:
        if has_begun:
            raise
        return copy_context().run(function, *arguments)

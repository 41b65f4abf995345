"""Work that a cancelled caller must not cut short, such as the end of a session."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import anyio

from .threads import run_in_thread

T = TypeVar("T")


async def run_to_end(
    work: Coroutine[Any, Any, T], *, discard: Callable[[T], object] | None = None
) -> T:
    """Await work that goes on if the caller is cancelled, by a scope or by its task.

    The caller is cancelled after the end of the work, so the work needs bounds of its own.

    Args:
        work: It runs in a task of its own.
        discard: Called with the result that a cancelled caller does not get.

    Raises:
        Exception: The work's own.
    """
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    with anyio.CancelScope(shield=True):
        while not task.done():
            try:
                await asyncio.wait((task,))
            except asyncio.CancelledError as error:
                cancelled = error  # each time that the caller is cancelled
        if cancelled is not None:
            # the caller learns of the cancellation only
            if not task.cancelled() and task.exception() is None and discard is not None:
                discard(task.result())
            raise cancelled
    return task.result()


async def finish_in_thread(
    work: Callable[..., T], *args: Any, discard: Callable[[T], object] | None = None
) -> T:
    """Await `work(*args)` in a worker thread to its end, also if the caller is cancelled.

    `run_in_thread` does so if a scope is cancelled. If the task is, the thread would go on alone:
    it would write to what its caller closes, and nobody would get what it opens.

    Args:
        work: The function.
        args: Its arguments.
        discard: Called with the result that a cancelled caller does not get.
    """
    return await run_to_end(run_in_thread(work, *args), discard=discard)

"""Work that a cancelled caller must not cut short, such as the end of a session."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

import anyio

T = TypeVar("T")


async def run_to_end(work: Coroutine[Any, Any, T]) -> T:
    """Await work that goes on if the caller is cancelled, by a scope or by its task.

    The caller is cancelled after the end of the work, so the work needs bounds of its own.

    Args:
        work: It runs in a task of its own.

    Raises:
        Exception: The work's own.
    """
    task = asyncio.ensure_future(work)
    with anyio.CancelScope(shield=True):
        try:
            await asyncio.wait((task,))
        except asyncio.CancelledError:
            await asyncio.wait((task,))
            if not task.cancelled():
                task.exception()  # the caller learns of the cancellation only
            raise
    return task.result()

"""The warm pool: kernels started in advance, so that a new session answers at once."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable

from cci_plugins.common.log import logger

from .kernel import Kernel


class WarmPool:
    """A queue of `size` started kernels. Each allocated kernel is replaced in the background.

    Args:
        size: Number of kernels to keep warm. 0 keeps none.
        start: Starts one kernel. `warm=True` asks for one with libraries imported.
    """

    def __init__(self, size: int, start: Callable[..., Awaitable[Kernel]]) -> None:
        self.size = size
        self._start = start
        self._tasks: deque[asyncio.Task[Kernel]] = deque()
        self._awaited: set[asyncio.Task[Kernel]] = set()  # those that a caller waits for
        self._is_closed = False

    def fill(self) -> None:
        """Start the missing kernels in the background."""
        while not self._is_closed and len(self._tasks) < self.size:
            self._tasks.append(asyncio.ensure_future(self._start(warm=True)))

    def add(self, task: asyncio.Task[Kernel]) -> None:
        """Add a kernel that is starting already."""
        self._tasks.append(task)

    async def allocate(self) -> Kernel:
        """Return a kernel for a new session: a warm one, or one started now."""
        while self._tasks:
            task = self._tasks.popleft()
            kernel = await self._await_kernel(task)
            if kernel is not None:
                self.fill()
                return kernel
        kernel = await self._start(warm=False)
        self.fill()
        return kernel

    async def close(self) -> None:
        """End every kernel that is warm or still starting, also for a caller that waits."""
        self._is_closed = True
        tasks, self._tasks = [*self._tasks, *self._awaited], deque()
        for task in tasks:
            task.cancel()
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(result, Kernel):
                await result.close()

    async def _await_kernel(self, task: asyncio.Task[Kernel]) -> Kernel | None:
        self._awaited.add(task)
        try:
            kernel = await asyncio.shield(task)
        except asyncio.CancelledError:
            if task.cancelled() and not _is_current_task_cancelled():
                return None  # by `close`
            if not task.cancelled() and not self._is_closed:  # the next caller can use this kernel
                self._tasks.appendleft(task)
            raise
        except Exception as error:  # noqa: BLE001 - a fresh start reports the reason to the caller
            logger.debug("a warm kernel did not start: %s", error)
            return None
        finally:
            self._awaited.discard(task)
        if kernel.is_alive:
            return kernel
        await kernel.close()
        return None

    def list_ready_kernels(self) -> list[Kernel]:
        """List the kernels that have started. The benchmarks wait for them."""
        return [
            task.result()
            for task in self._tasks
            if task.done() and not task.cancelled() and task.exception() is None
        ]


def _is_current_task_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0

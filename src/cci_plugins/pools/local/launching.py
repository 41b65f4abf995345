"""Launches of sandboxes, also of one whose backend's self-check still runs.

The first kernel of a process takes as long to load as the self-check of its backend takes to run.
So both run at the same time. Until the check has passed, nothing is sent to that kernel, not even
its setup. It is ended if the check fails or another backend is chosen.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import anyio

from .isolation.base import Isolation, KernelSpec, Sandbox
from .kernel import Kernel, build_setup

_PREPARE_SECONDS = 0.03  # until a sandbox has its first process


async def launch(isolation: Isolation, spec: KernelSpec) -> Sandbox:
    """Launch a sandbox.

    A launch cannot be interrupted halfway. If this call is cancelled, the launch is finished
    and then its sandbox is killed.

    Raises:
        OSError: The system refuses it.
        IsolationError: The sandbox could not be started.
    """
    task = asyncio.ensure_future(isolation.launch(spec))
    asyncio.get_running_loop().call_later(_PREPARE_SECONDS, build_setup)  # the kernel loads so long
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        # A cancel scope cancels again at the next wait, which would leave the sandbox behind.
        with anyio.CancelScope(shield=True):
            await asyncio.wait((task,))
            if not task.cancelled() and task.exception() is None:
                await task.result().kill()
        raise


class EarlyKernel:
    """A kernel that is launched while the self-check of its backend runs.

    Args:
        isolation: The backend that is expected to be chosen.
        start: Starts the kernel with that backend. It calls `wait_passed`.
    """

    def __init__(
        self, isolation: Isolation, start: Callable[[EarlyKernel], Coroutine[Any, Any, Kernel]]
    ) -> None:
        self.isolation = isolation
        self._has_passed = asyncio.Event()
        self._task: asyncio.Task[Kernel] | None = asyncio.ensure_future(start(self))

    async def wait_passed(self, sandbox: Sandbox) -> None:
        """Wait until the self-check has passed. The sandbox is killed if it does not."""
        async with sandbox.kill_on_failure():
            await self._has_passed.wait()

    def use(self, isolation: Isolation) -> asyncio.Task[Kernel] | None:
        """Let the kernel start if this backend was chosen, and return its task."""
        if self._task is None or isolation.name != self.isolation.name:
            return None
        self._has_passed.set()
        task, self._task = self._task, None
        return task

    async def close(self) -> None:
        """End the kernel unless it is used."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with anyio.CancelScope(shield=True):
                await asyncio.wait((task,))
            if not task.cancelled():
                task.exception()  # the choice of a backend reports why it does not work

"""Programs of the host below a supervisor, which ends them when the application has ended."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from cci_plugins.common.cancellation import run_to_end
from cci_plugins.pools.local.isolation.launcher import supervisor
from cci_plugins.pools.local.isolation.managed_process import ManagedProcess, ShieldedStart

_END_SECONDS = 15.0


class SupervisedProgram:
    """A program whose folder is removed with it, also when the application was killed.

    Args:
        python: The interpreter of the supervisor.
        folder: The folder.
        command: The program, by its absolute path. Empty for the folder alone.
        environment: Its whole environment.
    """

    def __init__(
        self,
        python: str,
        folder: Path,
        command: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        supervising = [python, "-I", "-S", supervisor.__file__, str(folder), "-1"]
        if sys.platform == "win32":  # the supervisor forks
            supervising = []
        self._pipe: tuple[int, ...] = os.pipe()
        self._start = ShieldedStart(
            ManagedProcess.start(
                [*supervising, *command],
                env=dict(environment or {}),
                cwd=str(folder) if command else None,
                stdin=self._pipe[0],
            )
        )

    async def get_child(self) -> ManagedProcess:
        """Wait until it has started.

        Raises:
            IsolationError: It could not be started.
        """
        return await self._start.get_child()

    async def close(self) -> None:
        """End it, and wait for its end, also if the caller is cancelled.

        A second call does nothing.
        """
        await run_to_end(self._close())

    async def _close(self) -> None:
        child = await self._start.get_child_or_none()
        pipe, self._pipe = self._pipe, ()
        for descriptor in pipe:
            os.close(descriptor)
        if child is None:
            return
        if sys.platform == "win32":
            child.kill()
        try:
            async with asyncio.timeout(_END_SECONDS):
                await child.wait()
        except TimeoutError:
            child.kill()

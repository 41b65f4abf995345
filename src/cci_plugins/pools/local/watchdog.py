"""The watchdog over limits that the operating system does not enforce for a whole session."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from cci_plugins.common.limits import MIB, SandboxLimits
from cci_plugins.common.log import logger
from cci_plugins.common.threads import run_in_thread
from cci_plugins.errors import CodeInterpreterError

from .kernel import Kernel

BUSY_SECONDS = 0.2
IDLE_ROUNDS = 5  # an idle session is measured every `BUSY_SECONDS * IDLE_ROUNDS`


class Watchdog:
    """A loop that kills kernels whose session uses more memory or disk than its limits.

    The memory limit counts all processes of a session together. RLIMIT_AS bounds only one.

    Args:
        limits: The limits of each session.
        iter_kernels: Yields each live kernel and whether its session is in use now.
        total_memory_bytes: Memory of all sessions together. None for no such limit.
    """

    def __init__(
        self,
        limits: SandboxLimits,
        iter_kernels: Callable[[], Iterable[tuple[Kernel, bool]]],
        total_memory_bytes: int | None = None,
    ) -> None:
        self._limits = limits
        self._iter_kernels = iter_kernels
        self._total_memory_bytes = total_memory_bytes
        self._memory: dict[Kernel, int] = {}

    async def run(self) -> None:
        """Check every kernel again and again until cancelled."""
        round_number = 0
        while True:
            await asyncio.sleep(BUSY_SECONDS)
            round_number += 1
            for kernel, is_busy in list(self._iter_kernels()):
                if is_busy or round_number % IDLE_ROUNDS == 0:
                    await self._enforce_limits(kernel)
            await self._enforce_total()

    async def _enforce_limits(self, kernel: Kernel) -> None:
        if not kernel.is_alive:
            return
        try:
            reason = await run_in_thread(self._find_excess, kernel)
        except (OSError, CodeInterpreterError) as error:  # it ended meanwhile
            logger.debug("cannot measure a session: %s", error)
            return
        if reason is not None:
            await kernel.kill(reason)

    async def _enforce_total(self) -> None:
        """End the session that uses most memory while all together use more than their limit."""
        live = {kernel for kernel, _ in self._iter_kernels() if kernel.is_alive}
        self._memory = {kernel: used for kernel, used in self._memory.items() if kernel in live}
        total = sum(self._memory.values())
        if self._total_memory_bytes is None or total <= self._total_memory_bytes:
            return
        largest = max(self._memory, key=self._memory.__getitem__)
        used = self._memory.pop(largest)
        await largest.kill(
            f"it used {used // MIB:,} MiB of memory, "
            f"and the limit of all sessions together is {self._total_memory_bytes // MIB:,} MiB"
        )

    def _find_excess(self, kernel: Kernel) -> str | None:
        if (reason := kernel.sandbox.find_memory_kill()) is not None:
            return reason
        memory = self._memory[kernel] = kernel.sandbox.measure_memory()
        if memory > self._limits.memory_bytes:
            return (
                f"it used {memory // MIB:,} MiB of memory, "
                f"its limit is {self._limits.memory_bytes // MIB:,} MiB"
            )
        disk, files = kernel.sandbox.folder.measure_usage()
        if disk > self._limits.disk_bytes:
            return (
                f"its files used {disk // MIB:,} MiB of disk, "
                f"its limit is {self._limits.disk_bytes // MIB:,} MiB"
            )
        if files > self._limits.file_count:
            return f"it created {files:,} files, its limit is {self._limits.file_count:,}"
        return kernel.sandbox.find_violation()

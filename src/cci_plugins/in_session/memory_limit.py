"""A limit on single allocations, so that one which is too large raises `MemoryError`.

Without it, the host ends the session once the memory is used. The limit stays `memory_bytes` above
what the process has, so it follows growth in small steps. That is for the host to end.
"""

from __future__ import annotations

import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

POLL_SECONDS = 0.02
RESERVED_BYTES = 512 << 20  # address space that a kernel reserves and never uses, as a guess


class MemoryLimit:
    """Keeps RLIMIT_DATA above the memory of this process while a run is in progress.

    Args:
        memory_bytes: Largest single allocation.
        resource: The module `resource`, which Windows lacks.
    """

    def __init__(self, memory_bytes: int, resource: Any) -> None:
        self._memory_bytes = memory_bytes
        self._resource = resource
        self._is_running = threading.Event()

    def install(self, kernel: Any) -> None:
        """Set the limit, and follow each run."""
        do_execute = kernel.do_execute

        async def execute(*arguments: Any, **options: Any) -> Any:
            self._is_running.set()
            try:
                return await do_execute(*arguments, **options)
            finally:
                self._is_running.clear()

        self.update()
        kernel.do_execute = execute
        threading.Thread(target=self._follow, daemon=True).start()

    def update(self) -> None:
        """Set the limit from what the process has now."""
        data = self._measure()
        soft, hard = self._resource.getrlimit(self._resource.RLIMIT_DATA)
        limit = data + self._memory_bytes
        if hard in {-1, self._resource.RLIM_INFINITY} and soft != limit:
            self._resource.setrlimit(self._resource.RLIMIT_DATA, (limit, hard))

    def _follow(self) -> None:
        stopped = threading.Event()
        while not stopped.wait(POLL_SECONDS):
            self._is_running.wait()
            with suppress(OSError, ValueError):
                self.update()

    def _measure(self) -> int:
        """Return the private memory that this process has mapped, in bytes."""
        with suppress(OSError):  # Landlock hides /proc
            fields = Path("/proc/self/statm").read_text().split()
            return int(fields[5]) * int(self._resource.getpagesize())
        usage = self._resource.getrusage(self._resource.RUSAGE_SELF)
        return int(usage.ru_maxrss) * 1024 + RESERVED_BYTES


def limit_memory(kernel: Any, memory_bytes: int) -> None:
    """Limit single allocations of a session, where the operating system can."""
    with suppress(Exception):
        import resource  # noqa: PLC0415 - Windows has none

        MemoryLimit(memory_bytes, resource).install(kernel)

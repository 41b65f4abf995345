"""The watchdog names the limit that a session exceeds."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import anyio
import pytest

from cci_plugins.common.limits import MIB, SandboxLimits
from cci_plugins.pools.local import watchdog
from cci_plugins.pools.local.watchdog import Watchdog

pytestmark = pytest.mark.anyio
LIMITS = SandboxLimits(memory_bytes=100 * MIB, disk_bytes=10 * MIB, file_count=1000)


class Kernel(SimpleNamespace):
    """A kernel with given measures, which records why it was ended."""

    __hash__ = object.__hash__

    def __init__(
        self,
        memory: int,
        usage: tuple[int, int] = (0, 0),
        violation: str | None = None,
        memory_kill: str | None = None,
    ) -> None:
        def measure_memory() -> int:
            if memory < 0:
                raise OSError("it has ended")
            return memory * MIB

        sandbox = SimpleNamespace(
            measure_memory=measure_memory,
            folder=SimpleNamespace(measure_usage=lambda: usage),
            find_violation=lambda: violation,
            find_memory_kill=lambda: memory_kill,
        )
        super().__init__(is_alive=True, reason=None, sandbox=sandbox)

    async def kill(self, reason: str) -> None:
        self.is_alive, self.reason = False, reason


async def watch(*kernels: Kernel, total: int | None = None) -> list[str | None]:
    listed: Any = [(kernel, True) for kernel in kernels]
    with pytest.MonkeyPatch.context() as patch, anyio.move_on_after(0.2):
        patch.setattr(watchdog, "BUSY_SECONDS", 0.005)
        await Watchdog(LIMITS, lambda: listed, total).run()
    return [kernel.reason for kernel in kernels]


async def test_a_session_beyond_a_limit_ends_and_the_reason_names_it() -> None:
    reasons = await watch(
        Kernel(101),
        Kernel(1, (11 * MIB, 0)),
        Kernel(1, (0, 1001)),
        Kernel(1, violation="it hid a process"),
        Kernel(1, memory_kill="it used all of its memory"),
        Kernel(99),
        Kernel(-1),
    )
    assert reasons == [
        "it used 101 MiB of memory, its limit is 100 MiB",
        "its files used 11 MiB of disk, its limit is 10 MiB",
        "it created 1,001 files, its limit is 1,000",
        "it hid a process",
        "it used all of its memory",
        None,
        None,
    ]


async def test_the_largest_session_ends_when_all_use_too_much() -> None:
    reasons = await watch(Kernel(60), Kernel(70), Kernel(10), total=100 * MIB)
    assert reasons[0] is None
    assert reasons[1] == (
        "it used 70 MiB of memory, and the limit of all sessions together is 100 MiB"
    )

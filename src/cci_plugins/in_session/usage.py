"""Measurement of the processor time and the memory of one run."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path
from typing import Any

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

USAGE_KEY = "cci_usage"  # in the reply to an execute request
_PEAK = re.compile(r"^VmHWM:\s*(\d+) kB", re.MULTILINE)
_KIB = 1024


class UsageMeter:
    """Measures this process, and the child processes that have ended, from its creation on."""

    def __init__(self) -> None:
        self._can_reset = reset_peak()
        self._start = measure_processes()

    def read(self) -> dict[str, Any] | None:
        """Return `cpuSeconds` and `peakMemoryBytes`, or None where nothing can be measured."""
        before, after = self._start, measure_processes()
        if before is None or after is None:
            return None
        peak = (read_peak() if self._can_reset else 0) or after["own_peak"]
        if after["child_peak"] > before["child_peak"]:
            peak = max(peak, after["child_peak"])
        return {"cpuSeconds": max(after["cpu"] - before["cpu"], 0.0), "peakMemoryBytes": peak}


def measure_processes() -> dict[str, Any] | None:
    """Return the processor time in seconds, and the peaks of memory in bytes."""
    if resource is None:
        return None
    own = resource.getrusage(resource.RUSAGE_SELF)
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    unit = _KIB if Path("/proc").is_dir() else 1  # macOS counts bytes
    return {
        "cpu": own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime,
        "own_peak": own.ru_maxrss * unit,
        "child_peak": children.ru_maxrss * unit,
    }


def reset_peak() -> bool:
    """Let Linux measure the peak of this process from now on. Return whether it does."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        return True
    return False


def read_peak() -> int:
    """Return the peak of this process in bytes, or 0."""
    with suppress(OSError):
        match = _PEAK.search(Path("/proc/self/status").read_text(encoding="ascii"))
        return int(match[1]) * _KIB if match else 0
    return 0


def install_usage(kernel: Any) -> None:
    """Measure each run of a kernel, and add the result to its reply.

    Args:
        kernel: The kernel.
    """
    do_execute = kernel.do_execute

    async def execute(*arguments: Any, **options: Any) -> Any:
        meter = UsageMeter()
        reply = await do_execute(*arguments, **options)
        usage = meter.read()
        if isinstance(reply, dict) and usage is not None:
            reply[USAGE_KEY] = usage
        return reply

    kernel.do_execute = execute

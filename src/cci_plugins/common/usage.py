"""Resources that a run used."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

_MAX = 2**62


@dataclass(frozen=True, slots=True)
class Usage:
    """Resources that a run used, as the session measured them. Its code can falsify them.

    Attributes:
        cpu_seconds: Processor time of the Python process and of child processes that have ended.
        peak_memory_bytes: Largest memory of one of these processes during the run. Where the
            system cannot measure the run alone, it is the largest since the process began.
    """

    cpu_seconds: float
    peak_memory_bytes: int


def load_usage(value: object) -> Usage | None:
    """Read what a session measured. Return None if it sent nothing, or nothing valid."""
    if not isinstance(value, Mapping):
        return None
    cpu, peak = value.get("cpuSeconds"), value.get("peakMemoryBytes")
    if isinstance(cpu, bool) or not isinstance(cpu, int | float) or type(peak) is not int:
        return None
    if not (0 <= cpu < _MAX and 0 <= peak < _MAX):
        return None
    return Usage(float(cpu), peak)

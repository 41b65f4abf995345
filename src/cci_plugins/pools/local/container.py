"""Limits of sessions that share the memory and CPUs of one container."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path

from cci_plugins.common.limits import MIB, SandboxLimits
from cci_plugins.errors import ConfigurationError

# Measured on Linux with Python 3.11: the idle server takes 60 MiB, and a ready kernel that has
# imported numpy, pandas and matplotlib 116 MiB. The rest is for output and files on their way.
SERVER_BYTES = 136 * MIB
READY_KERNEL_BYTES = 120 * MIB
_MIN_SESSION_BYTES = 128 * MIB
_MIN_ADDRESS_SPACE = 2048 * MIB  # numpy with its threads reserves about 1 GiB and uses little of it
_UNITS = {"": 1, "K": 1000, "M": 1000**2, "G": 1000**3, "Ki": 1024, "Mi": MIB, "Gi": 1024 * MIB}
_QUANTITY = re.compile(r"(\d+(?:\.\d+)?)(Ki|Mi|Gi|K|M|G|)")
_CGROUP_FILES = (
    "/sys/fs/cgroup/memory.max",
    "/sys/fs/cgroup/memory/memory.limit_in_bytes",  # version 1
)


def parse_memory(text: str) -> int:
    """Return the bytes of a quantity such as `2Gi`.

    Raises:
        ConfigurationError: It is not a quantity.
    """
    match = _QUANTITY.fullmatch(text.strip())
    if match is None or not float(match[1]):
        raise ConfigurationError(
            f"{text!r} is not an amount of memory", hint="write it like 2Gi or 512Mi"
        )
    return int(float(match[1]) * _UNITS[match[2]])


def read_cgroup_memory(files: tuple[str, ...] = _CGROUP_FILES) -> int | None:
    """Return the memory limit of this process's cgroup, or None without one."""
    for name in files:
        try:
            text = Path(name).read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError):
            continue
        return int(text) if text.isdigit() else None
    return None


def compute_total_memory(memory: str, ready_sessions: int) -> int:
    """Return the bytes that all sessions of a container may use together.

    Args:
        memory: The container's memory, such as `2Gi`. A smaller limit of the cgroup counts.
        ready_sessions: Number of kernels that are kept ready.
    """
    available = parse_memory(memory)
    cgroup = read_cgroup_memory()
    if cgroup is not None:
        available = min(available, cgroup)
    reserved = SERVER_BYTES + ready_sessions * READY_KERNEL_BYTES
    return max(available - reserved, _MIN_SESSION_BYTES)


def compute_limits(total_bytes: int | None, cpu: float | None) -> SandboxLimits:
    """Return the limits of one session, which may use all of what the sessions share.

    Args:
        total_bytes: Memory of all sessions together. None keeps the default limits.
        cpu: CPUs of the container. None keeps the default number of threads.
    """
    limits = SandboxLimits()
    if cpu is not None:
        limits = replace(limits, threads=max(1, math.ceil(cpu)))
    if total_bytes is None:
        return limits
    return replace(
        limits,
        memory_bytes=total_bytes,
        address_space_bytes=max(2 * total_bytes, _MIN_ADDRESS_SPACE),
        # these files may live in memory
        disk_bytes=min(limits.disk_bytes, total_bytes // 2),
        scratch_bytes=min(limits.scratch_bytes, total_bytes // 4),
    )

"""What every fence tells the kernel it starts: its environment, connection and limits."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from cci_plugins.common.limits import SandboxLimits

from .base import KernelSpec

SOCKETS = tuple(f"k-{number}" for number in range(1, 6))
LOCAL_PATH = "/usr/local/bin:/usr/bin:/bin"


@dataclass(frozen=True, slots=True)
class SandboxOptions:
    """The part of a session's description that differs from fence to fence.

    Attributes:
        uid: User id to take before anything else, when started as root.
        read_anywhere: Keep the right to read past file modes.
        readable: Paths for Landlock to leave readable; None for no Landlock.
        writable: Paths for Landlock to leave writable.
        filter: The first seccomp program.
        seal: The second one, set once the kernel listens.
        hosted: The session lives in a folder of the host, under a shim.
        watch_stdin: End when standard input ends.
        lifeline: Standard input tells, until the kernel starts, whether the app is still there.
        other_threads: Threads outside the session that count against its limit of processes.
    """

    uid: int | None = None
    read_anywhere: bool = False
    readable: tuple[str, ...] | None = None
    writable: tuple[str, ...] = ()
    filter: bytes = b""
    post_start_filter: bytes = b""
    has_host_folder: bool = False
    watch_stdin: bool = False
    lifeline: bool = False
    other_threads: int = 0


def build_environment(home: str, scratch: str, python: str) -> dict[str, str]:
    """Every environment variable of a session; nothing is inherited."""
    return {
        "PATH": f"{python.rpartition('/')[0]}:{LOCAL_PATH}",
        "HOME": home,
        "USER": "session",
        "LOGNAME": "session",
        "LANG": "C.UTF-8",
        "TMPDIR": scratch,
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONNOUSERSITE": "1",
        "IPYTHONDIR": f"{home}/.ipython",
        "MPLCONFIGDIR": f"{home}/.mpl",
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        "OPENBLAS_NUM_THREADS": "2",
        "OMP_NUM_THREADS": "2",
        "MKL_NUM_THREADS": "2",
        "NUMEXPR_MAX_THREADS": "2",
        "MALLOC_ARENA_MAX": "2",
    }


def build_resource_limits(limits: SandboxLimits, other_threads: int = 0) -> dict[str, int]:
    """The limits as RLIMIT names."""
    return {
        "AS": limits.address_space_bytes,
        "NPROC": limits.processes + other_threads,
        "FSIZE": limits.file_bytes,
        "NOFILE": limits.open_files,
        "CORE": 0,
    }


def connection(ip: str, key: str, *, ports: tuple[int, ...] = ()) -> dict[str, Any]:
    """Jupyter's connection info: Unix sockets `ip-1` to `ip-5`, or TCP where ports are given."""
    names = ("shell_port", "iopub_port", "stdin_port", "control_port", "hb_port")
    return {
        "transport": "tcp" if ports else "ipc",
        "ip": ip,
        "key": key,
        "signature_scheme": "hmac-sha256",
        "kernel_name": "python3",
        **dict(zip(names, ports or range(1, 6), strict=True)),
    }


def describe_session(
    spec: KernelSpec,
    options: SandboxOptions,
    *,
    kernel_connection: dict[str, Any],
    connection_file: str,
    check: dict[str, Any] | None = None,
) -> bytes:
    """The JSON that boot.py reads.

    Args:
        spec: The kernel.
        fence: How it is fenced.
        inside: Connection info as the kernel must use it.
        connection_file: Where the kernel may write that down.
        check: What to check instead of starting a kernel.
    """
    text = {
        "connection": kernel_connection,
        "connection_file": connection_file,
        "arguments": list(spec.arguments),
        "limits": build_resource_limits(spec.limits, options.other_threads),
        "uid": options.uid,
        "read_anywhere": options.read_anywhere,
        "readable": None if options.readable is None else list(options.readable),
        "writable": list(options.writable),
        "filter": options.filter.hex(),
        "seal": options.post_start_filter.hex(),
        "hosted": options.has_host_folder,
        "watch_stdin": options.watch_stdin,
        "lifeline": options.lifeline,
        "check": check,
    }
    return json.dumps(text).encode()


def describe_limits(limits: SandboxLimits) -> str:
    """The limits in words, for one line in a log."""
    mib = 1024**2
    return (
        f"{limits.memory_bytes // mib} MiB memory, {limits.processes} processes, "
        f"{limits.disk_bytes // mib} MiB files"
    )

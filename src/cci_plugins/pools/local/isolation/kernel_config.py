"""Configuration that every backend gives its kernel: environment, connection and limits."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from typing import Any

from cci_plugins.common.limits import MIB, SandboxLimits
from cci_plugins.pools.base import DATA_FOLDER

from .base import KernelSpec

SOCKETS = tuple(f"k-{number}" for number in range(1, 6))
SESSION_FOLDER = "SESSION_FOLDER"  # in a session: the absolute path of its files
LOCAL_PATH = "/usr/local/bin:/usr/bin:/bin"
# Files of the host that programs read: the dynamic loader, fonts, time zone, certificates, types.
SYSTEM_FILES = (
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
    "/etc/alternatives",
    "/etc/fonts",
    "/etc/localtime",
    "/etc/ssl/certs",
    "/etc/mime.types",
)


@dataclass(frozen=True, slots=True)
class SandboxOptions:
    """The part of a session's description that differs between backends.

    Attributes:
        uid: User id to take before anything else, when started as root.
        read_anywhere: Keep the right to read files whatever their mode.
        readable: Paths that stay readable under Landlock. None for no Landlock.
        writable: Paths that stay writable under Landlock.
        own_domain: Keep the session's processes apart from all others by Landlock, if it is there.
        filter: The first seccomp program.
        post_start_filter: The second seccomp program, set once the kernel listens.
        has_host_folder: The session lives in a folder of the host, below a supervisor.
        watch_stdin: End the process when standard input is closed.
        lifeline: Until the kernel starts, a closed standard input means that the app has ended.
        other_threads: Threads outside the session that count against its limit of processes.
        paths: More folders of packages (`Interpreter.paths`).
        channel: Descriptor of the session's end of the socket for host tools.
    """

    uid: int | None = None
    read_anywhere: bool = False
    readable: tuple[str, ...] | None = None
    writable: tuple[str, ...] = ()
    own_domain: bool = False
    filter: bytes = b""
    post_start_filter: bytes = b""
    has_host_folder: bool = False
    watch_stdin: bool = False
    lifeline: bool = False
    other_threads: int = 0
    paths: tuple[str, ...] = ()
    channel: int | None = None


def build_environment(
    home: str,
    scratch: str,
    python: str,
    data: str = DATA_FOLDER,
    paths: tuple[str, ...] = (),
) -> dict[str, str]:
    """Build every environment variable of a session. Nothing is inherited.

    Args:
        home: The session's home folder.
        scratch: Its folder for temporary files.
        python: The path of its interpreter.
        data: The folder of its files.
        paths: More folders of packages, for the Python programs that its code starts.
    """
    search_path = {"PYTHONPATH": os.pathsep.join(paths)} if paths else {}
    return search_path | {
        SESSION_FOLDER: data,
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
        "MALLOC_ARENA_MAX": "2",
    }


def _build_thread_variables(threads: int) -> dict[str, str]:
    names = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_MAX_THREADS")
    return dict.fromkeys(names, str(threads))


def build_resource_limits(limits: SandboxLimits, other_threads: int = 0) -> dict[str, int]:
    """Build the resource limits, keyed by the ends of the RLIMIT names."""
    return {
        "AS": limits.address_space_bytes,
        "NPROC": limits.processes + other_threads,
        "FSIZE": limits.file_bytes,
        "NOFILE": limits.open_files,
        "CORE": 0,
    }


def build_connection_info(ip: str, key: str, *, ports: tuple[int, ...] = ()) -> dict[str, Any]:
    """Build Jupyter's connection info.

    Args:
        ip: An address for TCP, or the path prefix of the Unix sockets `ip-1` to `ip-5`.
        key: The HMAC key of the messages, in hex.
        ports: The five TCP ports. Empty for Unix sockets.
    """
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
    """Build the JSON that boot.py reads.

    Args:
        spec: The kernel.
        options: How it is isolated.
        kernel_connection: Connection info for the kernel's side.
        connection_file: Where boot.py writes that info for the kernel.
        check: A self-check to run in place of the kernel.
    """
    description = {
        **asdict(options),
        "filter": options.filter.hex(),
        "post_start_filter": options.post_start_filter.hex(),
        "connection": kernel_connection,
        "connection_file": connection_file,
        "arguments": spec.arguments,
        "environment": {**_build_thread_variables(spec.limits.threads), **spec.environment},
        "limits": build_resource_limits(spec.limits, options.other_threads),
        "check": check,
    }
    return json.dumps(description).encode()


def describe_limits(limits: SandboxLimits) -> str:
    """Return the limits as text for one line in a log."""
    return (
        f"{limits.memory_bytes // MIB} MiB memory, {limits.processes} processes, "
        f"{limits.disk_bytes // MIB} MiB files"
    )

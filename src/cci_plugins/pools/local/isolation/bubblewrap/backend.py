"""The `bwrap` backend: bubblewrap's namespaces, a seccomp filter, resource limits.

The argument vector is the sandbox. Its order matters, because bubblewrap applies it in order:
tmpfs mounts, then the interpreter (which may lie in /tmp or in the home folder), then the session's
own files, and at last the remounts that make `/`, `/dev` and `/proc` read-only. Nothing of the host
is mounted writable. No mount point lies in a folder that an earlier session could write to, where
it might have left a link for bubblewrap to follow (CVE-2026-87766).

An app that runs as root gets no user namespace. There, user id 1000 inside would still be root for
the kernel, which then neither protects /proc/sys nor counts processes. So bubblewrap keeps the two
capabilities by which boot.py becomes an unprivileged user, a different one for each session.
"""

from __future__ import annotations

import contextlib
import functools
import os
import platform
import re
import shutil
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

from cci_plugins.common.limits import MIB, SandboxLimits
from cci_plugins.common.settings import IsolationName
from cci_plugins.errors import IsolationError
from cci_plugins.pools.local.isolation import self_check, uids
from cci_plugins.pools.local.isolation.base import Isolation, KernelSpec, Sandbox
from cci_plugins.pools.local.isolation.interpreter import Interpreter, inspect
from cci_plugins.pools.local.isolation.kernel_config import (
    SYSTEM_FILES,
    SandboxOptions,
    build_connection_info,
    build_environment,
    build_resource_limits,
    describe_limits,
    describe_session,
)
from cci_plugins.pools.local.isolation.launcher import LAUNCHER
from cci_plugins.pools.local.isolation.managed_process import run_program, wait_for_sockets
from cci_plugins.pools.local.isolation.memory import count_own_threads
from cci_plugins.pools.local.isolation.seccomp import build_session_filter, check_machine

from .sandbox import BOOT, DATA, HOME, SCRATCH, SHARED, SOCKET_FOLDER, BwrapSandbox

_OLDEST_VERSION, _SIZED_TMPFS, _NO_NESTED_NAMESPACES = (0, 5), (0, 7), (0, 8)
_LIMITS_BY_NAMESPACE = (5, 14)  # the first Linux that counts RLIMIT_NPROC by user namespace
_PLAIN_UID = 1000
_SHARED_BYTES, _HOME_BYTES, _SOCKET_BYTES = 128 * MIB, 64 * MIB, MIB
_BOOT_FILES = ("boot.py", "lockdown.py", "child_output.py")


@dataclass(frozen=True, slots=True)
class Bubblewrap:
    """An installed bubblewrap."""

    path: str
    version: tuple[int, ...]

    @property
    def supports_tmpfs_size(self) -> bool:
        """Whether it can limit the size of a file system in memory."""
        return self.version >= _SIZED_TMPFS

    def build_command(
        self,
        interpreter: Interpreter,
        limits: SandboxLimits,
        *,
        uid: int | None,
        files: Mapping[str, int],
        info: int,
        program: int,
    ) -> list[str]:
        """Build the argument vector.

        Args:
            interpreter: The Python inside.
            limits: Sizes of the file systems.
            uid: The user id that boot.py takes when the app runs as root, else None.
            files: Files to create inside, each with a descriptor of its content.
            info: Descriptor where bubblewrap writes the id of the sandbox's first process.
            program: Descriptor of the seccomp program.
        """
        return [
            self.path,
            *self._build_namespace_arguments(root=uid is not None),
            *_build_system_arguments(),
            *self._build_tmpfs_arguments(SCRATCH, limits.scratch_bytes, "1777"),
            *self._build_tmpfs_arguments(HOME, _HOME_BYTES),
            *self._build_tmpfs_arguments(SHARED, _SHARED_BYTES, "1777"),
            # after the tmpfs mounts: a virtual environment may lie in /tmp
            *_build_parent_arguments(interpreter.folders),
            *(part for folder in interpreter.folders for part in ("--ro-bind", folder, folder)),
            *self._build_tmpfs_arguments(DATA, limits.disk_bytes),
            *self._build_tmpfs_arguments(SOCKET_FOLDER, _SOCKET_BYTES),
            *(
                part
                for path, content in files.items()
                for part in ("--perms", "0444", "--file", str(content), path)
            ),
            *_build_environment_arguments(interpreter),
            *("--chdir", DATA, "--info-fd", str(info), "--seccomp", str(program)),
            # without these, / and /dev are writable file systems in memory without a limit, and
            # code can change the sandbox's first process by /proc/1/mem, and its own OOM score
            *("--remount-ro", "/proc", "--remount-ro", "/dev", "--remount-ro", "/"),
            *("--", interpreter.executable, "-I", f"{BOOT}/boot.py", f"{BOOT}/session.json"),
        ]

    def _build_namespace_arguments(self, *, root: bool) -> list[str]:
        """Add new namespaces and drop all rights, except two for boot.py as root."""
        parts = ["--unshare-ipc", "--unshare-pid", "--unshare-uts", "--unshare-cgroup-try"]
        parts += ["--unshare-net", "--hostname", "session", "--die-with-parent", "--new-session"]
        parts += ["--clearenv", "--cap-drop", "ALL"]
        if root:
            return [*parts, "--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
        parts += ["--unshare-user", "--uid", str(_PLAIN_UID), "--gid", str(_PLAIN_UID)]
        return parts + ["--disable-userns"] * (self.version >= _NO_NESTED_NAMESPACES)

    def _build_tmpfs_arguments(self, path: str, size: int, mode: str = "0777") -> list[str]:
        limit = ["--size", str(size)] if self.supports_tmpfs_size else []
        return ["--perms", mode, *limit, "--tmpfs", path]


async def find_bubblewrap() -> Bubblewrap:
    """Find the installed bubblewrap.

    Raises:
        IsolationError: None is installed, or it cannot be used.
    """
    # /usr/bin first: Ubuntu's AppArmor profile names that path
    path = shutil.which("bwrap", path="/usr/bin") or shutil.which("bwrap")
    if path is None:
        raise IsolationError("bubblewrap is not installed", hint="apt install bubblewrap")
    if os.stat(path).st_mode & (stat.S_ISUID | stat.S_ISGID):  # noqa: PTH116 - one call
        raise IsolationError(f"{path} is set-uid root", hint="install a bubblewrap without set-uid")
    check_machine()
    text = (await run_program(path, "--version"))[1].decode(errors="replace")
    version = tuple(map(int, re.findall(r"\d+", text)[:3]))
    if version < _OLDEST_VERSION:
        raise IsolationError(f"{path} is too old: {text.strip()}", hint="upgrade bubblewrap to 0.8")
    return Bubblewrap(path, version)


class BwrapIsolation(Isolation):
    """Backend of namespaces: no host files, processes, network or names are visible."""

    name: ClassVar[IsolationName] = "bwrap"

    def __init__(self, limits: SandboxLimits) -> None:
        self._limits = limits
        self._bwrap: Bubblewrap | None = None

    def describe(self) -> str:
        """Return one line for people: the backend and the session's limits."""
        version = ".".join(map(str, self._bwrap.version)) if self._bwrap else "?"
        return f"bwrap {version} + seccomp; network none; {describe_limits(self._limits)}"

    async def run_self_check(self, spec: KernelSpec) -> None:
        """Start a sandbox once and check it from inside.

        Raises:
            IsolationError: bubblewrap cannot be used here, or a check failed.
        """
        self._bwrap = await find_bubblewrap()
        if not self._bwrap.supports_tmpfs_size:
            self.limitations = (
                "this bubblewrap is older than 0.7, so only the watchdog limits files in memory",
            )
        interpreter = await inspect(spec.python)
        start = functools.partial(self._start, spec, interpreter)
        await self_check.run(self.name, interpreter, start, own_network=True)

    async def launch(self, spec: KernelSpec) -> Sandbox:
        """Start a kernel and wait until its sockets accept connections.

        Raises:
            IsolationError: The sandbox could not be started.
        """
        interpreter = (await inspect(spec.python)).with_packages(spec.packages)
        sandbox = await self._start(spec, interpreter)
        async with sandbox.kill_on_failure():
            async with sandbox.confine_memory(spec.limits):
                await wait_for_sockets(sandbox.sockets, sandbox.child)
            sandbox.find_kernel()
        return sandbox

    async def _start(
        self, spec: KernelSpec, interpreter: Interpreter, check: dict[str, Any] | None = None
    ) -> BwrapSandbox:
        bwrap = self._bwrap or await find_bubblewrap()
        uid = uids.allocate() if uids.can_allocate() else None
        with uids.release_on_failure(uid):
            sandbox = BwrapSandbox(uid)
        async with sandbox.kill_on_failure():
            options = SandboxOptions(
                uid=uid,
                writable=(SCRATCH, HOME, SHARED, DATA, SOCKET_FOLDER),
                own_domain=True,
                lifeline=True,
                other_threads=_count_other_threads(uid),
                paths=interpreter.paths,
                channel=sandbox.tool_socket.descriptor,
            )
            session = _describe(spec, options, check)
            with contextlib.ExitStack() as stack:
                files = {
                    path: stack.enter_context(_open_memory_file(data))
                    for path, data in _build_files(session, uid).items()
                }
                program = build_session_filter(own_network=True, guard_metadata=False)
                filter_ = stack.enter_context(_open_memory_file(program))
                # Not a pipe: if the app ended, bubblewrap would die of writing to it and leave
                # its init behind.
                info = stack.enter_context(_open_memory_file(b""))
                command = bwrap.build_command(
                    interpreter, spec.limits,
                    uid=uid, files=files, info=info, program=filter_,
                )  # fmt: skip
                inherited = [*files.values(), filter_, info]
                await sandbox.start(command, inherited)
                if check is None:
                    await sandbox.attach(info, session, spec.key)
                    other_threads = _count_other_threads(uid)
                    sandbox.limit_first_process(build_resource_limits(spec.limits, other_threads))
                else:
                    await sandbox.attach_check(info)
        return sandbox


def _build_system_arguments() -> list[str]:
    """Mount the machine's programs and libraries, /proc and a small /dev."""
    parts = ["--ro-bind", "/usr", "/usr"]
    for path in ("/etc", "/home", "/mnt", "/run", BOOT):
        parts += ["--perms", "0755", "--dir", path]
    for name in ("bin", "sbin", "lib", "lib32", "lib64", "libx32", "nix/store"):
        path = f"/{name}"
        if Path(path).is_symlink():
            parts += ["--symlink", str(Path(path).readlink()), path]
        elif Path(path).is_dir():
            parts += ["--ro-bind", path, path]
    for file in SYSTEM_FILES:
        parts += ["--ro-bind-try", file, file]
    return [*parts, "--proc", "/proc", "--ro-bind", "/proc/sys", "/proc/sys", "--dev", "/dev"]


def _build_parent_arguments(folders: tuple[str, ...]) -> list[str]:
    """Create the parents of these folders, which bubblewrap would create for root alone."""
    above = {str(parent) for folder in folders for parent in PurePosixPath(folder).parents}
    parents = sorted(above - {"/", SCRATCH, HOME, SHARED})
    return [part for path in parents for part in ("--perms", "0755", "--dir", path)]


def _build_environment_arguments(interpreter: Interpreter) -> list[str]:
    values = build_environment(HOME, SCRATCH, interpreter.executable, DATA, interpreter.paths)
    return [part for name, value in values.items() for part in ("--setenv", name, value)]


def _describe(spec: KernelSpec, options: SandboxOptions, check: dict[str, Any] | None) -> bytes:
    return describe_session(
        spec,
        options,
        kernel_connection=build_connection_info(f"{SOCKET_FOLDER}/k", spec.key),
        connection_file=f"{SOCKET_FOLDER}/connection.json",
        check=check,
    )


def _build_files(session: bytes, uid: int | None) -> dict[str, bytes]:
    """Build the files of the sandbox by path: boot.py's, and the few of /etc for name lookups."""
    user = uid or _PLAIN_UID
    return {
        "/etc/passwd": f"session:x:{user}:{user}::{HOME}:/bin/sh\n".encode(),
        "/etc/group": f"session:x:{user}:\n".encode(),
        "/etc/hosts": b"127.0.0.1 localhost session\n::1 localhost\n",
        "/etc/nsswitch.conf": b"passwd: files\ngroup: files\nhosts: files\n",
        **{f"{BOOT}/{name}": (LAUNCHER / name).read_bytes() for name in _BOOT_FILES},
        f"{BOOT}/session.json": session,
    }


def _count_other_threads(uid: int | None) -> int:
    """Count the threads outside that count against the session's limit of processes."""
    release = tuple(map(int, re.findall(r"\d+", platform.release())[:2]))
    return count_own_threads() if uid is None and release < _LIMITS_BY_NAMESPACE else 0


@contextlib.contextmanager
def _open_memory_file(content: bytes) -> Iterator[int]:
    """Open a descriptor from which this content can be read."""
    file = os.memfd_create("cci")
    try:
        os.write(file, content)
        os.lseek(file, 0, os.SEEK_SET)
        yield file
    finally:
        os.close(file)

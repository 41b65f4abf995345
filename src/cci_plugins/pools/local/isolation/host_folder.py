"""Sessions in a temporary folder of the host, held by a shim: what three fences share."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import tempfile
from abc import abstractmethod
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio

from cci_plugins.common.limits import SandboxLimits
from cci_plugins.errors import IsolationError
from cci_plugins.pools.local.folder.session_folder import SessionFolder
from cci_plugins.pools.local.isolation.launcher import LAUNCHER

from . import uids
from .base import Isolation, KernelSpec, Sandbox
from .interpreter import Interpreter, inspect
from .kernel_config import SOCKETS, SandboxOptions, build_environment, connection, describe_session
from .launcher import supervisor
from .managed_process import ManagedProcess, ShieldedStart, wait_for_sockets
from .memory import count_own_threads, iter_descendants, list_children, measure_tree

PREFIX = "cci-"
_FOLDERS = ("data", "tmp", "home", "k")
_SOCKET_PATH_BYTES = 107
_END_SECONDS = 15.0


class HostFolderIsolation(Isolation):
    """A fence without a mount namespace; subclasses say how a session is fenced."""

    def __init__(self, limits: SandboxLimits) -> None:
        self._limits = limits

    @abstractmethod
    def _build_options(
        self, base: str, interpreter: Interpreter, uid: int | None
    ) -> SandboxOptions:
        """How a session in this folder is fenced."""

    def _build_wrapper_command(self, base: str, interpreter: Interpreter) -> list[str]:
        """A command to put before the interpreter's."""
        del base, interpreter
        return []

    def _allocate_uid(self) -> int | None:
        """The user id to take, when we are root and the fence changes it."""
        return None

    async def launch(self, spec: KernelSpec) -> Sandbox:
        """Start a kernel and wait until it listens.

        Raises:
            IsolationError: The fence could not be put up.
        """
        sandbox = await self._start(spec, await inspect(spec.python))
        try:
            await wait_for_sockets(sandbox.sockets, sandbox.child)
        except BaseException:
            with anyio.CancelScope(shield=True):
                await sandbox.kill()
            raise
        return sandbox

    async def _start(
        self, spec: KernelSpec, interpreter: Interpreter, check: dict[str, Any] | None = None
    ) -> HostFolderSandbox:
        uid = self._allocate_uid()
        sandbox = HostFolderSandbox(uid)
        try:
            base = sandbox.create_folders(spec)
            options = self._build_options(base, interpreter, uid)
            if uid is None and sys.platform == "linux":
                options = replace(options, other_threads=count_own_threads())
            session = sandbox.write_session_file(
                describe_session(
                    spec,
                    options,
                    kernel_connection=sandbox.connection,
                    connection_file=f"{base}/k/connection.json",
                    check=check,
                )
            )
            boot = LAUNCHER / "boot.py"
            kernel = [interpreter.executable, "-I", str(boot), session]
            await sandbox.start(
                interpreter, [*self._build_wrapper_command(base, interpreter), *kernel]
            )
        except BaseException:
            with anyio.CancelScope(shield=True):
                await sandbox.kill()
            raise
        return sandbox


class HostFolderSandbox(Sandbox):
    """A kernel below a shim, in a folder that the shim removes."""

    child: ManagedProcess
    sockets: int

    def __init__(self, uid: int | None) -> None:
        self._uid = uid
        self._base = ""
        self._shielded_start: ShieldedStart | None = None
        self._supervisor_stdin: int | None = None  # the write end of the shim's standard input
        self._is_released = False

    def create_folders(self, spec: KernelSpec) -> str:
        """Make the session's folders, private to its user."""
        base = self._base = tempfile.mkdtemp(prefix=PREFIX)
        address = f"{base}/k/k"
        if len(os.fsencode(f"{base}/k/{SOCKETS[0]}")) > _SOCKET_PATH_BYTES:
            raise IsolationError(
                f"{base} is too long a path for sockets", hint="set TMPDIR to a shorter folder"
            )
        owner = None if self._uid is None else (self._uid, self._uid)
        for place in [base, *(f"{base}/{name}" for name in _FOLDERS)]:
            if place != base:
                Path(place).mkdir(0o700)
            if owner is not None:
                os.chown(place, *owner)
        data, scratch, home, self.sockets = (_open_directory(f"{base}/{name}") for name in _FOLDERS)
        # the session's scratch space counts as well
        self.folder = SessionFolder(
            data, owner=owner, capacity=spec.limits.disk_bytes, scratch=(scratch, home)
        )
        self.connection = connection(address, spec.key)
        return base

    def write_session_file(self, session: bytes) -> str:
        """Write down what boot.py reads and removes; the file's path."""
        path = Path(self._base, "session.json")
        path.write_bytes(session)
        return str(path)

    async def start(self, interpreter: Interpreter, command: list[str]) -> None:
        """Start the shim, and below it the command."""
        base = self._base
        receive, self._supervisor_stdin = os.pipe()
        try:
            self._shielded_start = ShieldedStart(
                ManagedProcess.start(
                    [interpreter.executable, "-I", "-S", supervisor.__file__, base, *command],
                    env=build_environment(
                        f"{base}/home", f"{base}/{_FOLDERS[1]}", interpreter.executable
                    ),
                    cwd=f"{base}/data",
                    stdin=receive,
                )
            )
            self.child = await self._shielded_start.child()
        finally:
            os.close(receive)

    async def wait(self) -> int:
        """Wait until the kernel has ended; its exit status."""
        return await self.child.wait()

    def interrupt(self) -> None:
        """Have the shim send SIGINT to the kernel."""
        if self._supervisor_stdin is not None:
            with contextlib.suppress(OSError):
                os.write(self._supervisor_stdin, b"i")

    async def kill(self) -> None:
        """Have the shim end every process and remove the folder; see to it ourselves if not."""
        supervisor_stdin, self._supervisor_stdin = self._supervisor_stdin, None
        if supervisor_stdin is not None:
            os.close(supervisor_stdin)
        child = await self._shielded_start.get_child_or_none() if self._shielded_start else None
        if child is not None:
            self.child = child
            try:
                async with asyncio.timeout(_END_SECONDS):
                    await self.child.wait()
            except TimeoutError:
                for pid in iter_descendants(self.child.process.pid):
                    with contextlib.suppress(OSError):
                        os.kill(pid, signal.SIGKILL)
                await self.child.wait()
        if not self._is_released:
            self._is_released = True
            if hasattr(self, "folder"):
                self.folder.close()
                os.close(self.sockets)
            if self._base:
                try:
                    await anyio.to_thread.run_sync(supervisor.remove, self._base)
                except RuntimeError:  # from Python 3.12 on no thread starts at the program's end
                    supervisor.remove(self._base)
            uids.release(self._uid)

    def measure_memory(self) -> int:
        """Memory of all processes; files are on the host's disk, see `folder.usage()`."""
        if self.child.has_ended:
            return 0
        return sum(measure_tree(pid) for pid in list_children(self.child.process.pid))


def _open_directory(path: str) -> int:
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)

"""Sessions in a temporary folder of the host, below a supervisor.

The `landlock`, `seatbelt` and `process` backends share this, since none of them has a mount or PID
namespace. The folder `cci-…` holds `data` (the session's `/mnt/data`), `tmp`, `home`, `k` (the
kernel's sockets) and, until boot.py removes it, `session.json`. All are private to the session's
user. The supervisor ends the processes and removes the folder, even when the app has died.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import tempfile
from abc import abstractmethod
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from cci_plugins.common.limits import SandboxLimits
from cci_plugins.common.threads import run_in_thread
from cci_plugins.errors import IsolationError
from cci_plugins.in_session.program_support import WORKING_DIRECTORY_LINK
from cci_plugins.pools.base import DATA_FOLDER
from cci_plugins.pools.local.folder.session_folder import SessionFolder, open_all
from cci_plugins.pools.local.isolation.launcher import LAUNCHER

from . import uids
from .base import Isolation, KernelSpec, Sandbox
from .interpreter import Interpreter, inspect
from .kernel_config import (
    SOCKETS,
    SandboxOptions,
    build_connection_info,
    build_environment,
    describe_session,
)
from .launcher import supervisor
from .managed_process import ManagedProcess, ShieldedStart, wait_for_sockets
from .memory import count_own_threads, measure_sockets, measure_tree
from .open_files import OpenFiles
from .tool_sockets import InheritedSocket

PREFIX = "cci-"
_FOLDERS = ("data", "tmp", "home", "k")
_SOCKET_PATH_BYTES = 107
_END_SECONDS = 15.0


class HostFolderIsolation(Isolation):
    """Base of the backends without a mount namespace.

    Nothing can be mounted at `/mnt/data` for one session. An image may have a link there that
    leads to the working directory of whichever process follows it (`infra/container/Dockerfile`).
    """

    @property
    def folder(self) -> str:
        """Return `/mnt/data` where that link exists, or else `.`."""
        return get_folder()

    def __init__(self, limits: SandboxLimits) -> None:
        self._limits = limits

    @abstractmethod
    def _build_options(
        self, base: str, interpreter: Interpreter, uid: int | None
    ) -> SandboxOptions:
        """Build the options that isolate a session in this folder."""

    def _build_wrapper_command(self, base: str, interpreter: Interpreter) -> list[str]:
        """Build a command that runs the interpreter's command."""
        del base, interpreter
        return []

    def _allocate_uid(self) -> int | None:
        """Return the user id for a session of root, or None to keep the app's user."""
        return None

    async def launch(self, spec: KernelSpec) -> Sandbox:
        """Start a kernel and wait until its sockets accept connections.

        Raises:
            IsolationError: The sandbox could not be started.
        """
        interpreter = (await inspect(spec.python)).with_packages(spec.packages)
        sandbox = await self._start(spec, interpreter)
        async with sandbox.kill_on_failure(), sandbox.confine_memory(spec.limits):
            await wait_for_sockets(sandbox.sockets, sandbox.child)
        return sandbox

    async def _start(
        self, spec: KernelSpec, interpreter: Interpreter, check: dict[str, Any] | None = None
    ) -> HostFolderSandbox:
        uid = self._allocate_uid()
        with uids.release_on_failure(uid):
            sandbox = HostFolderSandbox(uid)
        async with sandbox.kill_on_failure():
            base = sandbox.create_folders(spec)
            options = replace(
                self._build_options(base, interpreter, uid),
                paths=interpreter.paths,
                channel=sandbox.tool_socket.descriptor,
            )
            sandbox.may_hide_files = options.readable is None
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
        return sandbox


class HostFolderSandbox(Sandbox):
    """A kernel below a supervisor, in a folder that the supervisor removes.

    Attributes:
        may_hide_files: Nothing isolates its processes, so one may run set-uid programs whose
            descriptors the app cannot read.
    """

    child: ManagedProcess
    sockets: int
    may_hide_files = False

    def __init__(self, uid: int | None) -> None:
        self.channel = self.tool_socket = InheritedSocket()
        self._uid = uid
        self._base = ""
        self._shielded_start: ShieldedStart | None = None
        self._supervisor_stdin: int | None = None  # the write end of its pipe
        self._is_released = False

    def create_folders(self, spec: KernelSpec) -> str:
        """Create the session's folders, private to its user, and return their parent.

        Raises:
            IsolationError: Its path is too long for the kernel's sockets.
        """
        base = self._base = tempfile.mkdtemp(prefix=PREFIX)
        address = f"{base}/k/k"
        if len(os.fsencode(f"{base}/k/{SOCKETS[0]}")) > _SOCKET_PATH_BYTES:
            raise IsolationError(
                f"the path {base} is too long for Unix sockets", hint="set TMPDIR to a shorter path"
            )
        owner = None if self._uid is None else (self._uid, self._uid)
        for path in [base, *(f"{base}/{name}" for name in _FOLDERS)]:
            if path != base:
                Path(path).mkdir(0o700)
            if owner is not None:
                os.chown(path, *owner)
        names = (*_FOLDERS, _FOLDERS[-1])  # the folder of the sockets twice, to close it apart
        opened = open_all([partial(_open_directory, f"{base}/{name}") for name in names])
        data, *scratch, self.sockets = opened
        self._open_files = OpenFiles(base, spec.limits.file_bytes)
        # every folder that the code can write to counts, and so do deleted files
        self.folder = SessionFolder(
            data,
            owner=owner,
            capacity=spec.limits.disk_bytes,
            scratch=tuple(scratch),
            measure_nameless=lambda: self._open_files.measure(self.list_roots()),
        )
        self.connection = build_connection_info(address, spec.key)
        return base

    def write_session_file(self, session: bytes) -> str:
        """Write the description that boot.py reads and removes, and return its path."""
        path = Path(self._base, "session.json")
        path.write_bytes(session)
        return str(path)

    async def start(self, interpreter: Interpreter, command: list[str]) -> None:
        """Start the supervisor, which starts the command."""
        base = self._base
        receive, self._supervisor_stdin = os.pipe()
        try:
            self._shielded_start = ShieldedStart(
                ManagedProcess.start(
                    [
                        *(interpreter.executable, "-I", "-S", supervisor.__file__, base),
                        str(self.tool_socket.descriptor),
                        *command,
                    ],
                    env=build_environment(
                        f"{base}/home",
                        f"{base}/{_FOLDERS[1]}",
                        interpreter.executable,
                        f"{base}/data",
                        interpreter.paths,
                    ),
                    cwd=f"{base}/data",
                    stdin=receive,
                    pass_fds=(self.tool_socket.descriptor,),
                )
            )
            self.child = await self._shielded_start.get_child()
        finally:
            os.close(receive)
            self.tool_socket.close_session_end()

    async def wait(self) -> int:
        """Wait until the kernel has ended and return its exit status."""
        return await self.child.wait()

    def interrupt(self) -> bool:
        """Ask the supervisor to send SIGINT to the kernel."""
        if self._supervisor_stdin is not None:
            with contextlib.suppress(OSError):
                os.write(self._supervisor_stdin, b"i")
        return True

    async def kill(self) -> None:
        """Ask the supervisor to end every process and remove the folder, and make sure of both."""
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
                pids = list(supervisor.iter_descendants(self.child.process.pid))
                for pid in pids:
                    with contextlib.suppress(OSError):
                        os.kill(pid, signal.SIGKILL)
                await self.child.wait()
                _reap(pids[1:])
        self.remove_cgroup()
        if not self._is_released:
            self._is_released = True
            self.tool_socket.close()
            if hasattr(self, "folder"):
                self.folder.close()
                os.close(self.sockets)
            if self._base:
                await run_in_thread(supervisor.remove_folder, self._base)
            uids.release(self._uid)

    def measure_memory(self) -> int:
        """Return the bytes that processes and sockets use. The session's files are on disk."""
        return sum(measure_tree(pid) + measure_sockets(pid) for pid in self.list_roots())

    def find_violation(self) -> str | None:
        """Return how the session evades its measurement, as a clause. None if it does not."""
        if self.may_hide_files:
            return None
        hidden = self._open_files.find_hidden_process(self.list_roots())
        return None if hidden is None else "one of its processes hides its open files"

    def list_roots(self) -> list[int]:
        """List the supervisor's children: the kernel, and processes that lost their parent."""
        is_running = hasattr(self, "child") and not self.child.has_ended
        return supervisor.list_children(self.child.process.pid) if is_running else []


def _reap(pids: list[int]) -> None:
    """Reap ended processes that have become children of the app, which then is process 1."""
    for pid in pids:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)


def get_folder() -> str:
    """Return `/mnt/data` where it leads to the working directory, or else `.`."""
    link = Path(DATA_FOLDER)
    try:
        return DATA_FOLDER if str(link.readlink()) == WORKING_DIRECTORY_LINK else "."
    except OSError:
        return "."


def _open_directory(path: str) -> int:
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)

"""The `process` backend: no isolation, only a clean environment and resource limits.

It is used only when someone asks for it by name. Windows, where it was not tried yet, has neither
Unix sockets nor resource limits, so there the kernel listens on TCP ports of the loopback address.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
import sys
import tempfile
from pathlib import Path
from typing import ClassVar

import anyio

from cci_plugins.common.settings import IsolationName
from cci_plugins.pools.local.folder.path_folder import PathFolder

from .base import KernelSpec, Sandbox
from .host_folder import PREFIX, HostFolderIsolation
from .interpreter import Interpreter, inspect
from .kernel_config import (
    SandboxOptions,
    build_connection_info,
    build_environment,
    describe_limits,
    describe_session,
)
from .launcher import LAUNCHER
from .managed_process import START_SECONDS, ManagedProcess
from .tool_sockets import LoopbackSocket

# Windows itself does not start programs without these.
_REQUIRED_VARIABLES = ("SYSTEMROOT", "SYSTEMDRIVE", "COMSPEC", "PATHEXT", "NUMBER_OF_PROCESSORS")
_LIMITATION = (
    "NOTHING is kept from the code: it runs as you, with your files, your network, and every "
    "token that your user can read"
)


class ProcessIsolation(HostFolderIsolation):
    """Backend that ends the processes it started and limits them, but hides nothing from them."""

    name: ClassVar[IsolationName] = "process"
    limitations = (_LIMITATION,)

    def describe(self) -> str:
        """Return one line for people: the backend and the session's limits."""
        return f"NONE (plain process); {describe_limits(self._limits)}"

    async def run_self_check(self, spec: KernelSpec) -> None:
        """Check only the interpreter, as this backend promises nothing else."""
        await inspect(spec.python)

    async def launch(self, spec: KernelSpec) -> Sandbox:
        """Start a kernel and wait until its sockets accept connections.

        Raises:
            IsolationError: It could not be started.
        """
        if sys.platform != "win32":
            return await super().launch(spec)
        sandbox = WindowsSandbox(spec)
        async with sandbox.kill_on_failure():
            await sandbox.start(spec)
        return sandbox

    def _build_options(
        self, base: str, interpreter: Interpreter, uid: int | None
    ) -> SandboxOptions:
        del base, interpreter
        return SandboxOptions(uid=uid, has_host_folder=True)


class WindowsSandbox(Sandbox):
    """One kernel process on Windows and its temporary folder."""

    child: ManagedProcess

    def __init__(self, spec: KernelSpec) -> None:
        self._base = Path(tempfile.mkdtemp(prefix=PREFIX))
        for name in ("data", "home", "tmp"):
            (self._base / name).mkdir()
        self._ports = _find_free_ports()
        self.folder = PathFolder(self._base / "data")
        self.connection = build_connection_info("127.0.0.1", spec.key, ports=self._ports)
        self.channel = self._tool_socket = LoopbackSocket(spec.key)

    async def start(self, spec: KernelSpec) -> None:
        """Start the kernel and wait until it listens.

        It ends when the app closes its standard input or ends.
        """
        interpreter = await inspect(spec.python)
        base, session = self._base, self._base / "session.json"
        session.write_bytes(
            describe_session(
                spec,
                SandboxOptions(has_host_folder=True, watch_stdin=True, paths=interpreter.paths),
                kernel_connection=self.connection,
                connection_file=str(base / "home" / "connection.json"),
            )
        )
        environment = build_environment(
            str(base / "home"),
            str(base / "tmp"),
            interpreter.executable,
            str(base / "data"),
            interpreter.paths,
        )
        environment |= {
            name: os.environ[name] for name in _REQUIRED_VARIABLES if name in os.environ
        }
        boot = LAUNCHER / "boot.py"
        self.child = await ManagedProcess.start(
            [interpreter.executable, "-I", str(boot), str(session)],
            env=environment,
            cwd=str(base / "data"),
            stdin=asyncio.subprocess.PIPE,
        )
        await self._wait_for_ports()

    async def _wait_for_ports(self) -> None:
        async with asyncio.timeout(START_SECONDS):
            for port in self._ports:
                while True:
                    if self.child.has_ended:
                        raise await self.child.build_exit_error("the kernel")
                    with contextlib.suppress(OSError):
                        _, writer = await asyncio.open_connection("127.0.0.1", port)
                        writer.close()
                        break
                    await asyncio.sleep(0.02)

    async def wait(self) -> int:
        """Wait until the kernel has ended and return its exit status."""
        return await self.child.wait()

    def interrupt(self) -> bool:
        """Return False: only the kernel's control channel takes interrupt requests on Windows."""
        return False

    async def kill(self) -> None:
        """End the kernel and remove its folder."""
        self._tool_socket.close()
        if hasattr(self, "child"):
            self.child.kill()
            await self.child.wait()
        await anyio.to_thread.run_sync(lambda: shutil.rmtree(self._base, ignore_errors=True))

    def measure_memory(self) -> int:
        """Return 0: memory is not measured on Windows."""
        return 0


def _find_free_ports() -> tuple[int, ...]:
    """Find five ports of the loopback address that are free now."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(5)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return tuple(each.getsockname()[1] for each in sockets)

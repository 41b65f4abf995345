"""An unfenced kernel on Windows: TCP on loopback, a folder by path. Not tried on Windows yet."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
import tempfile
from pathlib import Path

import anyio

from cci_plugins.pools.local.folder.path_folder import PathFolder
from cci_plugins.pools.local.isolation.launcher import LAUNCHER

from .base import KernelSpec, Sandbox
from .host_folder import PREFIX
from .interpreter import inspect
from .kernel_config import SandboxOptions, build_environment, connection, describe_session
from .managed_process import START_SECONDS, ManagedProcess

# Windows itself does not start programs without these.
_REQUIRED_VARIABLES = ("SYSTEMROOT", "SYSTEMDRIVE", "COMSPEC", "PATHEXT", "NUMBER_OF_PROCESSORS")


async def launch_unsandboxed(spec: KernelSpec) -> Sandbox:
    """Start a kernel that ends when our end of its standard input does.

    Raises:
        IsolationError: It could not be started.
    """
    sandbox = WindowsSandbox(spec)
    try:
        await sandbox.start(spec)
    except BaseException:
        with anyio.CancelScope(shield=True):
            await sandbox.kill()
        raise
    return sandbox


class WindowsSandbox(Sandbox):
    """One kernel process and its temporary folder."""

    child: ManagedProcess

    def __init__(self, spec: KernelSpec) -> None:
        self._base = Path(tempfile.mkdtemp(prefix=PREFIX))
        for name in ("data", "home", "tmp"):
            (self._base / name).mkdir()
        self._ports = _find_free_ports()
        self.folder = PathFolder(self._base / "data")
        self.connection = connection("127.0.0.1", spec.key, ports=self._ports)

    async def start(self, spec: KernelSpec) -> None:
        """Start the kernel and wait until it listens."""
        interpreter = await inspect(spec.python)
        base, session = self._base, self._base / "session.json"
        session.write_bytes(
            describe_session(
                spec,
                SandboxOptions(has_host_folder=True, watch_stdin=True),
                kernel_connection=self.connection,
                connection_file=str(base / "home" / "connection.json"),
            )
        )
        own = build_environment(str(base / "home"), str(base / "tmp"), interpreter.executable)
        own |= {name: os.environ[name] for name in _REQUIRED_VARIABLES if name in os.environ}
        boot = LAUNCHER / "boot.py"
        self.child = await ManagedProcess.start(
            [interpreter.executable, "-I", str(boot), str(session)],
            env=own,
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
        """Wait until the kernel has ended; its exit status."""
        return await self.child.wait()

    def interrupt(self) -> None:
        """Windows has no signal for this; use the control channel's interrupt request."""

    async def kill(self) -> None:
        """End the kernel and remove its folder."""
        if hasattr(self, "child"):
            self.child.kill()
            await self.child.wait()
        await anyio.to_thread.run_sync(lambda: shutil.rmtree(self._base, ignore_errors=True))

    def measure_memory(self) -> int:
        """Not measured here."""
        return 0


def _find_free_ports() -> tuple[int, ...]:
    """Five ports of loopback that were free a moment ago."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(5)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return tuple(each.getsockname()[1] for each in sockets)

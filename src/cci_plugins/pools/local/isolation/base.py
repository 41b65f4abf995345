"""Contract of an isolation backend: start one kernel that reaches only its own session."""

from __future__ import annotations

import asyncio
import socket
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import anyio

from cci_plugins.common.cancellation import run_to_end
from cci_plugins.common.limits import SandboxLimits
from cci_plugins.common.settings import IsolationName
from cci_plugins.pools.base import DATA_FOLDER
from cci_plugins.pools.local.folder.session_folder import SessionFolder

from .memory_cgroup import MemoryCgroup, confine


@dataclass(frozen=True, slots=True)
class KernelSpec:
    """Description of the kernel that a backend starts.

    Attributes:
        python: The interpreter that has ipykernel and the user's packages.
        key: The HMAC key of this kernel's Jupyter messages, in hex.
        limits: Resource limits of the session.
        arguments: More arguments for ipykernel's command line.
        environment: Variables for the code. Nothing outside the sandbox gets them.
        packages: A folder of packages that it may read. The host fills it later.
    """

    python: Path
    key: str = field(repr=False)
    limits: SandboxLimits = field(default_factory=SandboxLimits)
    arguments: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    packages: Path | None = None


class ToolSocket(ABC):
    """A socket for the calls of host tools, between the app and one session.

    Attributes:
        address: How the session opens its end (`in_session/host_tools.open_channel`).
    """

    address: dict[str, Any]

    @abstractmethod
    async def connect(self) -> socket.socket:
        """Return the host's end, which the caller then owns. Call it once."""

    @abstractmethod
    def close(self) -> None:
        """Close what this object still owns. A second call does nothing."""


class Sandbox(ABC):
    """One running, isolated kernel and everything that belongs to its session.

    Attributes:
        folder: The folder of the session's files. The host reaches it by descriptors that cannot
            leave it.
        connection: Jupyter connection info for the host (transport, ip, ports, key).
        channel: The socket for host tools. The backend closes it with the sandbox, unless a
            kernel has taken the host's end.
    """

    folder: SessionFolder
    connection: dict[str, Any]
    channel: ToolSocket | None = None
    _cgroup: MemoryCgroup | None = None

    @abstractmethod
    async def wait(self) -> int:
        """Wait until the kernel has ended.

        Returns:
            Its exit status, or 128 + n when signal n killed it.
        """

    @abstractmethod
    def interrupt(self) -> bool:
        """Send SIGINT to the kernel. Return False where the backend cannot."""

    @abstractmethod
    async def kill(self) -> None:
        """End every process of the session, close its folder, remove its files from the host.

        A second call does nothing.
        """

    @asynccontextmanager
    async def kill_on_failure(self) -> AsyncIterator[None]:
        """Kill this sandbox when the block fails or is cancelled."""
        try:
            yield
        except BaseException:
            await run_to_end(self.kill())
            raise

    @asynccontextmanager
    async def confine_memory(self, limits: SandboxLimits) -> AsyncIterator[None]:
        """Put the session into a memory cgroup while the block runs, where it can have one."""
        bound = limits.memory_bytes + limits.disk_bytes
        task = asyncio.create_task(confine(bound, self.list_roots, self._keep_cgroup))
        try:
            yield
            await task
        finally:
            task.cancel()
            with anyio.CancelScope(shield=True):
                await asyncio.wait([task])

    def _keep_cgroup(self, cgroup: MemoryCgroup) -> None:
        self._cgroup = cgroup

    def remove_cgroup(self) -> None:
        """Remove the session's cgroup, once its processes have ended."""
        cgroup, self._cgroup = self._cgroup, None
        if cgroup is not None:
            cgroup.remove()

    def find_memory_kill(self) -> str | None:
        """Return why the kernel killed one of its processes, as a clause. None if it did not."""
        cgroup = self._cgroup
        return None if cgroup is None else cgroup.find_excess()

    def list_roots(self) -> list[int]:
        """List the first processes of the session, as the host numbers them."""
        return []

    def egress_socket_path(self) -> tuple[str, str] | None:
        """Return where to put a Unix socket that only this session can reach.

        Returns:
            The path on the host and the path in the session. None where the session may not
            connect to any socket.
        """
        return None

    @abstractmethod
    def measure_memory(self) -> int:
        """Return the bytes of all processes (PSS), their sockets, and files that live in memory."""

    def find_violation(self) -> str | None:
        """Return how the session evades its measurement, as a clause. None if it does not."""
        return None


class Isolation(ABC):
    """One isolation backend.

    Attributes:
        name: `bwrap`, `landlock`, `seatbelt` or `process`.
        limitations: Sentences that say what this backend does not prevent. Empty for the
            strongest.
    """

    name: ClassVar[IsolationName]
    limitations: tuple[str, ...] = ()

    @property
    def folder(self) -> str:
        """Return the path of a session's files inside it, or `.` if each session has another."""
        return DATA_FOLDER

    @abstractmethod
    def describe(self) -> str:
        """Return one line for people: the backend and the session's limits."""

    @abstractmethod
    async def run_self_check(self, spec: KernelSpec) -> None:
        """Run the real command line once, with a check in place of the kernel.

        Raises:
            IsolationError: The backend does not work here. The message gives the reason, the
                hint the next step.
        """

    @abstractmethod
    async def launch(self, spec: KernelSpec) -> Sandbox:
        """Start a kernel and wait until its sockets accept connections.

        Raises:
            IsolationError: The sandbox could not be started. Nothing is left running.
        """

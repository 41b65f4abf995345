"""What a fence must do: start one kernel that can reach nothing but its own session."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from cci_plugins.common.limits import SandboxLimits
from cci_plugins.common.settings import IsolationName
from cci_plugins.pools.local.folder.session_folder import SessionFolder


@dataclass(frozen=True, slots=True)
class KernelSpec:
    """What a fence needs to know to start a kernel.

    Attributes:
        python: The interpreter that has ipykernel and the user's packages.
        key: The HMAC key of this kernel's Jupyter messages, in hex.
        limits: What the session may use.
        arguments: More arguments for ipykernel's command line.
    """

    python: Path
    key: str = field(repr=False)
    limits: SandboxLimits = field(default_factory=SandboxLimits)
    arguments: tuple[str, ...] = ()


class Sandbox(ABC):
    """One running fenced kernel and everything that belongs to its session.

    Attributes:
        folder: The session's `/mnt/data`, for the host, through descriptors that cannot leave it.
        connection: Jupyter connection info as the host must use it (transport, ip, ports, key).
    """

    folder: SessionFolder
    connection: dict[str, Any]

    @abstractmethod
    async def wait(self) -> int:
        """Wait until the kernel has ended; its exit status, 128 + n when killed by signal n."""

    @abstractmethod
    def interrupt(self) -> None:
        """Send SIGINT to the kernel where the fence allows it, else do nothing."""

    @abstractmethod
    async def kill(self) -> None:
        """End every process of the session, close its folder, remove what it left on the host.

        Calling it twice is no error.
        """

    def egress_socket_path(self) -> tuple[str, str] | None:
        """Where a Unix socket can be put that only this session reaches.

        Returns:
            Its path for us and its path in the session; None where the fence lets none through.
        """
        return None

    @abstractmethod
    def measure_memory(self) -> int:
        """Memory that all processes of the session use together (PSS and files in memory)."""


class Isolation(ABC):
    """One kind of fence.

    Attributes:
        name: `bwrap`, `landlock`, `seatbelt` or `process`.
        weaker: What this fence does not keep, in plain sentences; empty for the strongest.
    """

    name: ClassVar[IsolationName]
    limitations: tuple[str, ...] = ()

    @abstractmethod
    def describe(self) -> str:
        """One line for people: what fences the code and what it may use."""

    @abstractmethod
    async def run_self_check(self, spec: KernelSpec) -> None:
        """Try the real command line once, with a check instead of a kernel.

        Raises:
            IsolationError: It does not hold here; the message says why, the hint what to do.
        """

    @abstractmethod
    async def launch(self, spec: KernelSpec) -> Sandbox:
        """Start a kernel and wait until its sockets can be connected to.

        Raises:
            IsolationError: The fence could not be put up; nothing is left running.
        """

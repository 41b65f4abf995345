"""What a session pool must do. A new place to run code is one subclass of `SessionPool`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import timedelta
from types import TracebackType
from typing import Self

from cci_plugins.models import Execution, FileInfo, OutputEvent, SessionInfo

OutputHandler = Callable[[OutputEvent], None]


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a pool can do beyond running code; callers ask here, never by type.

    Attributes:
        name: Short name for logs and traces: `local`, `platform`, ...
        streams_output: `on_output` is called while the code runs.
        rich_results: Images, HTML and tables arrive as results.
        lists_sessions: `list_sessions` tells every live session.
        isolation: The fence around a session, in one line; empty when unknown.
        outlives_app: Sessions go on when the pool object is closed, until someone ends them or
            they were idle for long.
        egress: Whether sessions reach hosts outside; None when only trying can tell.
    """

    name: str = "pool"
    streams_output: bool = False
    rich_results: bool = True
    lists_sessions: bool = False
    isolation: str = ""
    outlives_app: bool = False
    egress: bool | None = None


class SessionPool(ABC):
    """Runs code in sessions named by an opaque identifier of 4 to 128 characters.

    A session is allocated by the first call that names it. Every method is called on one event
    loop. Methods raise `PoolUnavailableError` when nothing was started, `PoolExhaustedError`
    when no session is free, `AuthenticationError`, `ProtocolError`, and nothing foreign.
    """

    capabilities: Capabilities = Capabilities()

    @abstractmethod
    async def execute(
        self,
        session_id: str,
        code: str,
        *,
        timeout: timedelta,
        on_output: OutputHandler | None = None,
        instance: str | None = None,
    ) -> Execution:
        """Run code in a session, starting the session if need be; one run at a time in each.

        A failure of the code, its time-out and the death of its kernel are told on the
        `Execution`. Cancelling the call interrupts the code.

        Args:
            session_id: The session.
            code: Python source of any length.
            timeout: Longest run; then the code is interrupted, or else killed.
            on_output: Told each piece of output, when the pool streams.
            instance: `Execution.instance` of an earlier run, when the code needs what that run
                left behind.

        Raises:
            SessionLostError: `retryable`: the session is not that instance any more, so the code
                did not run.
        """

    @abstractmethod
    async def upload(self, session_id: str, name: str, content: AsyncIterator[bytes]) -> FileInfo:
        """Write a file into a session, whole or not at all, replacing one of that name.

        Raises:
            UnsafeNameError: The name would leave the session's folder.
            FileTooLargeError: The file does not fit.
        """

    @abstractmethod
    def download(self, session_id: str, name: str) -> AsyncIterator[bytes]:
        """Read a file out of a session, in pieces.

        Raises:
            UnsafeNameError: The name would leave the session's folder.
            SessionFileNotFoundError: There is no such regular file.
        """

    @abstractmethod
    async def list_files(self, session_id: str) -> list[FileInfo]:
        """List the session's regular files by name."""

    @abstractmethod
    async def delete_file(self, session_id: str, name: str) -> None:
        """Remove a file.

        Raises:
            UnsafeNameError: The name would leave the session's folder.
            SessionFileNotFoundError: There is no such regular file.
        """

    @abstractmethod
    async def delete_session(self, session_id: str) -> None:
        """End a session; one that is gone already is no error."""

    @property
    def known_packages(self) -> tuple[str, ...]:
        """Packages of the data analyst's that sessions surely have; no session is asked."""
        return ()

    async def has_files_api(self, session_id: str) -> bool:
        """Whether files move beside the session; else its own code moves them, in pieces.

        Args:
            session_id: A session; it may be allocated to find out.
        """
        del session_id
        return True

    async def list_sessions(self) -> list[SessionInfo]:
        """List live sessions; empty where `Capabilities.lists_sessions` is False."""
        return []

    async def start(self) -> None:  # noqa: B027 - most pools need nothing
        """Get ready before the first call; optional, `execute` does it when needed."""

    async def aclose(self) -> None:  # noqa: B027 - the same
        """End what the pool holds; it may be called twice."""

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        await self.aclose()

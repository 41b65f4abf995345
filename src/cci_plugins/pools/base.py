"""The contract of a session pool: `SessionPool` and its `Capabilities`."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from types import TracebackType
from typing import Any, Self

from anyio import CancelScope

from cci_plugins.common.environment import SessionEnvironment
from cci_plugins.common.limits import MIB
from cci_plugins.common.renewal import Renewable
from cci_plugins.errors import ConfigurationError, FileTransferError
from cci_plugins.models import Execution, FileInfo, OutputEvent, SessionInfo

from .tool_host import ToolHost

DATA_FOLDER = "/mnt/data"
MAX_CODE_BYTES = 47 * MIB  # below the limit of a message, which has a header too
_MAX_ESCAPED_BYTES = 6  # of one character, in JSON

OutputHandler = Callable[[OutputEvent], None]


@dataclass(frozen=True, slots=True)
class Capabilities:
    """Abilities of a pool beyond running code. Read them instead of testing a pool's class.

    Some pools know an ability only once they have reached their server. They replace this value
    when they start or with the first call.

    Attributes:
        name: Short name for logs and traces: `local`, `platform`, ...
        streams_output: `on_output` is called while the code runs. `check_session_pool()` verifies
            it. A pool where this is false may call `on_output` late or never.
        rich_results: Images, HTML and tables arrive as results.
        lists_sessions: `list_sessions` returns every live session.
        isolation: One line about the sandbox around a session. It is empty when unknown.
        outlives_app: Sessions stay alive when the pool object is closed. They end when they are
            deleted or were idle for long.
        folder: Path of a session's files as its code sees it. It is `.` if it differs from session
            to session. Then relative paths lead there, and so does the variable `SESSION_FOLDER`.
        egress: True if sessions reach outside hosts. None if only an attempt can show it.
        env: The code sees the variables that `execute` gets as `env`.
        background_runs: `execute_in_background` keeps to any `timeout`, also one of an hour, so
            that `Session.start_code` works. None if only an attempt can show it. The pool then
            refuses before it runs code.
        host_tools: True if code can call tools of the host, so that `execute` takes `tools`. None
            if only an attempt can show it. The pool then refuses before it runs code.
        packages: True if `install_packages` installs packages. None if only an attempt can show it.
            The pool then refuses before it changes anything.
    """

    name: str = "pool"
    streams_output: bool = False
    rich_results: bool = True
    lists_sessions: bool = False
    isolation: str = ""
    outlives_app: bool = False
    egress: bool | None = None
    folder: str = DATA_FOLDER
    host_tools: bool | None = False
    env: bool = False
    background_runs: bool | None = False
    packages: bool | None = False


def check_code_size(code: str) -> None:
    """Refuse code that no pool takes: a kernel repeats it in a message of a bounded size.

    Raises:
        ConfigurationError: The code is too long. It did not run.
    """
    if len(code) * _MAX_ESCAPED_BYTES < MAX_CODE_BYTES:
        return
    size = len(json.dumps(code, ensure_ascii=False).encode(errors="surrogatepass"))
    if size > MAX_CODE_BYTES:
        raise ConfigurationError(
            f"the code has {size:,} bytes as a message, and at most {MAX_CODE_BYTES:,} can be sent",
            hint="upload the data as a file, and read it in the code",
        )


def build_changed_error(name: str) -> FileTransferError:
    """Build the error for a file that the session's code wrote to while it was downloaded."""
    return FileTransferError(
        f"{name!r} changed while it was downloaded",
        hint="download it again when no code writes to it",
    )


def build_no_interrupt_error(pool: str) -> ConfigurationError:
    """Build the error of a pool that cannot stop a run."""
    return ConfigurationError(
        f"the pool {pool!r} cannot interrupt a run, so it ends with its code or its timeout",
        hint="pass a shorter timeout to run_code, or delete the session",
    )


def check_background_support(capabilities: Capabilities) -> None:
    """Refuse a background run on a pool that certainly ends every run with its request.

    Raises:
        ConfigurationError: The pool cannot run code in the background.
    """
    if capabilities.background_runs is False:
        raise build_no_background_error(capabilities.name)


def build_no_background_error(
    pool: str, reason: str = "a run ends with its request"
) -> ConfigurationError:
    """Build the error of a pool whose runs do not outlive their request.

    Args:
        pool: Short name of the pool.
        reason: Why, as a clause.
    """
    return ConfigurationError(
        f"the pool {pool!r} cannot run code in the background: {reason}; the code did not run",
        hint="call run_code, or use CodeInterpreter.local() or a custom pool with this package's "
        "image",
    )


def check_env_support(capabilities: Capabilities) -> None:
    """Refuse variables for a pool whose code would not see them.

    Raises:
        ConfigurationError: The pool cannot set variables.
    """
    if not capabilities.env:
        raise ConfigurationError(
            f"the pool {capabilities.name!r} cannot set environment variables",
            hint="set os.environ in the code, or use a pool with Capabilities.env",
        )


def build_no_packages_error(pool: str) -> ConfigurationError:
    """Build the error of a pool that cannot install packages."""
    return ConfigurationError(
        f"the pool {pool!r} cannot install packages into a session",
        hint="build the image of its sessions with the packages",
    )


def check_packages_support(capabilities: Capabilities) -> None:
    """Refuse packages for a pool that certainly cannot install them.

    Raises:
        ConfigurationError: The pool cannot install packages.
    """
    if capabilities.packages is False:
        raise build_no_packages_error(capabilities.name)


class SessionPool(Renewable, ABC):
    """A place that runs code in sessions. A new one is a subclass of this class.

    An opaque identifier of 4 to 128 characters names a session. The first call that names a
    session allocates it. Every method is called on one event loop.

    Methods raise `PoolUnavailableError` when nothing was started and `PoolExhaustedError` when
    no session is free. They also raise `AuthenticationError` and `ProtocolError`, and no
    exception of another library. `cci_plugins.testing.check_session_pool()` tests the contract.
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
        tools: ToolHost | None = None,
        env: SessionEnvironment | None = None,
    ) -> Execution:
        """Run code in a session. A session runs one execution at a time.

        The returned `Execution` reports a failure of the code, its time-out and the death of its
        kernel. Cancelling the call interrupts the code.

        Args:
            session_id: The session. It is started if it does not exist.
            code: Python source of any length.
            timeout: Longest run. The code is then interrupted, and killed if it does not stop.
            on_output: Called with each chunk of output if the pool streams.
            instance: `Execution.instance` of an earlier run. Give it when the code needs the
                variables or files of that run.
            tools: Answers the tool calls of this run. It is passed only if
                `Capabilities.host_tools` is not False. See `pools/tool_host` for the duties.
            env: Variables that the code sees. It is passed only if `Capabilities.env` is true.
                Each run has all of them. Set what changed, so that the code's own values stay.

        Raises:
            ConfigurationError: The sessions cannot call tools, so the code did not run.
            SessionLostError: The session is no longer that instance, so the code did not run.
                The error is `retryable`.
        """

    async def execute_in_background(
        self,
        session_id: str,
        code: str,
        *,
        timeout: timedelta,
        on_output: OutputHandler | None = None,
        instance: str | None = None,
        tools: ToolHost | None = None,
        env: SessionEnvironment | None = None,
    ) -> Execution:
        """Run code as `execute` does, for much longer than a request lasts.

        It is called only if `Capabilities.background_runs` is not False. A pool whose requests
        end after minutes overrides it.

        Args:
            session_id: The session.
            code: Python source.
            timeout: Longest run.
            on_output: Called with each chunk of output if the pool streams.
            instance: `Execution.instance` of an earlier run, as for `execute`.
            tools: Answers the tool calls of this run, as for `execute`.
            env: Variables that the code sees, as for `execute`.

        Raises:
            ConfigurationError: The pool cannot do it. The code did not run.
        """
        given = {"tools": tools, "env": env}
        options: dict[str, Any] = {name: one for name, one in given.items() if one is not None}
        return await self.execute(
            session_id, code, timeout=timeout, on_output=on_output, instance=instance, **options
        )

    async def check_background_runs(self, session_id: str) -> None:
        """Refuse a background run before it is started, if the pool cannot do it.

        Args:
            session_id: A session. The pool may allocate it to find out.

        Raises:
            ConfigurationError: The pool cannot run code in the background.
            PoolError: The pool failed, so it is not known.
        """
        del session_id
        check_background_support(self.capabilities)

    @abstractmethod
    async def upload(self, session_id: str, name: str, content: AsyncIterator[bytes]) -> FileInfo:
        """Write a whole file into a session, or nothing. Replace a file of the same name.

        Args:
            session_id: The session.
            name: Path of the file, relative to the session's folder.
            content: The bytes, in chunks of any size.

        Raises:
            UnsafeNameError: The name would leave the session's folder.
            FileTooLargeError: The file does not fit.
        """

    @abstractmethod
    def download(self, session_id: str, name: str) -> AsyncIterator[bytes]:
        """Read a file from a session in chunks.

        Raises:
            UnsafeNameError: The name would leave the session's folder.
            SessionFileNotFoundError: The session has no such regular file.
            FileTransferError: The file changed between its first and its last chunk.
        """

    @abstractmethod
    async def list_files(self, session_id: str) -> list[FileInfo]:
        """List the session's regular files by name."""

    @abstractmethod
    async def delete_file(self, session_id: str, name: str) -> None:
        """Delete a file.

        Raises:
            UnsafeNameError: The name would leave the session's folder.
            SessionFileNotFoundError: The session has no such regular file.
        """

    @abstractmethod
    async def delete_session(self, session_id: str) -> None:
        """End a session. A session that does not exist is not an error."""

    async def interrupt(self, session_id: str) -> bool:
        """Stop the run in progress, and keep the variables and files.

        The run returns with the error `KeyboardInterrupt`.

        Args:
            session_id: The session.

        Returns:
            False if no run is in progress.

        Raises:
            ConfigurationError: The pool cannot stop a run.
        """
        del session_id
        raise build_no_interrupt_error(self.capabilities.name)

    async def install_packages(self, session_id: str, packages: Sequence[str]) -> Mapping[str, str]:
        """Install packages for the code of a session.

        Args:
            session_id: The session.
            packages: Names with optional extras and versions.

        Returns:
            The new versions by name.

        Raises:
            ConfigurationError: The pool cannot do it, or not with these packages.
        """
        del session_id, packages
        raise build_no_packages_error(self.capabilities.name)

    async def get_instance(self, session_id: str) -> str | None:
        """Return what `Execution.instance` of the next run will be, without running code.

        A run that requires it fails if the session was replaced since. So a loss of what was
        installed before a first run is noticed.

        Args:
            session_id: The session. The pool may allocate it to find out.

        Returns:
            The instance, or None if only a run can show it.
        """
        del session_id
        return None

    async def restart_session(self, session_id: str) -> bool:
        """Give a session a new Python process, and keep its files. End a run in progress.

        Args:
            session_id: The session. One that does not exist is not an error.

        Returns:
            False if the pool cannot do it. Nothing has happened then.

        Raises:
            FileTransferError: The files cannot be kept. The session is as it was.
        """
        del session_id
        return False

    @property
    def has_answered(self) -> bool:
        """Whether the pool may have sessions of this object, since its server ever answered."""
        return True

    @property
    def known_packages(self) -> tuple[str, ...]:
        """Preinstalled packages that sessions certainly have, found without asking a session."""
        return ()

    async def has_files_api(self, session_id: str) -> bool:
        """Return whether files move outside the session's code.

        Where they do not, the session's own code moves them in chunks.

        Args:
            session_id: A session. The pool may allocate it to find out.
        """
        del session_id
        return True

    async def list_sessions(self) -> list[SessionInfo]:
        """List live sessions. The list is empty if `Capabilities.lists_sessions` is false."""
        return []

    async def start(self) -> None:
        """Prepare the pool before the first call. Optional: `execute` does it when needed."""

    async def aclose(self) -> None:
        """Release what the pool holds. A second call does nothing.

        `async with` calls it so that a scope of anyio cannot cancel it.
        """

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        with CancelScope(shield=True):
            await self.aclose()

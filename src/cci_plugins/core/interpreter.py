"""The object an application holds: a pool, and one session per conversation."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from os import PathLike
from secrets import token_hex
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, Self, TypeAlias

from anyio import CancelScope

from cci_plugins.common import event_loop, packages
from cci_plugins.common.approval import Approver
from cci_plugins.common.durations import Duration
from cci_plugins.common.environment import Env, build_session_environment
from cci_plugins.common.limits import Limits
from cci_plugins.common.settings import Settings
from cci_plugins.errors import ConfigurationError
from cci_plugins.files.file_transfer import FileOptions
from cci_plugins.files.sas import STORAGE_HOSTS, SasPolicy
from cci_plugins.models import Execution
from cci_plugins.pools.base import Capabilities, OutputHandler, SessionPool

from .background_run import BackgroundInterpreter
from .conversation import (
    DEFAULT_KEY,
    RunBudget,
    SessionKey,
    current_budget,
    current_key,
    is_named,
    to_key,
)
from .host_tools import HostTool, ToolApprover
from .pool_choice import build_pool
from .session import Session
from .session_directory import SessionDirectory
from .session_host import SessionHost
from .workspace import check_workspace

if TYPE_CHECKING:
    from cci_plugins.azure.credentials import TokenCredential
    from cci_plugins.files.blob import BlobStorage
    from cci_plugins.pools.local.egress import Egress


class WrongWithError(ConfigurationError, TypeError):
    """The wrong one of `with` and `async with`, for which Python itself raises `TypeError`."""


class CodeInterpreter(BackgroundInterpreter):
    """Runs Python for an agent, with one session per conversation.

    You may call it from any thread and any event loop. Calls are dispatched to the package's own
    event loop. Close it with `aclose` or `async with`. Otherwise it closes when the program ends.

    Args:
        pool: Where code runs. It is closed with the interpreter.
        approve: Called before every run that a model starts.
        limits: Bounds of runs, files and sessions.
        session_secret: Makes session identifiers the same in every process that shares it.
            Sessions of a remote pool then survive this interpreter. If None, the secret is
            random: no other process can reach these sessions, so they end with the interpreter.
        files: Where larger files are staged, and which URLs may be fetched.
        env: Environment variables for the code in every session. A `Secret` among them is not
            shown in output, but the code can read it.
        workspace: Folder, or container for checkpoints, that keeps the files of each session after
            each run. They come back when the pool replaced the session, and in a later program
            with the same key. Variables do not. None keeps only what you uploaded.

    Attributes:
        approve: Called before every run that a model starts.

    Example:
        ```python
        async with CodeInterpreter.local() as interpreter:
            execution = await interpreter.session("alice").run_code("6 * 7")
            print(execution.text)
        ```
    """

    def __init__(
        self,
        pool: SessionPool,
        *,
        approve: Approver | None = None,
        limits: Limits | None = None,
        session_secret: bytes | None = None,
        files: FileOptions | None = None,
        env: Env | None = None,
        workspace: str | PathLike[str] | BlobStorage | None = None,
    ) -> None:
        self.approve = approve
        checked = build_session_environment(env) if env else None
        place = None if workspace is None else check_workspace(workspace, files)
        self._host = SessionHost(pool, limits=limits, files=files, env=checked, workspace=place)
        self._directory = SessionDirectory(self._host, secret=session_secret)

    @classmethod
    def local(
        cls,
        *,
        approve: Approver | None = None,
        limits: Limits | None = None,
        files: FileOptions | None = None,
        egress: Egress = "none",
        env: Env | None = None,
        workspace: str | PathLike[str] | BlobStorage | None = None,
        packages: Sequence[str] = (),
    ) -> Self:
        """Create an interpreter over the embedded pool: no account, no Docker, no network.

        Args:
            approve: Called before every run that a model starts.
            limits: Bounds of runs, files and sessions.
            files: Where larger files are staged, and which URLs may be fetched.
            egress: Hosts that sessions may reach. By default they reach none.
            env: Variables for the code, which can read a `Secret` that output does not show.
            workspace: Folder or container that keeps the files of each session, as in the class.
            packages: Packages to install into each session, such as `duckdb>=1`.

        Raises:
            ConfigurationError: The extra `local` is not installed, or `env` is invalid.
        """
        from cci_plugins.pools.local.pool import LocalSessionPool

        pool = LocalSessionPool(egress=egress, environment=env, packages=packages)
        return cls(pool, approve=approve, limits=limits, files=files, workspace=workspace)

    @classmethod
    def azure(
        cls,
        endpoint: str,
        *,
        key: str | None = None,
        credential: TokenCredential | str | None = None,
        audience: str | None = None,
        approve: Approver | None = None,
        limits: Limits | None = None,
        session_secret: bytes | None = None,
        files: FileOptions | None = None,
        env: Env | None = None,
        workspace: str | PathLike[str] | BlobStorage | None = None,
    ) -> Self:
        """Create an interpreter over a session pool in Azure Container Apps.

        Args:
            endpoint: The pool's MCP endpoint if you pass a key, else its management endpoint.
            key: The key of the MCP endpoint.
            credential: A credential of azure-identity, or a token. None means
                `DefaultAzureCredential`.
            audience: Application ID URI of a gateway that accepts tokens of Microsoft Entra, as
                `cci serve --entra` does. The endpoint is then the gateway's MCP endpoint.
            approve: Called before every run that a model starts.
            limits: Bounds of runs, files and sessions.
            session_secret: Makes sessions reachable from other processes, as in the class.
            files: Where larger files are staged, and which URLs may be fetched.
            env: Environment variables for the code, as in the class.
            workspace: Folder or container that keeps the files of each session, as in the class.

        Raises:
            ConfigurationError: The endpoint, key, token or `env` is not valid.
        """
        pool: SessionPool
        if key is not None or audience is not None:
            from cci_plugins.pools.azure.mcp_pool import PlatformSessionPool

            pool = PlatformSessionPool(
                endpoint, key=key, credential=credential, audience=audience, limits=limits
            )
        else:
            from cci_plugins.pools.azure.rest_pool import CustomSessionPool

            pool = CustomSessionPool(endpoint, credential=credential, limits=limits)
        return cls(
            pool,
            approve=approve,
            limits=limits,
            session_secret=session_secret,
            files=files,
            env=env,
            workspace=workspace,
        )

    @classmethod
    def from_env(
        cls,
        *,
        approve: Approver | None = None,
        env_file: str | PathLike[str] | None = None,
    ) -> Self:
        """Create the interpreter that the environment configures, by default the embedded pool.

        Args:
            approve: Called before every run that a model starts.
            env_file: File with variables that the environment does not set. A file that you name
                is trusted. By default the one that `CCI_ENV_FILE` names, or else `.env` in the
                current folder, which may name a pool but not act on this machine.

        Raises:
            ConfigurationError: A value is not valid, a pool is only half configured, or `.env`
                has a setting that only a named file may have.
        """
        settings = Settings.read(env_file=env_file)
        return cls(
            build_pool(settings),
            approve=approve,
            limits=settings.limits(),
            session_secret=settings.secret,
            files=build_file_options(settings),
            env=None if settings.chosen_pool == "local" else settings.session_environment,
        )

    @property
    def limits(self) -> Limits:
        """Bounds of runs, files and sessions."""
        return self._host.limits

    @property
    def known_packages(self) -> tuple[str, ...]:
        """Preinstalled packages that the pool can name without starting a session."""
        return self._host.pool.known_packages

    def session(self, key: SessionKey | None = None, *, env: Env | None = None) -> Session:
        """Return the session of a conversation. Its first call starts it, not this one.

        Args:
            key: The conversation, as the application names it, such as a thread id. A number or
                a `UUID` means its text. None means the current one of `use_session`, or else a
                single default session.
            env: Environment variables for the code of this session, besides the interpreter's.
                They hold from the next run on, and replace those of an earlier call. None leaves
                them as they are.

        Raises:
            ConfigurationError: The key is of another type, `env` is invalid, or the interpreter
                is closed.
        """
        self._host.check_open()
        checked = None if env is None else build_session_environment(env)
        chosen = next(filter(is_named, (key, current_key.get())), DEFAULT_KEY)
        session, evicted = self._directory.get_or_create(to_key(chosen), checked)
        for handle in evicted:
            event_loop.submit(self._directory.delete, handle)
        return session

    @contextmanager
    def use_session(self, key: SessionKey, *, max_runs: int | None = None) -> Generator[Session]:
        """Make a conversation's session the current one, whatever thread id a framework passes.

        Args:
            key: The conversation.
            max_runs: Most runs that a model may start within this context, such as in one turn.
                Further code is not run, and the model reads why. The application's own runs do
                not count. A limit of an outer context holds too. None adds no limit.

        Raises:
            ConfigurationError: `max_runs` is negative, or the key is of another type.
        """
        if max_runs is not None and max_runs < 0:
            raise ConfigurationError(
                f"max_runs is negative ({max_runs})", hint="pass 0 or more, or None"
            )
        parent = current_budget.get()
        budget_token = current_budget.set(
            parent if max_runs is None else RunBudget(max_runs, parent)
        )
        token = current_key.set(to_key(key) if is_named(key) else None)
        try:
            yield self.session(key)
        finally:
            with suppress(ValueError):  # a generator may end in another context
                current_budget.reset(budget_token)
                current_key.reset(token)

    @property
    def capabilities(self) -> Capabilities:
        """Abilities of the pool, as far as they are known before a call."""
        return self._host.pool.capabilities

    async def packages(self) -> Mapping[str, str]:
        """Return the installed packages with their versions, the best known packages first.

        This starts a session and ends it again.

        Raises:
            PoolError: The pool failed.
        """
        session = self.session(f"packages-{token_hex(8)}")
        try:
            execution = await session.run_code(packages.LIST_CODE)
        finally:
            if self._host.pool.has_answered:
                await session.delete()
        return packages.parse_packages(execution.stdout)

    async def run_code(
        self,
        code: str,
        *,
        timeout: Duration | None = None,
        on_output: OutputHandler | None = None,
        tools: Sequence[HostTool] = (),
        approve_tool: ToolApprover | None = None,
    ) -> Execution:
        """Run code in the current session, as `Session.run_code` does.

        Args:
            code: Python source.
            timeout: Longest run, in seconds or as a `timedelta`. None means
                `Limits.execution_timeout`.
            on_output: Called with each chunk of output while the code runs, on the caller's loop.
            tools: Functions of the application that the code may call, as `tools.NAME(...)`.
            approve_tool: Asked before a call of a tool with `needs_approval`, while the code waits.
        """
        return await self.session().run_code(
            code, timeout=timeout, on_output=on_output, tools=tools, approve_tool=approve_tool
        )

    start_code = BackgroundInterpreter.start_code  # listed here, as in `Session`

    async def start(self) -> None:
        """Start the pool now, so that the first call is fast.

        Raises:
            IsolationError: This machine supports no isolation backend.
        """
        await self._host.dispatch(self._host.get_pool)

    async def describe(self) -> str:
        """Start the pool and return one line: its name and the isolation of its sessions."""
        capabilities = (await self._host.dispatch(self._host.get_pool)).capabilities
        return ": ".join(part for part in (capabilities.name, capabilities.isolation) if part)

    async def aclose(self) -> None:
        """End every session and close the pool. A second call does nothing.

        If the caller is cancelled, the rest happens in the background. `async with` waits for it.
        """
        await event_loop.dispatch(self._directory.aclose, must_begin=True)

    def __enter__(self) -> NoReturn:
        """Refuse `with`, which cannot wait for the session pool."""
        raise WrongWithError(
            "this CodeInterpreter needs 'async with'; cci_plugins.sync has one for 'with'",
            hint="write 'async with', or 'from cci_plugins.sync import CodeInterpreter'",
        )

    def __exit__(self, *_: object) -> None:
        """Do nothing. Python looks for this method before it calls `__enter__`."""

    def __copy__(self) -> Self:
        """Return the interpreter itself. Copies of a tool share its sessions."""
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Return the interpreter itself, as `__copy__` does."""
        return self

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        with CancelScope(shield=True):
            await self.aclose()


class BlockingInterpreter:
    """The base of `cci_plugins.sync.CodeInterpreter`, so that adapters accept it too."""

    _async: CodeInterpreter


AnyInterpreter: TypeAlias = CodeInterpreter | BlockingInterpreter


def unwrap_interpreter(interpreter: AnyInterpreter) -> CodeInterpreter:
    """Return the interpreter that a blocking one calls, or the interpreter itself.

    Raises:
        ConfigurationError: It is not an interpreter.
    """
    if isinstance(interpreter, CodeInterpreter):
        return interpreter
    if isinstance(interpreter, BlockingInterpreter):
        return interpreter._async  # noqa: SLF001 - of the class above
    raise ConfigurationError(
        f"the interpreter must be a CodeInterpreter, not {type(interpreter).__name__}",
        hint="pass CodeInterpreter.local(), or CodeInterpreter(pool)",
    )


def get_session_host(interpreter: AnyInterpreter) -> SessionHost:
    """Return the internals of an interpreter, for other modules of this package."""
    return unwrap_interpreter(interpreter)._host  # noqa: SLF001 - the class needs no public way in


def build_file_options(
    settings: Settings, *, credential: TokenCredential | str | None = None
) -> FileOptions:
    """Build the options of file transfers from settings.

    Args:
        settings: Names the storage and the hosts that may be fetched from.
        credential: Signs in to Azure if the settings have no key. None means
            `DefaultAzureCredential`, and so does a token, which is valid for the pool only.

    Raises:
        ConfigurationError: The storage is half configured, or the extra `azure` is missing.
    """
    names = (settings.storage_container, settings.checkpoint_container)
    storage, checkpoints = [_build_storage(settings, name, credential) for name in names]
    hosts = (*STORAGE_HOSTS, *settings.fetch_hosts)
    return FileOptions(
        storage,
        settings.stage_from,
        SasPolicy(hosts=hosts),
        checkpoints,
        timedelta(days=settings.checkpoint_days),
    )


def _build_storage(
    settings: Settings, container: str | None, credential: TokenCredential | str | None
) -> BlobStorage | None:
    if settings.storage_account is None or container is None:
        return None
    from cci_plugins.files.blob import BlobStorage

    settings.check_sign_ins("storage")
    key = settings.storage_key
    return BlobStorage(
        settings.storage_account,
        container,
        credential=None if isinstance(credential, str) else credential,
        key=None if key is None else key.get_secret_value(),
        ca_file=settings.storage_ca_file,
    )

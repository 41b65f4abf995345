"""The object an application holds."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import partial
from secrets import token_hex
from types import TracebackType
from typing import TYPE_CHECKING, Self

import anyio

from cci_plugins.common import event_loop, packages
from cci_plugins.common.approval import Approver
from cci_plugins.common.limits import Limits
from cci_plugins.common.log import logger
from cci_plugins.common.settings import Settings
from cci_plugins.errors import CodeInterpreterError, ConfigurationError
from cci_plugins.files.file_transfer import FileOptions, FileTransfer
from cci_plugins.files.sas import STORAGE_HOSTS, SasPolicy
from cci_plugins.models import Execution
from cci_plugins.pools.base import Capabilities, OutputHandler, SessionPool

from .session import Session
from .session_directory import DEFAULT_KEY, RunBudget, SessionDirectory, current_budget, current_key

if TYPE_CHECKING:
    from cci_plugins.azure.credentials import TokenCredential
    from cci_plugins.pools.local.egress import Egress


CLOSE_SECONDS = 10


class CodeInterpreter:
    """Runs Python for an agent, one session per conversation.

    It may be called from any thread and any event loop: the work is carried to one loop of its
    own. Close it with `aclose` or `async with`; at the latest it closes when the program ends.

    Args:
        pool: Where code runs; closed with the interpreter.
        approve: Asked before every run that a model starts.
        limits: Every bound in one value.
        session_secret: Makes session identifiers the same in every process that shares it; then
            sessions of a remote pool are left alone when this interpreter closes. Random when
            None: no other process can reach these sessions, so they end with it.
        files: Where larger files are staged, and which URLs may be fetched.

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
    ) -> None:
        self.approve = approve
        self._files = FileOptions() if files is None else files
        self._file_transfer: FileTransfer | None = None
        self._limits = Limits() if limits is None else limits
        self._pool = pool
        self._directory: SessionDirectory[Session] = SessionDirectory(
            self._limits, secret=session_secret
        )
        self._start_lock: anyio.Lock | None = None
        self._started = False
        self._closed = False
        self._has_shared_secret = session_secret is not None

    @classmethod
    def local(
        cls,
        *,
        approve: Approver | None = None,
        limits: Limits | None = None,
        files: FileOptions | None = None,
        egress: Egress = "none",
    ) -> Self:
        """An interpreter over the embedded pool: no account, no Docker, no network.

        Args:
            approve: Asked before every run that a model starts.
            limits: Every bound in one value.
            files: Where larger files are staged, and which URLs may be fetched.
            egress: Hosts that sessions may reach; none unless they are named.

        Raises:
            ConfigurationError: The extra `local` is not installed.
        """
        from cci_plugins.pools.local.pool import LocalSessionPool

        return cls(LocalSessionPool(egress=egress), approve=approve, limits=limits, files=files)

    @classmethod
    def azure(
        cls,
        endpoint: str,
        *,
        key: str | None = None,
        credential: TokenCredential | str | None = None,
        approve: Approver | None = None,
        limits: Limits | None = None,
        session_secret: bytes | None = None,
        files: FileOptions | None = None,
    ) -> Self:
        """An interpreter over a session pool in Azure Container Apps.

        Args:
            endpoint: The pool's MCP endpoint, with a key; or else its management endpoint.
            key: The key of the MCP endpoint.
            credential: A credential of azure-identity, or a token; `DefaultAzureCredential`
                when None.
            approve: Asked before every run that a model starts.
            limits: Every bound in one value.
            session_secret: Makes sessions reachable from other processes; see the class.
            files: Where larger files are staged, and which URLs may be fetched.

        Raises:
            ConfigurationError: The endpoint, key or token cannot be right.
        """
        pool: SessionPool
        if key is not None:
            from cci_plugins.pools.azure.mcp_pool import PlatformSessionPool

            pool = PlatformSessionPool(endpoint, key=key, credential=credential, limits=limits)
        else:
            from cci_plugins.pools.azure.rest_pool import CustomSessionPool

            pool = CustomSessionPool(endpoint, credential=credential, limits=limits)
        return cls(pool, approve=approve, limits=limits, session_secret=session_secret, files=files)

    @classmethod
    def from_env(cls, *, approve: Approver | None = None) -> Self:
        """An interpreter as the environment says: the embedded pool when nothing is configured.

        Raises:
            ConfigurationError: A value is not valid, or a pool is only half configured.
        """
        settings = Settings.read()
        return cls(
            build_pool(settings),
            approve=approve,
            limits=settings.limits(),
            session_secret=settings.secret,
            files=build_file_options(settings),
        )

    @property
    def limits(self) -> Limits:
        """The bounds this interpreter was made with."""
        return self._limits

    def session(self, key: str | None = None) -> Session:
        """The session of one conversation; nothing is started before its first call.

        Args:
            key: The conversation, as the application names it: a thread id, a user id. None means
                the current one of `use_session`, or a single default session.
        """
        self._check_open()
        key = key or current_key.get() or DEFAULT_KEY
        session, evicted = self._directory.get_or_create(key, partial(self._create_session, key))
        for old in evicted:
            event_loop.submit(self._delete_session, old)
        return session

    def _create_session(self, key: str, was_evicted: bool) -> Session:  # noqa: FBT001 - the directory asks
        on_delete = partial(self._directory.remove, key)
        return Session(
            self, key, self._directory.derive_id(key), on_delete, was_evicted=was_evicted
        )

    @contextmanager
    def use_session(self, key: str, *, max_runs: int | None = None) -> Generator[Session]:
        """Make a conversation's session the current one, whatever thread id a framework passes.

        Args:
            key: The conversation.
            max_runs: The most runs that a model may start before this is left, such as in one turn;
                what it starts beyond is not run, and it is told so. The host's own runs do not
                count. A bound around this one holds too; None leaves it at that.

        Raises:
            ConfigurationError: `max_runs` is negative.
        """
        if max_runs is not None and max_runs < 0:
            raise ConfigurationError("max_runs is negative", hint="give 0 or more, or None")
        parent = current_budget.get()
        budget_token = current_budget.set(
            parent if max_runs is None else RunBudget(max_runs, parent)
        )
        token = current_key.set(key)
        try:
            yield self.session(key)
        finally:
            with suppress(ValueError):  # a generator may end in another context
                current_budget.reset(budget_token)
                current_key.reset(token)

    @property
    def known_packages(self) -> tuple[str, ...]:
        """Packages of the data analyst's that the pool knows its sessions have, without asking."""
        return self._pool.known_packages

    @property
    def capabilities(self) -> Capabilities:
        """Abilities of the pool, as far as they are known before a call."""
        return self._pool.capabilities

    async def packages(self) -> Mapping[str, str]:
        """What is installed in the sessions: versions by name, the best known packages first.

        A session is started to find out, and ended again.

        Raises:
            PoolError: The pool did not say.
        """
        session = self.session(f"packages-{token_hex(8)}")
        try:
            execution = await session.run_code(packages.LIST_CODE)
        finally:
            await session.delete()
        return packages.parse_packages(execution.stdout)

    async def run_code(
        self,
        code: str,
        *,
        timeout: timedelta | None = None,
        on_output: OutputHandler | None = None,
    ) -> Execution:
        """Run code in the current session; see `Session.run_code`."""
        return await self.session().run_code(code, timeout=timeout, on_output=on_output)

    async def start(self) -> None:
        """Get the pool ready before the first call, so that the first call is fast.

        Raises:
            IsolationError: This machine offers no fence.
        """
        await event_loop.dispatch(self._get_pool)

    async def describe(self) -> str:
        """Start the pool and say in one line what it is and what fences its sessions."""
        capabilities = (await event_loop.dispatch(self._get_pool)).capabilities
        return ": ".join(part for part in (capabilities.name, capabilities.isolation) if part)

    async def _get_pool(self) -> SessionPool:
        """The started pool; for callers on the portal's loop."""
        self._check_open()
        if not self._started:
            if self._start_lock is None:
                self._start_lock = anyio.Lock()
            async with self._start_lock:
                if not self._started:
                    await self._pool.start()
                    event_loop.register_closer(self, self._close)
                    self._started = True
        return self._pool

    async def _get_file_transfer(self) -> FileTransfer:
        """What moves files; for callers on the portal's loop."""
        pool = await self._get_pool()
        if self._file_transfer is None:
            self._file_transfer = FileTransfer(pool, limits=self._limits, options=self._files)
        return self._file_transfer

    def _check_open(self) -> None:
        if self._closed:
            raise ConfigurationError("this CodeInterpreter is closed", hint="make a new one")

    async def aclose(self) -> None:
        """End every session and what the pool holds; calling it twice is no error."""
        self._closed = True
        await event_loop.dispatch(self._close)

    async def _close(self) -> None:
        event_loop.unregister_closer(self)
        self._closed = True
        sessions = self._directory.clear()
        for session in sessions:
            session.files._forget_inputs()
        if self._pool.capabilities.outlives_app and not self._has_shared_secret:
            await self._delete_sessions(sessions)
        await self._pool.aclose()
        if self._file_transfer is not None:
            await self._file_transfer.aclose()

    async def _delete_sessions(self, sessions: list[Session]) -> None:
        """End the sessions of a remote pool, which would hold their places until the cooldown."""
        with anyio.move_on_after(CLOSE_SECONDS):
            async with anyio.create_task_group() as tasks:
                for session in sessions:
                    if session._was_used:
                        tasks.start_soon(self._delete_session, session)

    async def _delete_session(self, session: Session) -> None:
        session.files._forget_inputs()
        try:
            if session.key not in self._directory:  # else it came back, and sees to it itself
                await self._pool.delete_session(session.id)
        except CodeInterpreterError as error:
            logger.warning("could not end an idle session: %s", error)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        await self.aclose()


def build_pool(
    settings: Settings, *, credential: TokenCredential | str | None = None
) -> SessionPool:
    """The pool that settings ask for, not yet started.

    Args:
        settings: What is wanted.
        credential: Signs in to Azure where the settings have no token; `DefaultAzureCredential`
            when None.
    """
    given = settings.access_token
    token = credential if given is None else given.get_secret_value()
    if settings.chosen_pool == "platform":
        from cci_plugins.pools.azure.mcp_pool import PlatformSessionPool

        return PlatformSessionPool(
            settings.mcp_endpoint,
            key=settings.mcp_key,
            resource_id=settings.resource_id,
            credential=token,
            arm_endpoint=settings.arm_endpoint,
            limits=settings.limits(),
        )
    if settings.chosen_pool == "custom" and settings.endpoint is not None:
        from cci_plugins.pools.azure.rest_pool import CustomSessionPool

        return CustomSessionPool(settings.endpoint, credential=token, limits=settings.limits())
    from cci_plugins.pools.local.pool import LocalSessionPool

    return LocalSessionPool(
        isolation=settings.isolation,
        python=settings.python,
        max_sessions=settings.sessions,
        ready_sessions=settings.ready_sessions,
        cooldown=timedelta(seconds=settings.cooldown),
        egress=settings.egress_rules,
    )


def build_file_options(
    settings: Settings, *, credential: TokenCredential | str | None = None
) -> FileOptions:
    """How files move, as settings say.

    Args:
        settings: What is wanted.
        credential: Signs in to Azure where the settings have no key; `DefaultAzureCredential`
            when None, or when it is a token, which would be for something else.

    Raises:
        ConfigurationError: The storage is half configured, or the extra `azure` is missing.
    """
    storage = None
    if settings.storage_account is not None and settings.storage_container is not None:
        from cci_plugins.files.blob import BlobStorage

        key = settings.storage_key
        storage = BlobStorage(
            settings.storage_account,
            settings.storage_container,
            credential=None if isinstance(credential, str) else credential,
            key=None if key is None else key.get_secret_value(),
            ca_file=settings.storage_ca_file,
        )
    hosts = (*STORAGE_HOSTS, *settings.fetch_hosts)
    return FileOptions(storage, settings.stage_from, SasPolicy(hosts=hosts))

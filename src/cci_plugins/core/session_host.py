"""The pool behind a set of sessions, with its limits and its file transfer.

Every `Session`, `SessionFiles` and `SessionDirectory` holds one `SessionHost`. There are two kinds:

- A `CodeInterpreter` owns its pool (`owns_pool=True`). The pool is started by the first call and
  closed with the host. It lives on the package's event loop, so `dispatch` moves each call there.
- A server serves a pool of its caller (`owns_pool=False`). The caller starts and closes the pool.
  It lives on the loop of the server, so `dispatch` awaits the call where it is.

`get_pool` and `get_file_transfer` run on the pool's loop only. A closed host refuses both, so that
no session starts in a pool that is closing.

A host that nobody holds any longer closes its pool, with a `ResourceWarning`. Sessions hold their
host, so that one session is enough to keep the pool.
"""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from contextvars import copy_context
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from cci_plugins.common import event_loop
from cci_plugins.common.environment import SessionEnvironment
from cci_plugins.common.keyed_locks import KeyedLocks
from cci_plugins.common.limits import Limits
from cci_plugins.common.log import describe_error, logger
from cci_plugins.common.metrics import count_live_sessions
from cci_plugins.common.renewal import renew
from cci_plugins.common.shared_attempt import SharedAttempt
from cci_plugins.errors import CodeInterpreterError, ConfigurationError
from cci_plugins.files.file_transfer import FileOptions, FileTransfer
from cci_plugins.pools.base import SessionPool

if TYPE_CHECKING:
    from cci_plugins.files.blob import BlobStorage
    from cci_plugins.files.checkpoint_blobs import WorkspacePlace

T = TypeVar("T")


class _Leftovers:
    """What must be released when nobody holds a host any longer. It does not refer to the host."""

    def __init__(self, pool: SessionPool) -> None:
        self.keeps_sessions = False
        self.restart(pool)

    def restart(self, pool: SessionPool) -> None:
        """Forget everything but the pool, which is not started."""
        self.pool = pool
        self.is_started = False
        self.file_transfer: FileTransfer | None = None
        self.session_ids: set[str] = set()

    def add_session(self, session_id: str) -> None:
        """Remember a session that may exist in the pool."""
        if session_id not in self.session_ids:
            self.session_ids.add(session_id)
            count_live_sessions(self.pool.capabilities.name, 1)

    def remove_sessions(self, *session_ids: str) -> None:
        """Forget sessions that have ended in the pool."""
        ended = self.session_ids.intersection(session_ids)
        self.session_ids -= ended
        count_live_sessions(self.pool.capabilities.name, -len(ended))

    async def aclose(self) -> None:
        """End sessions that would outlive the program, and close the pool."""
        try:
            async with AsyncExitStack() as stack:
                if self.file_transfer is not None:
                    stack.push_async_callback(self.file_transfer.aclose)
                stack.push_async_callback(self.pool.aclose)
                outlives = self.pool.capabilities.outlives_app and self.pool.has_answered
                if outlives and not self.keeps_sessions:
                    for session_id in self.session_ids:
                        stack.push_async_callback(self.pool.delete_session, session_id)
                self.remove_sessions(*self.session_ids)
        except CodeInterpreterError as error:
            logger.warning(
                "an interpreter that was not closed did not end cleanly: %s", describe_error(error)
            )


def _close_abandoned(leftovers: _Leftovers) -> None:
    """Close the pool of a host that nobody holds, and warn where it had something to close."""
    if not leftovers.is_started:
        return
    event_loop.close_soon(leftovers.aclose)
    if type(leftovers.pool).aclose is not SessionPool.aclose:
        warnings.warn(
            f"unclosed CodeInterpreter of the pool {leftovers.pool.capabilities.name!r}; "
            "use 'async with' or aclose()",
            ResourceWarning,
            stacklevel=2,
        )


class SessionHost:
    """A pool, the limits of its sessions, and the file transfer into and out of them.

    Args:
        pool: Where code runs.
        limits: Bounds of runs and files.
        files: Where larger files are staged, and which URLs may be fetched.
        owns_pool: Start and close the pool, and run calls on the package's event loop.
        env: Variables for the code in every session.
        workspace: Where the files of sessions are kept after each run, or None.

    Attributes:
        pool: Where code runs. It may not be started yet.
        limits: Bounds of runs and files.
        owns_pool: Whether the host starts and closes the pool.
        env: Variables for the code in every session, or None.
        files: Where larger files are staged and checkpoints are kept.
        used_storages: Containers that were passed for a checkpoint. They close with the host.
        close_at_exit: Called if the program ends before the host is closed.
    """

    def __init__(
        self,
        pool: SessionPool,
        *,
        limits: Limits | None = None,
        files: FileOptions | None = None,
        owns_pool: bool = True,
        env: SessionEnvironment | None = None,
        workspace: WorkspacePlace | None = None,
    ) -> None:
        self.pool = pool
        self.limits = Limits() if limits is None else limits
        self.close_at_exit: Callable[[], Awaitable[None]] = self.aclose
        self.files = FileOptions() if files is None else files
        self._file_transfer: FileTransfer | None = None
        self.used_storages: set[BlobStorage] = set()
        self.owns_pool = owns_pool
        self.env = env
        self.workspace = workspace
        self._is_started = not owns_pool
        self._is_closed = False
        self._start: SharedAttempt | None = None
        self._companions: list[SessionHost] = []
        self._ending = KeyedLocks()
        self._leftovers = _Leftovers(pool)
        self._finalizer = weakref.finalize(self, _close_abandoned, self._leftovers)
        self._finalizer.atexit = False  # the event loop closes it then

    def create_companion(self, pool: SessionPool) -> SessionHost:
        """Create a host of another pool with the same options, which closes with this one.

        Args:
            pool: Another way to the same sessions, such as a gateway.
        """
        companion = SessionHost(
            pool,
            limits=self.limits,
            files=self.files,
            owns_pool=self.owns_pool,
            env=self.env,
            workspace=self.workspace,
        )
        self._companions.append(companion)
        return companion

    async def dispatch(self, func: Callable[..., Awaitable[T]], *args: object) -> T:
        """Await `func(*args)` on the pool's event loop."""
        if self.owns_pool:
            return await event_loop.dispatch(func, *args)
        return await func(*args)

    async def dispatch_until_ended(self, func: Callable[..., Awaitable[T]], *args: object) -> T:
        """Call `dispatch`. A cancelled caller waits until the call has ended there, too."""
        if self.owns_pool:
            return await event_loop.dispatch_until_ended(func, *args)
        return await func(*args)

    async def get_pool(self) -> SessionPool:
        """Return the started pool.

        Raises:
            ConfigurationError: The host is closed.
            PoolError: The pool cannot start.
        """
        self.check_open()
        if not self._is_started:
            if self._start is None:
                self._start = SharedAttempt()
            async with self._start.hold():
                if not self._is_started:
                    await self.pool.start()
                    event_loop.add_owner(self)
                    self._is_started = self._leftovers.is_started = True
        return self.pool

    async def get_file_transfer(self) -> FileTransfer:
        """Return the file transfer of the started pool."""
        pool = await self.get_pool()
        if self._file_transfer is None:
            self._file_transfer = FileTransfer(pool, limits=self.limits, options=self.files)
            self._leftovers.file_transfer = self._file_transfer
        return self._file_transfer

    async def end_session(self, session_id: str, *, is_needed: Callable[[], bool]) -> None:
        """End a session in the pool, one call at a time for each identifier.

        Args:
            session_id: The session.
            is_needed: Asked when it is this call's turn.

        Raises:
            PoolError: The pool failed.
        """
        async with self._ending.hold(session_id):
            if is_needed():
                if self.pool.has_answered:
                    await self.pool.delete_session(session_id)
                self.note_end(session_id)

    def check_open(self) -> None:
        """Raise if the host is closed."""
        if self._is_closed:
            raise ConfigurationError("this CodeInterpreter is closed", hint="make a new one")

    def note_use(self, session_id: str) -> None:
        """Remember a session that may exist in the pool."""
        self._leftovers.add_session(session_id)

    def note_end(self, session_id: str) -> None:
        """Forget a session that has ended in the pool."""
        self._leftovers.remove_sessions(session_id)

    def keep_sessions(self) -> None:
        """Leave the sessions of a remote pool alone when nobody holds this host any longer."""
        self._leftovers.keeps_sessions = True

    def reset_after_fork(self) -> None:
        """Replace the parent's pool by a new one, in a forked child."""
        event_loop.keep_inherited(self.pool, self._file_transfer, self.files)
        if self._start is not None:  # the parent has started it, or tried to
            self.pool = renew(self.pool)
        if self.files.storage is not None:
            self.files = replace(self.files, storage=renew(self.files.storage))
        if self.files.checkpoints is not None:
            self.files = replace(self.files, checkpoints=renew(self.files.checkpoints))
        self._file_transfer, self._start, self._is_started = None, None, False
        event_loop.keep_inherited(self.used_storages)
        self.used_storages = set()
        self._ending = KeyedLocks()
        self._leftovers.restart(self.pool)

    def refuse_calls(self) -> None:
        """Refuse every further call, before the sessions and the pool are closed."""
        self._is_closed = True
        event_loop.remove_owner(self)
        self._finalizer.detach()

    async def aclose(self) -> None:
        """Close the file transfer, and the pool if the host owns it. A second call is allowed."""
        self.refuse_calls()
        self._leftovers.remove_sessions(*self._leftovers.session_ids)
        async with AsyncExitStack() as stack:  # each is closed, also if another cannot be
            for storage in self.used_storages:
                stack.push_async_callback(storage.aclose)
            if self.files.checkpoints is not None:
                stack.push_async_callback(self.files.checkpoints.aclose)
            if self._file_transfer is not None:
                stack.push_async_callback(self._file_transfer.aclose)
            if self.owns_pool:
                stack.push_async_callback(self.pool.aclose)
            for companion in self._companions:
                stack.push_async_callback(companion.aclose)


def bind_to_current_loop(handler: Callable[[T], object]) -> Callable[[T], None]:
    """Return a function for other threads that calls `handler` on the caller's event loop.

    Calls keep their order and have the caller's context variables. After the loop has closed they
    are dropped.
    """
    loop, context = event_loop.get_running_loop(), copy_context()

    def forward(value: T) -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(handler, value, context=context)

    return forward

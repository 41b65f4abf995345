"""The pool behind a set of sessions, with its limits and its file transfer.

Every `Session`, `SessionFiles` and `SessionDirectory` holds one `SessionHost`. There are two kinds:

- A `CodeInterpreter` owns its pool (`owns_pool=True`). The pool is started by the first call and
  closed with the host. It lives on the package's event loop, so `dispatch` moves each call there.
- A server serves a pool of its caller (`owns_pool=False`). The caller starts and closes the pool.
  It lives on the loop of the server, so `dispatch` awaits the call where it is.

`get_pool` and `get_file_transfer` run on the pool's loop only. A closed host refuses both, so that
no session starts in a pool that is closing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextvars import copy_context
from typing import TypeVar

import anyio

from cci_plugins.common import event_loop
from cci_plugins.common.limits import Limits
from cci_plugins.errors import ConfigurationError
from cci_plugins.files.file_transfer import FileOptions, FileTransfer
from cci_plugins.pools.base import SessionPool

T = TypeVar("T")


class SessionHost:
    """A pool, the limits of its sessions, and the file transfer into and out of them.

    Args:
        pool: Where code runs.
        limits: Bounds of runs and files.
        files: Where larger files are staged, and which URLs may be fetched.
        owns_pool: Start and close the pool, and run calls on the package's event loop.

    Attributes:
        pool: Where code runs. It may not be started yet.
        limits: Bounds of runs and files.
        close_at_exit: Called if the program ends before the host is closed.
    """

    def __init__(
        self,
        pool: SessionPool,
        *,
        limits: Limits | None = None,
        files: FileOptions | None = None,
        owns_pool: bool = True,
    ) -> None:
        self.pool = pool
        self.limits = Limits() if limits is None else limits
        self.close_at_exit: Callable[[], Awaitable[None]] = self.aclose
        self._files = FileOptions() if files is None else files
        self._file_transfer: FileTransfer | None = None
        self._owns_pool = owns_pool
        self._is_started = not owns_pool
        self._is_closed = False
        self._start_lock: anyio.Lock | None = None
        self._companions: list[SessionHost] = []

    def create_companion(self, pool: SessionPool) -> SessionHost:
        """Create a host of another pool with the same options, which closes with this one.

        Args:
            pool: Another way to the same sessions, such as a gateway.
        """
        companion = SessionHost(
            pool, limits=self.limits, files=self._files, owns_pool=self._owns_pool
        )
        self._companions.append(companion)
        return companion

    async def dispatch(self, func: Callable[..., Awaitable[T]], *args: object) -> T:
        """Await `func(*args)` on the pool's event loop."""
        if self._owns_pool:
            return await event_loop.dispatch(func, *args)
        return await func(*args)

    async def get_pool(self) -> SessionPool:
        """Return the started pool.

        Raises:
            ConfigurationError: The host is closed.
            PoolError: The pool cannot start.
        """
        self.check_open()
        if not self._is_started:
            if self._start_lock is None:
                self._start_lock = anyio.Lock()
            async with self._start_lock:
                if not self._is_started:
                    await self.pool.start()
                    event_loop.register_closer(self, self.close_at_exit)
                    self._is_started = True
        return self.pool

    async def get_file_transfer(self) -> FileTransfer:
        """Return the file transfer of the started pool."""
        pool = await self.get_pool()
        if self._file_transfer is None:
            self._file_transfer = FileTransfer(pool, limits=self.limits, options=self._files)
        return self._file_transfer

    def check_open(self) -> None:
        """Raise if the host is closed."""
        if self._is_closed:
            raise ConfigurationError("this CodeInterpreter is closed", hint="make a new one")

    def refuse_calls(self) -> None:
        """Refuse every further call, before the sessions and the pool are closed."""
        self._is_closed = True
        event_loop.unregister_closer(self)

    async def aclose(self) -> None:
        """Close the file transfer, and the pool if the host owns it. A second call is allowed."""
        self.refuse_calls()
        for companion in self._companions:
            await companion.aclose()
        if self._owns_pool:
            await self.pool.aclose()
        if self._file_transfer is not None:
            await self._file_transfer.aclose()


def bind_to_current_loop(handler: Callable[[T], object]) -> Callable[[T], None]:
    """Return a function for other threads that calls `handler` on the caller's event loop.

    Calls keep their order and have the caller's context variables. After the loop has closed they
    are dropped.
    """
    loop, context = asyncio.get_running_loop(), copy_context()

    def forward(value: T) -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(handler, value, context=context)

    return forward

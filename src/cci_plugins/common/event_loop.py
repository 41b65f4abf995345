"""The one event loop that owns every interpreter, in a thread of its own.

Session pools hold sockets, locks and child processes that belong to one loop. Applications have
many: one per `asyncio.run`, per thread, per web worker, or none at all. So everything runs on
this loop, and calls from any other loop or thread are carried to it.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from contextlib import ExitStack
from typing import TYPE_CHECKING, TypeVar

from .log import logger

if TYPE_CHECKING:
    from anyio.from_thread import BlockingPortal

T = TypeVar("T")

EXIT_SECONDS = 10


class EventLoopThread:
    """The running portal of this process; a forked child starts one of its own."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._stack = ExitStack()
        self._portal: BlockingPortal | None = None
        self._pid = 0
        self._closers: dict[object, Callable[[], Awaitable[None]]] = {}
        self.loop: asyncio.AbstractEventLoop | None = None

    def get_portal(self) -> BlockingPortal:
        if self._portal is not None and self._pid == os.getpid():
            return self._portal
        with self._guard:
            if self._portal is None or self._pid != os.getpid():
                from anyio.from_thread import start_blocking_portal

                self._stack = ExitStack()
                self._closers = {}
                portal = self._stack.enter_context(start_blocking_portal(name="cci-plugins"))
                self.loop = portal.call(asyncio.get_running_loop)
                self._portal, self._pid = portal, os.getpid()
                atexit.register(self.stop)
            return self._portal

    def register_closer(self, owner: object, close: Callable[[], Awaitable[None]]) -> None:
        self._closers[owner] = close

    def unregister_closer(self, owner: object) -> None:
        self._closers.pop(owner, None)

    def stop(self) -> None:
        if self._portal is None or self._pid != os.getpid():
            return
        portal, self._portal = self._portal, None
        for close in list(self._closers.values()):
            try:
                portal.start_task_soon(close).result(EXIT_SECONDS)
            except Exception as error:  # noqa: BLE001 - the program ends; its fences end with it
                logger.debug("an interpreter did not close: %r", error)
        portal.call(portal.stop, True)  # noqa: FBT003 - cancel what still runs
        self._stack.close()


_event_loop_thread = EventLoopThread()
register_closer = _event_loop_thread.register_closer
unregister_closer = _event_loop_thread.unregister_closer


def submit(func: Callable[..., Awaitable[T]], *args: object) -> Future[T]:
    """Start `func(*args)` on the portal's loop, with the caller's context variables."""
    return _event_loop_thread.get_portal().start_task_soon(func, *args)


def run_blocking(func: Callable[..., Awaitable[T]], *args: object) -> T:
    """Run on the portal and block; Ctrl-C cancels the call there before it is raised here."""
    future = submit(func, *args)
    try:
        return future.result()
    except BaseException:
        future.cancel()
        raise


async def dispatch(func: Callable[..., Awaitable[T]], *args: object) -> T:
    """Await `func(*args)` on the portal's loop; cancelling the caller cancels it there."""
    if asyncio.get_running_loop() is _event_loop_thread.loop:
        return await func(*args)
    return await asyncio.wrap_future(submit(func, *args))

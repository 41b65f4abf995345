"""The event loop that owns every interpreter, in a thread of its own.

Session pools hold sockets, locks and child processes, each of which belongs to one event loop.
Applications have many loops (one for each `asyncio.run`, thread or web worker) or none. So one
loop runs in a background thread, and every interpreter lives on it.

Invariants:

* Pools, sessions and connections are created, used and closed on this loop only. An
  `anyio.Lock` that the loop's code uses is never awaited elsewhere.
* A call from another loop goes through `dispatch`. A call from a thread without a loop goes
  through `run_blocking`, or `submit` when the caller wants the future. All three keep the
  caller's context variables, so that spans stay in their trace.
* `dispatch` on the loop itself awaits directly. `run_blocking` there would wait for itself for
  ever, so code on the loop must never call it.
* Cancelling the caller, also by Ctrl-C, cancels the call on the loop.
* The thread starts with the first call. It ends at the exit of the interpreter, after the
  interpreters that are still open were closed, each within `EXIT_SECONDS`.

Forks: a child has no such thread, because a fork copies only the thread that called it. If the
parent has made no call yet, the child starts a loop and thread of its own. If it has made one,
the child's stored process id differs, so its first call tries the same, but hangs today. It
replaces the parent's `ExitStack`. The old one is then finalized and waits for a loop that does
not run in the child. Until that is fixed, fork before the first call, or use the start method
`spawn`. An interpreter that was started before a fork is never usable in the child, because it
holds the parent's connections and processes.
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
    """The background thread of this process that runs the loop, and its portal."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._stack = ExitStack()
        self._portal: BlockingPortal | None = None
        self._pid = 0
        self._closers: dict[object, Callable[[], Awaitable[None]]] = {}
        self.loop: asyncio.AbstractEventLoop | None = None

    def get_portal(self) -> BlockingPortal:
        """Return the portal of this process, and start its thread if it does not run."""
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
        """Call `close` on the loop when the process exits."""
        self._closers[owner] = close

    def unregister_closer(self, owner: object) -> None:
        """Remove the closer of an owner that was closed already."""
        self._closers.pop(owner, None)

    def stop(self) -> None:
        """Close what is still open and stop the loop. In a forked child, do nothing."""
        if self._portal is None or self._pid != os.getpid():
            return
        portal, self._portal = self._portal, None
        for close in list(self._closers.values()):
            try:
                portal.start_task_soon(close).result(EXIT_SECONDS)
            except Exception as error:  # noqa: BLE001 - the program exits, and its sandboxes with it
                logger.debug("an interpreter did not close: %r", error)
        portal.call(portal.stop, True)  # noqa: FBT003 - cancel what still runs
        self._stack.close()


_event_loop_thread = EventLoopThread()
register_closer = _event_loop_thread.register_closer
unregister_closer = _event_loop_thread.unregister_closer


def submit(func: Callable[..., Awaitable[T]], *args: object) -> Future[T]:
    """Start `func(*args)` on the loop, with the caller's context variables."""
    return _event_loop_thread.get_portal().start_task_soon(func, *args)


def run_blocking(func: Callable[..., Awaitable[T]], *args: object) -> T:
    """Run `func(*args)` on the loop and block until it is done.

    Ctrl-C cancels the call on the loop and is then raised here.
    """
    future = submit(func, *args)
    try:
        return future.result()
    except BaseException:
        future.cancel()
        raise


async def dispatch(func: Callable[..., Awaitable[T]], *args: object) -> T:
    """Await `func(*args)` on the loop. Cancelling the caller cancels the call there."""
    if asyncio.get_running_loop() is _event_loop_thread.loop:
        return await func(*args)
    return await asyncio.wrap_future(submit(func, *args))

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
* The caller's loop is one of asyncio. Other libraries get an error.
* `dispatch` on the loop itself awaits directly. `run_blocking` there would wait for itself for
  ever, so code on the loop must never call it.
* A call never waits for the loop to begin it, since the caller's own loop would stand still
  meanwhile. It wakes the loop once, and its end wakes the caller once.
* Cancelling the caller, also by Ctrl-C, cancels the call on the loop, by a scope of anyio. So what
  the call shields, such as the end of a connection, is not cut short.
* The thread starts with the first call. It ends at the exit of the interpreter, after the
  interpreters that are still open were closed, each within `EXIT_SECONDS`.
* The loop holds no interpreter. One that nobody else holds is closed soon (`close_soon`).

Forks: a child has no such thread, because a fork copies only the thread that called it. The
child's first call therefore starts a loop and thread of its own. Objects that belong to the
parent's loop are kept, but never used or finalized: their finalizers would wait for that loop, or
close what the parent still uses. `add_fork_hook` names the objects that start again in a child.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import sys
import threading
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Future
from contextvars import copy_context
from typing import Any, Protocol, TypeVar
from weakref import WeakSet

from cci_plugins.errors import CodeInterpreterError, ConfigurationError

from .log import logger
from .shortages import find_hint, is_thread_refused

T = TypeVar("T")

EXIT_SECONDS = 10
_inherited: list[object] = []  # of the parent process, see "Forks"


class ForkAware(Protocol):
    """An object that a forked child must not use as the parent left it."""

    def reset_after_fork(self) -> None:
        """Forget what belongs to the parent process. Called in the child, before it goes on."""
        ...


class ClosedAtExit(Protocol):
    """An object that holds what must be released before the process ends."""

    @property
    def close_at_exit(self) -> Callable[[], Awaitable[None]]:
        """The function that closes it. It is called on the loop."""
        ...


class EventLoopThread:
    """The background thread of this process that runs the loop, and the calls on it.

    Attributes:
        loop: The loop, also while it ends, or None before the first call.
    """

    def __init__(self) -> None:
        self._fork_hooks: WeakSet[ForkAware] = WeakSet()
        self._clear()

    def _clear(self) -> None:
        self._guard = threading.Lock()
        self._thread: threading.Thread | None = None
        self._owners: WeakSet[ClosedAtExit] = WeakSet()
        self._closing: set[asyncio.Task[None]] = set()
        self._calls: dict[Future[Any], asyncio.AbstractEventLoop] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopped: asyncio.Event | None = None
        self._open_loop: asyncio.AbstractEventLoop | None = None  # None also after `stop`
        self.loop: asyncio.AbstractEventLoop | None = None

    def submit(
        self, func: Callable[..., Awaitable[T]], *args: object, must_begin: bool = False
    ) -> Future[T]:
        """Start `func(*args)` on the loop, with the caller's context variables.

        Cancelling the future cancels the call. One that must begin does so first, and can then
        shield what has to come to its end.
        """
        loop = self._get_loop()
        future: Future[T] = Future()
        context = copy_context()

        def start() -> None:
            if future.cancelled() and not must_begin:
                return
            task = loop.create_task(_perform(loop, future, func, *args), context=context)
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

        self._calls[future] = loop
        future.add_done_callback(self._calls.pop)
        loop.call_soon_threadsafe(start, context=context)
        return future

    def _get_loop(self) -> asyncio.AbstractEventLoop:
        """Return the loop of this process, and start its thread if it does not run."""
        if self._open_loop is not None:
            return self._open_loop
        with self._guard:
            if self._open_loop is None:
                started: Future[asyncio.AbstractEventLoop] = Future()
                self._thread = threading.Thread(
                    target=self._run_loop, args=(started,), name="cci-plugins", daemon=True
                )
                try:
                    self._thread.start()
                    self.loop = self._open_loop = started.result()
                except (OSError, RuntimeError) as error:
                    raise _build_refusal(error) from error
                self._register_exit()
            return self._open_loop

    def _run_loop(self, started: Future[asyncio.AbstractEventLoop]) -> None:
        async def serve() -> None:
            self._stopped = asyncio.Event()
            started.set_result(asyncio.get_running_loop())
            await self._stopped.wait()
            self._cancel_calls(asyncio.get_running_loop())
            if self._tasks:
                await asyncio.wait(self._tasks)

        try:
            asyncio.run(serve())
        except BaseException as error:
            if started.done():
                raise
            started.set_exception(error)
        else:
            self._cancel_calls(started.result())  # made since, so nothing will answer them

    def _cancel_calls(self, loop: asyncio.AbstractEventLoop) -> None:
        for call, its_loop in self._calls.copy().items():
            if its_loop is loop:
                call.cancel()

    def _register_exit(self) -> None:
        atexit.register(self.stop)
        if "multiprocessing.util" in sys.modules:  # its children end without `atexit`
            from multiprocessing.util import Finalize

            Finalize(None, self.stop, exitpriority=0)

    def add_owner(self, owner: ClosedAtExit) -> None:
        """Close an owner when the process exits, unless nobody holds it any longer by then."""
        self._owners.add(owner)

    def remove_owner(self, owner: ClosedAtExit) -> None:
        """Forget an owner that was closed already."""
        self._owners.discard(owner)

    def close_soon(self, close: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Call `close` on the loop, without waiting. A finalizer may call this in any thread."""
        if self._open_loop is None:
            return  # the loop has ended, and closed everything

        def start() -> None:
            task = asyncio.ensure_future(close())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

        self._open_loop.call_soon_threadsafe(start)

    def stop(self) -> None:
        """Close what is still open and stop the loop. A second call does nothing."""
        if self._open_loop is None or self._stopped is None:
            return
        for owner in list(self._owners):
            try:
                self.submit(owner.close_at_exit).result(EXIT_SECONDS)
            except Exception as error:  # noqa: BLE001 - the program exits, and its sandboxes with it
                logger.debug("an interpreter did not close: %r", error)
        self.submit(self._wait_closed).result()
        loop, self._open_loop = self._open_loop, None
        loop.call_soon_threadsafe(self._stopped.set)
        if self._thread is not None:
            self._thread.join()

    async def _wait_closed(self) -> None:
        if self._closing:
            await asyncio.wait(self._closing, timeout=EXIT_SECONDS)

    def add_fork_hook(self, owner: ForkAware) -> None:
        """Call `owner.reset_after_fork()` in every forked child, as long as the owner lives."""
        self._fork_hooks.add(owner)

    def reset_after_fork(self) -> None:
        """Forget the parent's loop and thread, in a forked child."""
        keep_inherited(
            self._thread, self._closing, self._calls, self._tasks, self._stopped, self.loop
        )
        self._clear()
        for owner in list(self._fork_hooks):
            owner.reset_after_fork()


async def _perform(
    loop: asyncio.AbstractEventLoop,
    future: Future[T],
    func: Callable[..., Awaitable[T]],
    *args: object,
) -> None:
    """Await `func(*args)`, and give its result to the future, whose cancellation cancels it."""
    from anyio import CancelScope

    with CancelScope() as scope:

        def cancel_call(done: Future[T]) -> None:
            if done.cancelled() and not loop.is_closed():
                loop.call_soon_threadsafe(scope.cancel)

        future.add_done_callback(cancel_call)
        try:
            result = await func(*args)
        except asyncio.CancelledError:
            future.cancel()
            raise
        except BaseException as error:  # noqa: BLE001 - the caller's, and nothing here to end
            if is_thread_refused(error):
                error = _build_refusal(error)
            if future.set_running_or_notify_cancel():
                future.set_exception(error)
        else:
            if future.set_running_or_notify_cancel():
                future.set_result(result)


def _build_refusal(error: BaseException) -> CodeInterpreterError:
    return CodeInterpreterError(
        f"the system refused what this call needs: {error}", hint=find_hint(error)
    )


def keep_inherited(*objects: object) -> None:
    """Keep objects of the parent process from being finalized in a forked child."""
    _inherited.append(objects)


_event_loop_thread = EventLoopThread()
add_owner = _event_loop_thread.add_owner
remove_owner = _event_loop_thread.remove_owner
close_soon = _event_loop_thread.close_soon
add_fork_hook = _event_loop_thread.add_fork_hook
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_event_loop_thread.reset_after_fork)


def get_running_loop() -> asyncio.AbstractEventLoop:
    """Return the caller's event loop.

    Raises:
        ConfigurationError: The caller's event loop is not one of asyncio.
    """
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        raise ConfigurationError(
            "this call runs on an event loop that is not asyncio's",
            hint="call cci_plugins.sync in a worker thread, such as by trio.to_thread.run_sync",
        ) from None


def is_package_loop(loop: asyncio.AbstractEventLoop) -> bool:
    """Return whether a loop is the one that owns every interpreter."""
    return loop is _event_loop_thread.loop


def submit(func: Callable[..., Awaitable[T]], *args: object) -> Future[T]:
    """Start `func(*args)` on the loop, with the caller's context variables."""
    return _event_loop_thread.submit(func, *args)


def run_blocking(func: Callable[..., Awaitable[T]], *args: object, must_begin: bool = False) -> T:
    """Run `func(*args)` on the loop and block until it is done.

    Ctrl-C cancels the call on the loop and is then raised here.
    """
    future = _event_loop_thread.submit(func, *args, must_begin=must_begin)
    try:
        return future.result()
    except BaseException:
        future.cancel()
        raise


async def dispatch(func: Callable[..., Awaitable[T]], *args: object, must_begin: bool = False) -> T:
    """Await `func(*args)` on the loop. Cancelling the caller cancels the call there."""
    if get_running_loop() is _event_loop_thread.loop:
        return await func(*args)
    future = _event_loop_thread.submit(func, *args, must_begin=must_begin)
    return await asyncio.wrap_future(future)

"""Support of `asyncio.run` in sessions that also await at the top level.

A Jupyter kernel runs every cell on its event loop, where asyncio refuses to start another one.
Here the kernel's loop is set aside while the other one runs, as for any code that blocks. A
coroutine for the kernel's own loop (`get_event_loop().run_until_complete`) gets a loop of its own.
"""

from __future__ import annotations

import asyncio
import functools
from asyncio import base_events, events, runners, tasks
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def set_loop_aside(session_loop: Callable[[], Any]) -> Iterator[None]:
    """Set the session's running loop and task aside. Other running loops stay."""
    loop = events._get_running_loop()  # noqa: SLF001 - asyncio has no other way
    if loop is None or loop is not session_loop():
        yield
        return
    task = tasks.current_task(loop)
    if task is not None:
        tasks._leave_task(loop, task)  # noqa: SLF001
    events._set_running_loop(None)  # noqa: SLF001
    try:
        yield
    finally:
        events._set_running_loop(loop)  # noqa: SLF001
        if task is not None:
            tasks._enter_task(loop, task)  # noqa: SLF001
        asyncio.set_event_loop(loop)


def allow_nested_loops(session_loop: Callable[[], Any]) -> None:
    """Let the code of a session start event loops.

    Args:
        session_loop: Returns the loop on which the session runs its cells.
    """
    if getattr(runners, "_cci_nested", False):
        return
    runners._cci_nested = True  # type: ignore[attr-defined]  # noqa: SLF001

    def wrap(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def call(*arguments: Any, **options: Any) -> Any:
            with set_loop_aside(session_loop):
                return function(*arguments, **options)

        return call

    asyncio.run = runners.run = wrap(runners.run)
    if hasattr(runners, "Runner"):
        runners.Runner.run = wrap(runners.Runner.run)  # type: ignore[method-assign]
    loop_class: Any = base_events.BaseEventLoop
    run_until_complete, run_forever = loop_class.run_until_complete, loop_class.run_forever

    def run_nested(self: Any, future: Any) -> Any:
        if self is events._get_running_loop() and self is session_loop():  # noqa: SLF001
            if asyncio.iscoroutine(future):
                return asyncio.run(future)
            return run_until_complete(self, future)  # it raises: the future needs this loop
        with set_loop_aside(session_loop):
            return run_until_complete(self, future)

    loop_class.run_until_complete = run_nested
    loop_class.run_forever = wrap_unless_running(run_forever, session_loop)


def wrap_unless_running(
    run_forever: Callable[..., Any], session_loop: Callable[[], Any]
) -> Callable[..., Any]:
    """Return `run_forever` for other loops than the session's own."""

    @functools.wraps(run_forever)
    def call(self: Any) -> Any:
        if self is session_loop():
            return run_forever(self)
        with set_loop_aside(session_loop):
            return run_forever(self)

    return call


def allow_in_anyio(session_loop: Callable[[], Any], anyio: Any) -> None:
    """Let `anyio.run` start its own loop, too. It refuses by a check of its own."""
    run = anyio.run

    @functools.wraps(run)
    def call(*arguments: Any, **options: Any) -> Any:
        with set_loop_aside(session_loop):
            return run(*arguments, **options)

    anyio.run = call

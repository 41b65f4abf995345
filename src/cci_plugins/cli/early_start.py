"""Start of the embedded pool while the rest of a command is loaded.

Its kernel is another process, and takes longer to load than this one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Protocol, runtime_checkable

from cci_plugins.common import event_loop
from cci_plugins.errors import CodeInterpreterError
from cci_plugins.pools.base import SessionPool


@runtime_checkable
class _Embedded(Protocol):
    """The embedded pool, whose module is not loaded for another one."""

    def expect_session(self) -> None: ...


@contextmanager
def start_early(pool: SessionPool) -> Iterator[Callable[[], None]]:
    """Start the embedded pool in the background, with a kernel for the session that follows.

    A pool of another kind is left alone. If the block fails, the pool is closed here.

    Args:
        pool: The pool, which is not started.

    Yields:
        Function that waits for the start. It raises the error of a start that failed.
    """
    if not isinstance(pool, _Embedded):
        yield lambda: None
        return
    pool.expect_session()
    start = event_loop.submit(pool.start)
    try:
        yield start.result
    except BaseException:
        start.cancel()
        with suppress(CodeInterpreterError):
            event_loop.run_blocking(pool.aclose)
        raise

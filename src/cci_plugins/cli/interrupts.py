"""Ctrl-C where Python would swallow it, or print a traceback: while modules load, and at exit."""

from __future__ import annotations

import signal
import threading
from collections.abc import Generator
from contextlib import contextmanager


@contextmanager
def defer_interrupt() -> Generator[None]:
    """Raise the `KeyboardInterrupt` of Ctrl-C at the end of the block, which must be short.

    Raises:
        KeyboardInterrupt: The user pressed Ctrl-C meanwhile.
    """
    if not _raises_interrupt():
        yield
        return
    arrived: list[int] = []
    signal.signal(signal.SIGINT, lambda number, _: arrived.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if arrived:
        raise KeyboardInterrupt


def ignore_interrupt() -> None:
    """Ignore Ctrl-C from now on, where it would raise `KeyboardInterrupt`."""
    if _raises_interrupt():
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def _raises_interrupt() -> bool:
    """Return whether Ctrl-C raises in this thread, and no application has another use for it."""
    is_main = threading.current_thread() is threading.main_thread()
    return is_main and signal.getsignal(signal.SIGINT) is signal.default_int_handler

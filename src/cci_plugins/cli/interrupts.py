"""Ctrl-C while modules are loaded, when Python may swallow it or end in any of their lines."""

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
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
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

"""One line in the log, now and then, while the system refuses new connections.

asyncio reports each refused attempt with a traceback, and it makes as many at once as connections
may wait. That is a megabyte a second while a client waits and no descriptor is left.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from cci_plugins.common.log import logger
from cci_plugins.common.shortages import find_hint

AGAIN_SECONDS = 60.0
_MESSAGE = "socket.accept() out of system resource"  # of asyncio


@contextmanager
def report_refused_accepts(loop: asyncio.AbstractEventLoop) -> Generator[None]:
    """Log refused connections rarely while the block runs. Other reports of the loop stay.

    Args:
        loop: The running event loop.
    """
    before = loop.get_exception_handler()
    last = -AGAIN_SECONDS

    def handle(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        nonlocal last
        if context.get("message") != _MESSAGE:
            if before is None:
                loop.default_exception_handler(context)
            else:
                before(loop, context)
            return
        if time.monotonic() - last >= AGAIN_SECONDS:
            last = time.monotonic()
            error = context.get("exception") or OSError(_MESSAGE)
            logger.warning("no new connection can be accepted: %s; %s", error, find_hint(error))

    loop.set_exception_handler(handle)
    try:
        yield
    finally:
        loop.set_exception_handler(before)

"""The event loop for async tools of callers that block, such as users of `cci_plugins.sync`.

Such a caller has no event loop, and the loop of the interpreters must not run foreign code: a tool
that blocks would stop every session. So those tools share a loop in a thread of their own. It
starts with the first such call.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import threading

_JOIN_SECONDS = 1.0


class ToolLoop:
    """The thread that runs the loop."""

    def __init__(self) -> None:
        self._clear()

    def _clear(self) -> None:
        self._guard = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None

    def get(self) -> asyncio.AbstractEventLoop:
        """Return the running loop, and start its thread if needed."""
        with self._guard:
            if self._loop is None:
                loop = asyncio.new_event_loop()
                thread = threading.Thread(
                    target=loop.run_forever, name="cci-plugins-tools", daemon=True
                )
                try:
                    thread.start()
                except BaseException:
                    loop.close()
                    raise
                self._loop = loop
                atexit.register(_stop, loop, thread)
            return self._loop

    def reset_after_fork(self) -> None:
        """Forget the parent's thread, in a forked child."""
        _inherited.append(self._loop)
        self._clear()


def _stop(loop: asyncio.AbstractEventLoop, thread: threading.Thread) -> None:
    if not thread.is_alive():  # in a forked child
        return
    loop.call_soon_threadsafe(loop.stop)
    thread.join(_JOIN_SECONDS)
    if not thread.is_alive():
        loop.close()


_inherited: list[object] = []  # of the parent process: they are never used or finalized
_tool_loop = ToolLoop()
get_tool_loop = _tool_loop.get
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_tool_loop.reset_after_fork)

"""What a kernel is told before it is handed out; sent as source, standard library only.

It runs inside the fence in a namespace of its own, so the user's names stay theirs.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

from cci_plugins.in_session.charts import register_data_formatters
from cci_plugins.in_session.proxy_relay import start_proxy_relay

MAX_MESSAGE_CHARACTERS = 1 << 20


def bound_messages(stream: Any, limit: int) -> None:
    """Make a stream's class send at most `CHUNK` characters in one message, `limit` in one run.

    Unbounded, one huge print becomes one huge message, which the host refuses, and an endless one
    fills the session's memory faster than the host can read; a little more than the host's own
    limit is enough for it to stop the run. Lone surrogates are escaped: Jupyter's JSON cannot
    carry them and would drop the whole output.
    """
    kind = type(stream)
    schedule_flush = kind._schedule_flush  # noqa: SLF001
    sent: dict[str, Any] = {"run": None, "characters": 0}
    flush_buffers = kind._flush_buffers  # noqa: SLF001 - ipykernel has no public place for this

    def flush_bounded(self: Any) -> Iterator[tuple[Any, str]]:
        for parent, text in flush_buffers(self):
            if sent["run"] != parent.get("msg_id"):
                sent.update(run=parent.get("msg_id"), characters=0)
            safe = text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()
            for start in range(0, len(safe), MAX_MESSAGE_CHARACTERS):
                if sent["characters"] <= limit:
                    sent["characters"] += min(len(safe), MAX_MESSAGE_CHARACTERS)
                    yield parent, safe[start : start + MAX_MESSAGE_CHARACTERS]

    def flush_early(self: Any) -> None:
        schedule_flush(self)
        with self._buffer_lock:  # else the sending thread closes a buffer under our eyes
            waiting = sum(buffer.tell() for buffer in self._buffers.values())
        if waiting > MAX_MESSAGE_CHARACTERS:
            self.flush()  # waits: code that prints faster than it is sent fills its own memory

    kind._flush_buffers = flush_bounded  # noqa: SLF001
    kind._schedule_flush = flush_early  # noqa: SLF001


def refuse_input(*_: Any, **__: Any) -> str:
    """Stand in for `input` and `getpass`: nobody is there to answer."""
    raise EOFError("input() is not available here: nobody can answer; put the value in the code")


def install(shell: Any, preload: list[str], limit: int, proxy_socket: str | None) -> None:
    """Set up one kernel.

    Args:
        shell: IPython's.
        preload: Modules to import.
        limit: Most characters that one run may put out.
        way_out: The Unix socket of its proxy, where it has one.
    """
    if proxy_socket is not None:
        start_proxy_relay(proxy_socket)
        shell.cci_proxy_socket = proxy_socket  # for file transfers, which need no detour
    bound_messages(sys.stdout, limit)
    shell._tee = lambda channel: nullcontext(channel)  # noqa: SLF001, PLW0108 - IPython 9 would keep all output in memory
    shell.kernel.raw_input = shell.kernel.getpass = refuse_input
    warnings.filterwarnings("ignore", "To exit: use")  # about a prompt that nobody sees
    warnings.filterwarnings("ignore", "Output cache limit")  # IPython's own affair
    shell.run_line_magic("colors", "NoColor")
    register_data_formatters(shell)
    for name in preload:
        try:
            importlib.import_module(name)
        except ImportError:
            continue

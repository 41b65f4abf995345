"""Setup of a kernel of the embedded pool before its first run.

It is sent as source and uses the standard library only. It runs in the sandbox in a namespace of
its own, so that it adds no names to the user's.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

from cci_plugins.in_session.charts import register_data_formatters
from cci_plugins.in_session.message_bounds import bound_kernel_messages
from cci_plugins.in_session.proxy_relay import start_proxy_relay

MAX_MESSAGE_CHARACTERS = 1 << 20


def bound_messages(stream: Any, limit: int) -> None:
    """Bound the messages of a stream's class to `MAX_MESSAGE_CHARACTERS`, a run to `limit`.

    Without it, one huge print becomes one huge message, which the host refuses. Endless output
    fills the session's memory faster than the host can read it. The limit is above the host's
    own, so that the host still notices the excess and stops the run. Lone surrogates are escaped,
    because Jupyter's JSON cannot encode them and would drop the whole output.

    Args:
        stream: The kernel's standard output. Standard error has the same class.
        limit: Largest number of characters to send in one run.
    """
    stream_class = type(stream)
    schedule_flush = stream_class._schedule_flush  # noqa: SLF001
    sent: dict[str, Any] = {"run": None, "characters": 0}
    flush_buffers = stream_class._flush_buffers  # noqa: SLF001 - ipykernel has no public hook

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
        with self._buffer_lock:  # the sending thread could close a buffer meanwhile
            waiting = sum(buffer.tell() for buffer in self._buffers.values())
        if waiting > MAX_MESSAGE_CHARACTERS:
            self.flush()  # it waits: else code that prints fast fills its own memory

    stream_class._flush_buffers = flush_bounded  # noqa: SLF001
    stream_class._schedule_flush = flush_early  # noqa: SLF001


def refuse_input(*_: Any, **__: Any) -> str:
    """Replace `input` and `getpass`, because nobody can answer."""
    raise EOFError("input() is not available here: nobody can answer; put the value in the code")


def install(shell: Any, preload: list[str], limit: int, proxy_socket: str | None) -> None:
    """Set up one kernel.

    Args:
        shell: IPython's shell.
        preload: Modules to import. A module that is not installed is skipped.
        limit: Largest number of characters that one run may send.
        proxy_socket: The Unix socket of the egress proxy, or None.
    """
    if proxy_socket is not None:
        start_proxy_relay(proxy_socket)
        shell.cci_proxy_socket = proxy_socket  # file transfers connect to it without the relay
    bound_kernel_messages(shell, sys.stdout)
    bound_messages(sys.stdout, limit)
    shell._tee = lambda channel: nullcontext(channel)  # noqa: SLF001, PLW0108 - IPython 9 keeps all output in memory
    shell.kernel.raw_input = shell.kernel.getpass = refuse_input
    warnings.filterwarnings("ignore", "To exit: use")  # it is about a prompt that nobody sees
    warnings.filterwarnings("ignore", "Output cache limit")  # IPython limits its own cache
    shell.run_line_magic("colors", "NoColor")
    register_data_formatters(shell)
    for name in preload:
        try:
            importlib.import_module(name)
        except ImportError:
            continue

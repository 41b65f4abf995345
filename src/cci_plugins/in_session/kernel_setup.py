"""Setup of a kernel of the embedded pool before its first run.

It is sent as source and uses the standard library only. It runs in the sandbox in a namespace of
its own, so that it adds no names to the user's. `plain_python`, `terminal_streams`, `interrupts`,
`nested_loops` and `wide_tables` hold what sessions of other pools share.
"""

from __future__ import annotations

import asyncio
import importlib
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import Any

from cci_plugins.in_session.background_output import BackgroundOutput
from cci_plugins.in_session.charts import register_data_formatters
from cci_plugins.in_session.data import escape_surrogates, escape_values
from cci_plugins.in_session.file_backed_maps import map_shared_memory_by_files
from cci_plugins.in_session.interrupts import InterruptGuard
from cci_plugins.in_session.memory_limit import limit_memory
from cci_plugins.in_session.message_bounds import MessageBounds, bound_kernel_messages
from cci_plugins.in_session.nested_loops import allow_in_anyio, allow_nested_loops
from cci_plugins.in_session.output_pace import flush_later, wait_for_the_host
from cci_plugins.in_session.plain_python import set_up_shell
from cci_plugins.in_session.proxy_relay import start_proxy_relay
from cci_plugins.in_session.terminal_streams import (
    TerminalStream,
    adopt_streams,
    find_descriptor,
    restore_streams,
)
from cci_plugins.in_session.wide_tables import call_when_imported, show_wide_tables

MAX_MESSAGE_CHARACTERS = 1 << 17  # after each one the host decides who is next
MAX_WAITING_CHARACTERS = 1 << 20
BACKGROUND_MESSAGE = "cci_background"
# Our programs import these later. A file of the user with such a name must not be found first.
OWN_IMPORTS = ("ssl", "http.client", "urllib.request", "shutil", "subprocess", "secrets")


class SessionStreams:
    """The streams of a kernel: adopted as the session's own, bounded, and assigned to a run.

    Without bounds, one huge print becomes one huge message, which the host refuses. Endless output
    fills the session's memory faster than the host can read it. The limit is above the host's
    own, so that the host still notices the excess and stops the run. Lone surrogates are escaped,
    because Jupyter's JSON cannot encode them and would drop the whole output.

    What is written between two runs waits for the next run of the user.

    Args:
        shell: IPython's shell.
        limit: Largest number of characters to send in one run.
        bounds: Counts what is written, for the reply of the run.
    """

    def __init__(self, shell: Any, limit: int, bounds: MessageBounds) -> None:
        self._shell = shell
        self._limit = limit
        self._bounds = bounds
        self._header: Any = None
        self._sent = 0
        self._background = BackgroundOutput()
        self._streams = (sys.stdout, sys.stderr)

    def install(self) -> None:
        """Adopt the kernel's streams, and follow the start and end of every run."""
        stream_class = self._build_class(type(sys.stdout))
        for stream in self._streams:
            stream.__class__ = stream_class
        adopt_streams(*self._streams)
        self._shell.cci_streams = self._streams
        kernel = self._shell.kernel
        set_parent, end_request = self._shell.set_parent, kernel.post_handler_hook

        def start_run(parent: Any) -> None:
            for stream in self._streams:
                vars(stream).pop("write", None)  # IPython left it there after the setup
            restore_streams(*self._streams, parent)
            set_parent(parent)
            adopt_streams(*self._shell.cci_streams)
            if parent.get("header", {}).get("msg_type") == "execute_request":
                self._start_run(parent)

        def end_run() -> None:
            self._header = None
            end_request()

        self._shell.set_parent, kernel.post_handler_hook = start_run, end_run
        do_execute = kernel.do_execute

        async def execute_and_flush(*arguments: Any, **options: Any) -> Any:
            try:
                return await do_execute(*arguments, **options)
            finally:
                self.flush()  # ipykernel flushes what the code put in their place

        kernel.do_execute = execute_and_flush

    def flush(self) -> None:
        """Send everything that was written."""
        for stream in self._streams:
            stream.flush()

    def _start_run(self, parent: Any) -> None:
        self.flush()
        self._header, self._sent = parent["header"], 0
        if parent.get("content", {}).get("silent") or is_own_call(parent["content"]["code"]):
            return
        texts = self._background.take()
        for name, text in texts.items():
            self._bounds.count_text(self._header, name, text)
        if texts:
            kernel = self._shell.kernel
            kernel.session.send(kernel.iopub_socket, BACKGROUND_MESSAGE, texts, parent=parent)

    def _build_class(self, base: Any) -> Any:
        """Build the class of the streams from ipykernel's."""
        manager = self

        class SessionStream(TerminalStream, base):  # type: ignore[misc]
            """ipykernel's stream as a stream of a terminal program."""

            def fileno(self) -> int:
                """Return 1 or 2."""
                self_base: Any = super()
                return find_descriptor(self) if self._should_watch else int(self_base.fileno())

            def write(self, text: str) -> int:
                """Write text unless the code closed the stream."""
                self.check_open()
                super().write(text)
                return len(text)

            def writelines(self, lines: Any) -> None:
                """Write each line."""
                for line in lines:
                    self.write(line)

            def _flush_buffers(self) -> Iterator[tuple[Any, str]]:
                for parent, text in super()._flush_buffers():
                    yield from manager.bound(self, parent, text)

            def _schedule_flush(self) -> None:
                flush_later(self)
                with self._buffer_lock:  # the sending thread could close a buffer meanwhile
                    waiting = sum(buffer.tell() for buffer in self._buffers.values())
                if waiting > MAX_WAITING_CHARACTERS:
                    self.flush()  # it waits: else code that prints fast fills its own memory

        return SessionStream

    def bound(self, stream: Any, parent: Any, text: str) -> Iterator[tuple[Any, str]]:
        """Yield the chunks of a text to send now."""
        safe = text if text.isascii() else escape_surrogates(text)
        is_child = os.getpid() != stream._master_pid  # noqa: SLF001 - it has no later run
        if self._header is None and not is_child:
            self._background.add(stream.name, safe)
            return
        parent = self._header or parent  # a task prints under the header of its first run
        self._bounds.count_text(parent, stream.name, safe)
        for start in range(0, len(safe), MAX_MESSAGE_CHARACTERS):
            if self._sent <= self._limit:
                self._sent += min(len(safe), MAX_MESSAGE_CHARACTERS)
                yield parent, safe[start : start + MAX_MESSAGE_CHARACTERS]


def is_own_call(code: str) -> bool:
    """Return whether code is a call of our own, whose caller drops what others print."""
    return "(lambda ns:['main' in ns or exec(" in code


def escape_messages(session: Any) -> None:
    """Escape lone surrogates in all messages. Jupyter's JSON raises an error at the first."""
    pack = session.pack

    def pack_escaped(content: Any) -> Any:
        try:
            return pack(content)
        except UnicodeEncodeError:
            return pack(escape_values(content))

    session.pack = pack_escaped


def refuse_input(*_: Any, **__: Any) -> str:
    """Replace `input` and `getpass`, because nobody can answer."""
    raise EOFError("input() is not available here: nobody can answer; put the value in the code")


def install(
    shell: Any, preload: list[str], limit: int, proxy_socket: str | None, memory_bytes: int
) -> None:
    """Set up one kernel.

    Args:
        shell: IPython's shell.
        preload: Modules to import. A module that is not installed is skipped.
        limit: Largest number of characters that one run may send.
        proxy_socket: The Unix socket of the egress proxy, or None.
        memory_bytes: Memory of the session.
    """
    if proxy_socket is not None:
        start_proxy_relay(proxy_socket)
        shell.cci_proxy_socket = proxy_socket  # file transfers connect to it without the relay
    escape_messages(shell.kernel.session)
    bounds = bound_kernel_messages(shell.kernel.session)
    wait_for_the_host(shell.kernel.iopub_thread)
    shell.kernel._execute_sleep = 0.0  # noqa: SLF001 - for clients that do not wait for the idle status
    shell.kernel.log.setLevel("WARNING")  # its handler shows no less, but builds every record
    InterruptGuard(shell).install()
    SessionStreams(shell, limit, bounds).install()
    shell._tee = lambda channel: nullcontext(channel)  # noqa: SLF001, PLW0108 - IPython 9 keeps all output in memory
    shell.kernel.raw_input = shell.kernel.getpass = refuse_input
    warnings.filterwarnings("ignore", "To exit: use")  # it is about a prompt that nobody sees
    warnings.filterwarnings("ignore", "Output cache limit")  # IPython limits its own cache
    shell.run_line_magic("colors", "NoColor")
    register_data_formatters(shell)
    loop = asyncio.get_running_loop()
    allow_nested_loops(lambda: loop)
    call_when_imported("anyio", partial(allow_in_anyio, lambda: loop))
    show_wide_tables()
    map_shared_memory_by_files()
    for name in (*OWN_IMPORTS, *preload):
        with suppress(ImportError):
            importlib.import_module(name)
    shell.cci_folder = str(Path.cwd())  # made for this session alone, as our programs need to know
    set_up_shell(shell, shell.cci_folder)
    limit_memory(shell.kernel, memory_bytes)

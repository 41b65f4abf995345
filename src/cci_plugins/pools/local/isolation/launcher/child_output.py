"""Output of the code's child processes, which ipykernel loses where the network is closed.

boot.py loads this module before the lockdown, so it imports ipykernel only when it is used.

A process that Python forked writes to the kernel's stream objects. ipykernel sends that output to
the kernel by a TCP port of the loopback address, which Landlock's filter refuses. Here it goes to
descriptor 1 or 2 instead, as the output of every other program does. Both are pipes that a thread
of the kernel copies to the stream (`watch`). The copy has two rules:

- Characters stay whole, also when a read of the pipe ends within one.
- `drain` waits until what the pipe holds was copied. So the output of a child that has ended is in
  the stream before anything that the code prints later, and before the end of its run.

`!command` needs a pseudo-terminal, which Landlock refuses as well. Pipes replace it there.
"""

from __future__ import annotations

import codecs
import fcntl
import os
import select
import subprocess
import sys
import termios
import threading
import time
from typing import Any

CHUNK_BYTES = 64 * 1024
POLL_SECONDS = 0.0005
PRINT_WAIT_SECONDS = 0.05
FLUSH_WAIT_SECONDS = 1.0
FLOOD_SECONDS = 1.0  # without waiting before prints, after a wait that was in vain


class ChildOutputMixin:
    """Additions to ipykernel's `OutStream`, whose attributes these methods use."""

    _fid: int  # the read end of the pipe
    _flush_pending: bool  # something was written since the sending thread began its last flush
    _master_pid: int
    _original_stdstream_copy: int
    _original_stdstream_fd: int
    _should_watch: bool
    watch_fd_thread: threading.Thread

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self._copy_lock = threading.Lock()
        self._next_wait = 0.0
        super().__init__(*arguments, **options)

    def write(self, string: str) -> int:
        """Write text, after what child processes have written before."""
        if self._is_forked() and isinstance(string, str):
            return _write_all(self._original_stdstream_fd, string)
        if time.monotonic() >= self._next_wait and not self._drain(PRINT_WAIT_SECONDS):
            self._next_wait = time.monotonic() + FLOOD_SECONDS
        return self._write_to_stream(string)

    def flush(self) -> None:
        """Send everything, with what child processes have written.

        Nothing is awaited where nothing was written: ipykernel flushes ten times in each run.
        """
        if not self._is_forked():
            self._drain(FLUSH_WAIT_SECONDS)
            if self._flush_pending:
                stream: Any = super()
                stream.flush()

    def _flush_buffers(self) -> Any:
        stream: Any = super()  # a forked process must not send what its parent will send
        return iter(()) if self._is_forked() else stream._flush_buffers()  # noqa: SLF001 - its own

    def _write_to_stream(self, string: str) -> int:
        stream: Any = super()
        return stream.write(string) or len(string)

    def _is_forked(self) -> bool:
        return bool(self._should_watch) and os.getpid() != self._master_pid

    def _watch_pipe_fd(self) -> None:
        """Copy the pipe to the stream until the stream is closed."""
        decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        try:
            while self._should_watch:
                select.select([self._fid], [], [])
                with self._copy_lock:
                    data = os.read(self._fid, CHUNK_BYTES)
                    if text := decode(data):
                        self._write_to_stream(text)
                    os.write(self._original_stdstream_copy, data)
        except Exception:  # noqa: BLE001 - ipykernel shows it when the stream is closed
            self._exc = sys.exc_info()

    def _drain(self, seconds: float) -> bool:
        """Wait until the pipe was copied, and return whether it was."""
        if not self._should_watch or threading.current_thread() is self.watch_fd_thread:
            return True
        deadline = time.monotonic() + seconds
        while _count_unread(self._fid):
            if time.monotonic() > deadline:
                return False
            time.sleep(POLL_SECONDS)
        if self._copy_lock.acquire(timeout=seconds):
            self._copy_lock.release()
        return True


def build_stream_class() -> type:
    """Build the class of the kernel's standard streams, a subclass of ipykernel's."""
    from ipykernel.iostream import OutStream  # noqa: PLC0415 - only after the lockdown

    return type("SessionOutStream", (ChildOutputMixin, OutStream), {})


def _count_unread(descriptor: int) -> int:
    size = fcntl.ioctl(descriptor, termios.FIONREAD, bytes(4))
    return int.from_bytes(size, sys.byteorder)


def _write_all(descriptor: int, text: str) -> int:
    data = memoryview(text.encode("utf-8", "backslashreplace"))
    while data:
        data = data[os.write(descriptor, data) :]
    return len(text)


def use_pipes_without_terminals() -> None:
    """Run `!command` by pipes if no pseudo-terminal can be opened."""
    try:
        for descriptor in os.openpty():
            os.close(descriptor)
    except OSError:
        from ipykernel import zmqshell  # noqa: PLC0415 - only after the lockdown

        shell: Any = zmqshell
        shell.system = _run_command


def _run_command(command: str) -> int:
    """Run a shell command whose output arrives by descriptors 1 and 2. Return its exit status."""
    status = subprocess.call(command, shell=True)  # noqa: S602 - it is the user's shell command
    return status if status <= 128 else 128 - status  # noqa: PLR2004 - IPython's form of a signal

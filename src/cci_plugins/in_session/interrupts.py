"""Interrupts that stop user code and leave the kernel's own code alone.

A `KeyboardInterrupt` in ipykernel's own code leaves a run without a reply, or ends the event loop
and with it the kernel. So the handler raises only where user code is on the stack, and else waits
for the next interrupt of the host, which repeats it. What still escapes becomes a normal reply.
An interrupt names its run, so that one which comes late does not meet the next run.
"""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any


def is_user_frame(frame: FrameType | None, namespace: dict[str, Any]) -> bool:
    """Return whether code of the user is on the stack of a frame."""
    while frame is not None:
        if frame.f_globals is namespace:
            return True
        frame = frame.f_back
    return False


class InterruptGuard:
    """Handlers of SIGINT for the kernel of a session.

    Attributes:
        is_running: A run is between its start and its reply.
    """

    def __init__(self, shell: Any) -> None:
        self.is_running = False
        self._shell = shell
        self._was_ignored = False
        self._run: str | None = None
        self._interrupted_run: str | None = None

    def install(self) -> None:
        """Replace ipykernel's handling of interrupts."""
        kernel = self._shell.kernel
        with suppress(AttributeError, OSError):  # the children of a leader are interrupted, too
            if os.getpgrp() != os.getpid():
                os.setpgid(0, 0)
        kernel.pre_handler_hook = self._set_handler
        kernel._cancel_on_sigint = self._cancel_on_interrupt  # noqa: SLF001 - it has no hook
        kernel.do_execute = self._build_do_execute(kernel.do_execute)
        handlers = kernel.control_handlers
        handlers["interrupt_request"] = self._build_handler(handlers["interrupt_request"])
        contain_exits(asyncio.get_running_loop())

    def _set_handler(self) -> None:
        kernel = self._shell.kernel
        kernel.saved_sigint_handler = signal.signal(signal.SIGINT, self._interrupt)

    def _interrupt(self, _: int, frame: FrameType | None) -> None:
        """Interrupt user code. Ignore the first interrupt that meets other code of a run."""
        if not self._is_meant():
            return
        if self._was_ignored or is_user_frame(frame, self._shell.user_ns):
            raise KeyboardInterrupt
        self._was_ignored = True

    def _is_meant(self) -> bool:
        return self.is_running and self._interrupted_run in {None, self._run}

    def _build_handler(self, original: Any) -> Any:
        async def interrupt_request(stream: Any, ident: Any, parent: Any) -> Any:
            self._interrupted_run = parent["content"].get("run")
            if self._is_meant():
                return await original(stream, ident, parent)
            return None

        return interrupt_request

    @contextmanager
    def _cancel_on_interrupt(self, future: asyncio.Future[Any]) -> Iterator[None]:
        """Cancel the run's task on an interrupt, or interrupt its code while that blocks."""
        loop = asyncio.get_running_loop()

        def handle(_: int, frame: FrameType | None) -> None:
            if not self._is_meant():
                return
            if is_user_frame(frame, self._shell.user_ns):
                raise KeyboardInterrupt
            loop.call_soon_threadsafe(future.cancel)

        before = signal.signal(signal.SIGINT, handle)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    def _build_do_execute(self, original: Any) -> Any:
        async def do_execute(*arguments: Any, **options: Any) -> Any:
            self._was_ignored = False
            self._run = self._shell.kernel.get_parent("shell").get("header", {}).get("msg_id")
            self.is_running = True
            try:
                reply = await original(*arguments, **options)
                self.is_running = False
            except (KeyboardInterrupt, asyncio.CancelledError) as error:
                self.is_running = False
                return self._build_reply(error)
            finally:
                self.is_running = False
            return reply

        return do_execute

    def _build_reply(self, error: BaseException) -> dict[str, Any]:
        return {
            "status": "error",
            "ename": type(error).__name__,
            "evalue": str(error),
            "traceback": [],
            "execution_count": self._shell.execution_count,
            "user_expressions": {},
            "payload": [],
        }


def contain_exits(loop: Any) -> None:
    """Keep a `SystemExit` or `KeyboardInterrupt` of a background task from ending the loop."""
    if getattr(loop, "cci_contains_exits", False):
        return
    loop.cci_contains_exits = True
    handle_class: Any = asyncio.Handle
    run_handle = handle_class._run  # noqa: SLF001 - asyncio lets both exceptions through

    def run(self: Any) -> None:
        try:
            run_handle(self)
        except (SystemExit, KeyboardInterrupt) as error:
            if self._loop is not loop:
                raise
            loop.call_exception_handler(
                {"message": f"a callback ended with {type(error).__name__}", "exception": error}
            )

    handle_class._run = run  # noqa: SLF001


def interrupt_children() -> None:
    """Send SIGINT to this process's descendants in its group, as a terminal does.

    A call such as `os.system` waits for its child and lets no Python handler run.
    """
    parents: dict[int, int] = {}
    with suppress(OSError):
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with suppress(OSError, ValueError, IndexError):
                    fields = (entry / "stat").read_text().rpartition(")")[2].split()
                    if int(fields[2]) == os.getpgrp():
                        parents[int(entry.name)] = int(fields[1])
    for pid in parents:
        if _is_descendant(pid, parents):
            with suppress(OSError):
                os.kill(pid, signal.SIGINT)


def _is_descendant(pid: int, parents: dict[int, int]) -> bool:
    for _ in range(len(parents)):
        pid = parents.get(pid, 0)
        if pid == os.getpid():
            return True
    return False


@contextmanager
def interrupt_children_after(seconds: float) -> Iterator[None]:
    """Interrupt child processes every second once `seconds` have passed."""
    ended = threading.Event()

    def watch() -> None:
        delay = seconds
        while not ended.wait(delay):
            interrupt_children()
            delay = 1.0

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        ended.set()

"""One execute request in progress: complete with its reply and its idle status."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from cci_plugins.pools.tool_host import WaitClock

from .kernel_reader import KernelReader
from .output import Collector, parse_error

IDLE_SECONDS = 1.0
STALL_SECONDS = 0.5  # a timer that is later than that had no processor
DRAIN_SECONDS = 60.0  # for output that still arrives after the reply
BACKGROUND_CHARACTERS = 1_000_000  # of each stream, from a kernel that does not bound them
_BACKGROUND_MESSAGE = "cci_background"  # as in `in_session/kernel_setup`


class ExecuteRequest:
    """An execute request in progress. It is complete with its reply and its idle status.

    Attributes:
        collector: Takes its output.
        is_complete: No further message is expected.
        msg_id: The request's id.
        probe_id: Id of a request that shows whether the kernel still answers.
        background_characters: Characters that were printed before the run began.
        reply: The content of its reply.
        has_reply: The code has ended, and some of its output may still arrive.
        is_stopped: The host stopped the code, so it does not wait for all of its output.
        is_interrupted: The application asked to stop the code.
        patience: Seconds until code that does not stop is killed, or 0 for the usual time.
    """

    def __init__(self, collector: Collector, reader: KernelReader) -> None:
        self.collector = collector
        self._reader = reader
        self.is_complete = False
        self.waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.msg_id = ""
        self.probe_id = ""
        self.background_characters = 0
        self.reply: dict[str, Any] = {}
        self.has_reply = False
        self.is_stopped = False
        self.is_interrupted = False
        self.patience = 0.0
        self._is_idle = False

    async def wait_end(self, timeout: float, clock: WaitClock) -> bool:
        """Wait until the run is complete, has too much output, or its time is over.

        Args:
            timeout: Seconds that the code may run.
            clock: The time that it waits for the host, which does not count.
        """
        started, stood_still = time.monotonic(), False
        while not (self.is_complete or self.collector.is_runaway or self.is_interrupted):
            remaining = timeout - (time.monotonic() - started) + clock.seconds
            if remaining <= 0:
                if stood_still or remaining > -STALL_SECONDS:
                    break
                # this process was stopped for a while, so the end of the code may not be read yet
                stood_still, remaining = True, STALL_SECONDS
            await self.wait_done(remaining + clock.remaining)
        return self.is_complete

    def handle_message(self, kind: str, content: dict[str, Any], size: int) -> None:
        """Handle a message of the output channel."""
        if kind == "status":
            self._is_idle = self._is_idle or content.get("execution_state") == "idle"
        elif kind == _BACKGROUND_MESSAGE:
            self._add_background(content)
        else:
            self.collector.handle_message(kind, content, size)
            if self.collector.is_runaway:
                self.wake_up()
        self._finish_if_complete()

    def _add_background(self, content: dict[str, Any]) -> None:
        """Put what was printed between two runs before the output of this one."""
        for name in ("stdout", "stderr"):
            text = content.get(name)
            if isinstance(text, str) and text:
                text = text[:BACKGROUND_CHARACTERS]
                self.collector.handle_message("stream", {"name": name, "text": text})
        self.background_characters += sum(
            len(text) for text in content.values() if isinstance(text, str)
        )

    def handle_reply(self, content: dict[str, Any]) -> None:
        """Handle the reply."""
        self.reply = content or self.reply
        if content.get("status") == "error" and self.collector.error is None:
            self.collector.error = parse_error(content)
        is_first, self.has_reply = not self.has_reply, True
        self._finish_if_complete()
        if is_first and not self.is_complete:
            # The idle status comes after all output. Code can hold it up, but not the reply.
            self._finish_when_quiet(self._reader.progress, DRAIN_SECONDS)

    def _finish_when_quiet(self, progress: int, seconds_left: float) -> None:
        """Finish once no output has arrived for `IDLE_SECONDS`."""

        def look() -> None:
            if self._reader.progress == progress or seconds_left <= 0 or self.is_stopped:
                self.finish()
            elif not self.is_complete:
                self._finish_when_quiet(self._reader.progress, seconds_left - IDLE_SECONDS)

        asyncio.get_running_loop().call_later(IDLE_SECONDS, look)

    def _finish_if_complete(self) -> None:
        if self.has_reply and self._is_idle:
            self.finish()

    def interrupt(self, patience: float) -> None:
        """Stop the code, as at the end of its time."""
        self.is_interrupted, self.patience = True, patience
        self.wake_up()

    def note_flood(self) -> None:
        """Stop the code: it sends more than a run may."""
        self.collector.is_flooding = True
        self.wake_up()

    def finish(self) -> None:
        """Mark the request complete: no further message is expected."""
        self.is_complete = True
        self.wake_up()

    def wake_up(self) -> None:
        """Let the waiting call look again."""
        if not self.waiter.done():
            self.waiter.set_result(None)

    async def wait_done(self, timeout: float) -> bool:
        """Wait until the run is complete, has too much output, or `timeout` seconds passed."""
        if not self.is_complete:
            loop = asyncio.get_running_loop()
            self.waiter = loop.create_future()
            timer = loop.call_later(timeout, self.wake_up)
            try:
                await self.waiter
            finally:
                timer.cancel()
        return self.is_complete

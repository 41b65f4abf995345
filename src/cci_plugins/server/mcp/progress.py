"""Output of a run as MCP progress notifications.

The pool calls `add` for each chunk, and never waits. One task sends what is pending, at most ten
times in a second. When a run prints nothing for long, the task sends a heartbeat. A slow client
slows down only that task. The reply has all output, also what was not sent before.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio

from cci_plugins.common.log import logger
from cci_plugins.core.rendering import clean
from cci_plugins.mcp_client.progress import OUTPUT_KEY, StreamName, dump_output
from cci_plugins.models import OutputEvent
from cci_plugins.pools.base import OutputHandler
from cci_plugins.server.answers import sanitize_json

BATCH_SECONDS = 0.1
HEARTBEAT_SECONDS = 15  # below the idle limits of common proxies
MAX_PENDING_CHARACTERS = 1_000_000
_MAX_MESSAGE_CHARACTERS = 200
_TAIL_CHARACTERS = 4096

Notify = Callable[[dict[str, Any]], Awaitable[None]]
"""Sends a progress notification with these parameters and adds its token."""


@asynccontextmanager
async def report_progress(notify: Notify) -> AsyncIterator[OutputHandler]:
    """Report the output of the run inside this block. All of it is sent when the block ends.

    Args:
        notify: Sends one notification.
    """
    progress = _ProgressReporter(notify)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(progress.send_until_done)
        try:
            yield progress.add
        finally:
            progress.end()


class _ProgressReporter:
    """Buffer between the pool's output and a client's pace.

    Args:
        notify: Sends one notification.
    """

    def __init__(self, notify: Notify) -> None:
        self._notify = notify
        self._pending: list[tuple[StreamName, list[str]]] = []
        self._pending_size = 0
        self._begun_lines: dict[StreamName, str] = {}
        self._count = 0
        self._is_full = False
        self._wakeup, self._ended = anyio.Event(), anyio.Event()

    def add(self, event: OutputEvent) -> None:
        """Keep a chunk of text for the next notification. Results come with the reply.

        When a client is too far behind, this drops everything further. So what the client received
        stays the beginning of the output, and the reply has the rest.
        """
        if event.stream == "result" or not event.text or self._is_full:
            return
        self._pending_size += len(event.text)
        self._is_full = self._pending_size > MAX_PENDING_CHARACTERS
        if self._is_full:
            return
        if self._pending and self._pending[-1][0] == event.stream:
            self._pending[-1][1].append(event.text)
        else:
            self._pending.append((event.stream, [event.text]))
        self._wakeup.set()

    def end(self) -> None:
        """Let the task send what is pending, then stop."""
        self._is_full = True  # a run that goes on has nobody to report to
        self._ended.set()
        self._wakeup.set()

    async def send_until_done(self) -> None:
        """Send notifications until `end` is called."""
        try:
            while not self._ended.is_set():
                with anyio.move_on_after(HEARTBEAT_SECONDS):
                    await self._wakeup.wait()
                if not self._ended.is_set():
                    await self._flush()
                    with anyio.move_on_after(BATCH_SECONDS):
                        await self._ended.wait()
            if self._pending:
                await self._flush()
        except Exception:  # noqa: BLE001 - a failed notification must not lose the reply
            logger.debug("cannot send progress to the client", exc_info=True)

    async def _flush(self) -> None:
        chunks: list[tuple[StreamName, str]] = [
            (stream, sanitize_json("".join(texts))) for stream, texts in self._pending
        ]
        self._pending, self._pending_size, self._wakeup = [], 0, anyio.Event()
        params: dict[str, Any] = {}
        for stream, text in chunks:
            # a chunk may end within a line, whose rest comes with the next one
            line = self._begun_lines.get(stream, "") + text[-_TAIL_CHARACTERS:]
            self._begun_lines[stream] = line.rpartition("\n")[2][-_TAIL_CHARACTERS:]
            params = {"message": _get_last_line(line), "_meta": {OUTPUT_KEY: dump_output(chunks)}}
        # MCP requires each value to exceed the one before, so a heartbeat counts as a character
        self._count += sum(len(text) for _, text in chunks) or 1
        await self._notify({"progress": self._count} | params)


def _get_last_line(text: str) -> str:
    """Return the end of the output as one line that any client can show."""
    lines = clean(text[-_TAIL_CHARACTERS:]).split("\n")
    line = next((line for line in reversed(lines) if line.strip()), "")
    return line[-_MAX_MESSAGE_CHARACTERS:].strip()

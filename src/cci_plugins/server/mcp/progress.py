"""The output of a run as progress notifications: in batches, and a sign of life between them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio

from cci_plugins.common.log import logger
from cci_plugins.core.rendering import clean
from cci_plugins.mcp_client.progress import OUTPUT_KEY, Stream, dump_output
from cci_plugins.models import OutputEvent
from cci_plugins.pools.base import OutputHandler
from cci_plugins.server.answers import carried

BATCH_SECONDS = 0.1
SILENCE_SECONDS = 15  # below the idle limits of common proxies
MOST_PENDING = 1_000_000
_LONGEST_MESSAGE = 200
_TAIL = 4096

Notify = Callable[[dict[str, Any]], Awaitable[None]]
"""Sends a progress notification with these parameters, its token added."""


@asynccontextmanager
async def telling(notify: Notify) -> AsyncIterator[OutputHandler]:
    """Tell the output of what runs inside; all of it is sent when this ends."""
    progress = _Progress(notify)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(progress.tell)
        try:
            yield progress.take
        finally:
            progress.end()


class _Progress:
    """Collects output from the pool, and tells it at the client's pace.

    Args:
        notify: Sends one notification.
    """

    def __init__(self, notify: Notify) -> None:
        self._notify = notify
        self._pending: list[tuple[Stream, list[str]]] = []
        self._pending_size = 0
        self._count = 0
        self._is_full = False
        self._some, self._ended = anyio.Event(), anyio.Event()

    def take(self, event: OutputEvent) -> None:
        """Keep a piece of text for the next notification; results come with the reply.

        Once a client lags too far behind, nothing more is taken: what it was told stays the
        beginning of the output, and the reply has the rest.
        """
        if event.stream == "result" or not event.text or self._is_full:
            return
        self._pending_size += len(event.text)
        self._is_full = self._pending_size > MOST_PENDING
        if self._is_full:
            return
        if self._pending and self._pending[-1][0] == event.stream:
            self._pending[-1][1].append(event.text)
        else:
            self._pending.append((event.stream, [event.text]))
        self._some.set()

    def end(self) -> None:
        """Send what is pending, and then no more."""
        self._ended.set()
        self._some.set()

    async def tell(self) -> None:
        """Send notifications until the end."""
        try:
            while not self._ended.is_set():
                with anyio.move_on_after(SILENCE_SECONDS):
                    await self._some.wait()
                if not self._ended.is_set():
                    await self._flush()
                    with anyio.move_on_after(BATCH_SECONDS):
                        await self._ended.wait()
            if self._pending:
                await self._flush()
        except Exception:  # noqa: BLE001 - the reply must not be lost for want of its notifications
            logger.debug("progress cannot be told any more", exc_info=True)

    async def _flush(self) -> None:
        pieces: list[tuple[Stream, str]] = [
            (stream, carried("".join(texts))) for stream, texts in self._pending
        ]
        self._pending, self._pending_size, self._some = [], 0, anyio.Event()
        told: dict[str, Any] = {}
        if pieces:
            told = {
                "message": _last_line(pieces[-1][1]),
                "_meta": {OUTPUT_KEY: dump_output(pieces)},
            }
        # MCP wants each value above the one before, so a sign of life counts as a character
        self._count += sum(len(text) for _, text in pieces) or 1
        await self._notify({"progress": self._count} | told)


def _last_line(text: str) -> str:
    """The end of the output, as one line that any client may show."""
    lines = clean(text[-_TAIL:]).split("\n")
    line = next((line for line in reversed(lines) if line.strip()), "")
    return line[-_LONGEST_MESSAGE:].strip()

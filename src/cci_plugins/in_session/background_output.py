"""Output of threads and tasks between two runs: kept, bounded and delivered with the next run."""

from __future__ import annotations

import threading
from typing import Any

from cci_plugins.in_session.streams import StreamBuffer

BACKGROUND_CHARACTERS = 100_000


class BackgroundOutput:
    """What was written while no run was in progress, by stream."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._buffers: dict[str, StreamBuffer] = {}

    def add(self, stream: str, text: str) -> None:
        """Keep a chunk of a stream."""
        with self._lock:
            buffer = self._buffers.setdefault(stream, StreamBuffer(BACKGROUND_CHARACTERS))
            buffer.add(text)

    def take(self) -> dict[str, str]:
        """Return the text of each stream and forget it."""
        with self._lock:
            buffers, self._buffers = self._buffers, {}
        return {name: buffer.get_text() for name, buffer in buffers.items()}


class CellWatch:
    """Whether the kernel runs a cell that is not a call of ours.

    Another client of the same session may run code without this package. What that code prints
    belongs to its own cell, not to our next run.

    Attributes:
        is_foreign: Whether such a cell runs now.
    """

    def __init__(self) -> None:
        self.is_foreign = False

    def install(self, shell: Any) -> None:
        """Follow the cells of a shell. It is in a call of ours now."""
        shell.events.register("pre_execute", self._start)
        shell.events.register("post_execute", self.claim)

    def _start(self) -> None:
        self.is_foreign = True

    def claim(self) -> None:
        """Note that the cell is a call of ours, or has ended."""
        self.is_foreign = False


def describe_background(count: int) -> str:
    """Return the note on an execution that begins with output of the background.

    Args:
        count: Its characters.
    """
    return (
        f"the output begins with {count:,} characters that threads or tasks of earlier runs "
        "printed before this run"
    )

"""Output of threads and tasks between two runs: kept, bounded and delivered with the next run."""

from __future__ import annotations

import threading

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


def describe_background(count: int) -> str:
    """Return the note on an execution that begins with output of the background.

    Args:
        count: Its characters.
    """
    return (
        f"the output begins with {count:,} characters that threads or tasks of earlier runs "
        "printed before this run"
    )

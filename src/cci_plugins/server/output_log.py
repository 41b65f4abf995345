"""The output of a held run: `OutputLog`."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from itertools import accumulate, dropwhile, pairwise

from cci_plugins.mcp_client.progress import StreamName
from cci_plugins.models import OutputEvent
from cci_plugins.server.answers import sanitize_json

MAX_CHARACTERS = 1_000_000
_CHUNK_CHARACTERS = 8_000


class OutputLog:
    """The text that a run printed so far, in order. Its length is in characters.

    It keeps the end only if there is too much. The execution has all of it.

    Args:
        on_change: Called after more text was added.
    """

    def __init__(self, on_change: Callable[[], object]) -> None:
        self._on_change = on_change
        self._chunks: deque[tuple[StreamName, str]] = deque()
        self._start = self._length = 0

    def __len__(self) -> int:
        return self._length

    @property
    def kept(self) -> int:
        """Characters that are kept."""
        return self._length - self._start

    def add(self, event: OutputEvent) -> None:
        """Add a chunk of text. Results come with the execution."""
        text = sanitize_json(event.text)
        if event.stream == "result" or not text:
            return
        for at in range(0, len(text), _CHUNK_CHARACTERS):
            self._append(event.stream, text[at : at + _CHUNK_CHARACTERS])
        while self.kept - len(self._chunks[0][1]) >= MAX_CHARACTERS:
            self._start += len(self._chunks.popleft()[1])
        self._on_change()

    def _append(self, stream: StreamName, text: str) -> None:
        last_stream, last = self._chunks[-1] if self._chunks else (stream, "x" * _CHUNK_CHARACTERS)
        if last_stream == stream and len(last) < _CHUNK_CHARACTERS:
            self._chunks[-1] = stream, last + text
        else:
            self._chunks.append((stream, text))
        self._length += len(text)

    def read(self, since: int) -> tuple[int, tuple[tuple[StreamName, str], ...]]:
        """Return the chunks that lie behind a position, and the position of the first of them.

        Args:
            since: Characters that the reader has.
        """
        starts = accumulate((len(text) for _, text in self._chunks), initial=self._start)
        spans = zip(self._chunks, pairwise(starts), strict=True)
        left = list(dropwhile(lambda item: item[1][1] <= since, spans))
        at = left[0][1][0] if left else self._length
        return at, tuple(chunk for chunk, _ in left)

"""The output of a held run: `OutputLog`."""

from __future__ import annotations

from collections.abc import Callable
from itertools import accumulate, dropwhile, pairwise

from cci_plugins.mcp_client.progress import StreamName
from cci_plugins.models import OutputEvent
from cci_plugins.server.answers import sanitize_json

MAX_CHARACTERS = 1_000_000
_CHUNK_CHARACTERS = 8_000


class OutputLog:
    """The text that a run printed so far, in order. Its length is in characters.

    It keeps the beginning only if there is too much. The execution has all of it.

    Args:
        on_change: Called after more text was added.
    """

    def __init__(self, on_change: Callable[[], object]) -> None:
        self._on_change = on_change
        self._chunks: list[tuple[StreamName, str]] = []
        self._length = 0
        self._is_full = False

    def __len__(self) -> int:
        return self._length

    def add(self, event: OutputEvent) -> None:
        """Add a chunk of text. Results come with the execution."""
        text = sanitize_json(event.text)
        if event.stream == "result" or not text or self._is_full:
            return
        self._is_full = self._length + len(text) > MAX_CHARACTERS
        if self._is_full:
            return
        stream, last = self._chunks[-1] if self._chunks else (event.stream, "x" * _CHUNK_CHARACTERS)
        if stream == event.stream and len(last) < _CHUNK_CHARACTERS:
            self._chunks[-1] = stream, last + text
        else:
            self._chunks.append((event.stream, text))
        self._length += len(text)
        self._on_change()

    def read(self, since: int) -> tuple[int, tuple[tuple[StreamName, str], ...]]:
        """Return the chunks that lie behind a position, and the position of the first of them.

        Args:
            since: Characters that the reader has.
        """
        starts = accumulate((len(text) for _, text in self._chunks), initial=0)
        spans = zip(self._chunks, pairwise(starts), strict=True)
        left = list(dropwhile(lambda item: item[1][1] <= since, spans))
        at = left[0][1][0] if left else self._length
        return at, tuple(chunk for chunk, _ in left)

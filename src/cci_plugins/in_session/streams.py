"""What every pool teaches its sessions; sent as source, standard library only."""

from __future__ import annotations

import hashlib
from typing import IO

HASHED_FILE = 16 << 20  # bytes of the largest file whose hash is told with a run
HASHED_RUN = 64 << 20  # bytes that are hashed for one run


def to_hash(sizes: list[tuple[str, int]]) -> set[str]:
    """Which files of a run are hashed: those that take no time that anybody would notice.

    Args:
        sizes: Names and bytes.
    """
    left, chosen = HASHED_RUN, set()
    for name, size in sizes:
        if size <= min(HASHED_FILE, left):
            left -= size
            chosen.add(name)
    return chosen


def sha256(file: IO[bytes]) -> str:
    """Hex digest of a file's first `HASHED_FILE` bytes; it may grow while it is read."""
    return hashlib.sha256(file.read(HASHED_FILE)).hexdigest()


class StreamBuffer:
    """The head of a stream and, once that is full, its latest part."""

    def __init__(self, limit: int) -> None:
        self._room = limit * 3 // 4
        self._tail_limit = limit - self._room
        self._head: list[str] = []
        self._tail = ""
        self.total = 0

    def add(self, text: str) -> None:
        """Append a piece."""
        self.total += len(text)
        kept = text[: self._room]
        if kept:
            self._head.append(kept)
            self._room -= len(kept)
        if rest := text[len(kept) :]:
            self._tail = (self._tail + rest)[-self._tail_limit :]

    @property
    def dropped(self) -> int:
        """Characters between head and tail that were not kept."""
        return self.total - sum(map(len, self._head)) - len(self._tail)

    def text(self) -> str:
        """The whole stream, or head and tail with a line between that counts what is missing."""
        gap = f"\n[... {self.dropped:,} characters not kept ...]\n" if self.dropped else ""
        return "".join(self._head) + gap + self._tail

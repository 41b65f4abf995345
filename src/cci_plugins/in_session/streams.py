"""Bounded streams and file hashes, used by sessions of every pool and by the host.

Sent as source, standard library only.
"""

from __future__ import annotations

import hashlib
from typing import IO

MAX_REPORTED_FILES = 2_000  # that one run changed
MAX_HASHED_FILE_BYTES = 16 << 20  # largest file that is hashed after a run
MAX_HASHED_RUN_BYTES = 64 << 20  # of all files that are hashed after one run


def select_files_to_hash(sizes: list[tuple[str, int]]) -> set[str]:
    """Select the files of a run to hash: as many as take no noticeable time.

    Args:
        sizes: Names and sizes in bytes.
    """
    remaining, chosen = MAX_HASHED_RUN_BYTES, set()
    for name, size in sizes:
        if size <= min(MAX_HASHED_FILE_BYTES, remaining):
            remaining -= size
            chosen.add(name)
    return chosen


def select_files_to_report(times: dict[str, int]) -> tuple[list[str], list[str]]:
    """Select the newest of the files that a run changed.

    Args:
        times: Names and times of change.

    Returns:
        The names in order, at most `MAX_REPORTED_FILES`, and a note if files are left out.
    """
    names = sorted(times, key=times.__getitem__, reverse=True)[:MAX_REPORTED_FILES]
    left_out = len(times) - len(names)
    note = f"{left_out:,} older files that the run changed are not reported; list them all"
    return sorted(names), [note] if left_out else []


def compute_sha256(file: IO[bytes]) -> str:
    """Return the hex digest of a file's first `MAX_HASHED_FILE_BYTES` bytes.

    The bound matters because the file may grow while it is read.
    """
    return hashlib.sha256(file.read(MAX_HASHED_FILE_BYTES)).hexdigest()


class StreamBuffer:
    """A bounded stream that keeps its head and, once that is full, its latest part.

    Attributes:
        total: Characters that were added.
        lost: Characters that were sent but never arrived here.
    """

    def __init__(self, limit: int) -> None:
        self._head_remaining = limit * 3 // 4
        self._tail_limit = limit - self._head_remaining
        self._head: list[str] = []
        self._tail: list[str] = []
        self._tail_length = 0
        self.total = 0
        self.lost = 0
        self._kept: tuple[tuple[int, int], str] = ((0, 0), "")  # the last text, which is large

    def add(self, text: str) -> None:
        """Append a chunk."""
        self.total += len(text)
        kept = text[: self._head_remaining]
        if kept:
            self._head.append(kept)
            self._head_remaining -= len(kept)
        if rest := text[len(kept) :]:
            self._tail.append(rest)
            self._tail_length += len(rest)
            if self._tail_length > 2 * self._tail_limit:  # not each time: that would be quadratic
                self._join_tail()

    @property
    def dropped_characters(self) -> int:
        """Characters between head and tail that were not kept."""
        return self.total + self.lost - sum(map(len, self._head)) - len(self._join_tail())

    def get_text(self) -> str:
        """Return the stream. If it was too long, a line between head and tail counts the rest."""
        state = (self.total, self.lost)
        if self._kept[0] != state:
            text = "".join(self._head) + self._format_gap() + self._join_tail()
            self._kept = (state, text)
        return self._kept[1]

    def get_lengths(self) -> tuple[int, int, int]:
        """Return the lengths of head, gap and tail in the text."""
        return sum(map(len, self._head)), len(self._format_gap()), len(self._join_tail())

    def _join_tail(self) -> str:
        tail = "".join(self._tail)[-self._tail_limit :]
        self._tail, self._tail_length = [tail], len(tail)
        return tail

    def _format_gap(self) -> str:
        dropped = self.dropped_characters
        return format_gap(dropped) if dropped else ""


def format_gap(dropped: int) -> str:
    """Return the line that stands for characters that were not kept."""
    return f"\n[... {dropped:,} characters not kept ...]\n"

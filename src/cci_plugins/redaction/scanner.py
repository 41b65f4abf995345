"""Hides what follows an announcement, in a text that comes in pieces."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

REDACTED = "[redacted]"
REACH = 96  # no announcement is longer
NOTHING = re.compile("")


@dataclass(frozen=True, slots=True)
class Rule:
    """What a secret looks like after its announcement.

    Attributes:
        secret: Enough of it to be sure; its first group stays visible.
        undecided: The rest of a text that may still become one.
        rest: More of a secret that was recognised.
        cut: The beginning of an escape that a piece ended in.
        dull: What to pass over when it is none.
    """

    secret: re.Pattern[str]
    undecided: re.Pattern[str]
    rest: re.Pattern[str]
    cut: re.Pattern[str]
    dull: re.Pattern[str] = NOTHING


class Scanner:
    """Passes a text on without its announced secrets; holds back only an undecided one.

    Announcements are never held back: they are no secret, and they are still recognised when
    only their end comes with the next piece.

    Args:
        announcement: Matches what announces a secret; no match is longer than `REACH`.
        choose: The rule for such a match.
    """

    def __init__(
        self, announcement: re.Pattern[str], choose: Callable[[re.Match[str]], Rule]
    ) -> None:
        self._announcement = announcement
        self._choose = choose
        self._text = ""
        self._done = 0  # passed on or hidden up to here
        self._from = 0  # the next announcement begins here or later
        self._step = self._look
        self._rule: Rule | None = None

    def feed(self, piece: str, *, last: bool = False) -> str:
        """What may be seen so far; everything when this piece is the last."""
        kept = max(0, self._from - REACH)
        self._text = self._text[kept:] + piece
        self._done -= kept
        self._from -= kept
        seen: list[str] = []
        while self._step(seen, last):
            pass
        return "".join(seen)

    def _look(self, seen: list[str], last: bool) -> bool:  # noqa: ARG002, FBT001
        match = self._announcement.search(self._text, self._from)
        end = len(self._text) if match is None else match.end()
        seen.append(self._text[self._done : end])
        self._done = end
        self._from = end if match else max(self._from, end - REACH)
        if match is not None:
            self._rule, self._step = self._choose(match), self._decide
        return match is not None

    def _decide(self, seen: list[str], last: bool) -> bool:  # noqa: FBT001
        rule = self._current()
        if match := rule.secret.match(self._text, self._done):
            seen.append(match[1] + REDACTED)
            self._done = self._from = match.end()
            self._step = self._hide
            return True
        if not last and rule.undecided.match(self._text, self._done):
            return False
        self._step = self._pass_over
        return True

    def _hide(self, seen: list[str], last: bool) -> bool:  # noqa: ARG002, FBT001
        rule = self._current()
        self._done = self._from = _end(rule.rest, self._text, self._done)
        if self._done == len(self._text):
            return False
        if not last and rule.cut.match(self._text, self._done):
            return False
        self._step = self._look
        return True

    def _pass_over(self, seen: list[str], last: bool) -> bool:  # noqa: ARG002, FBT001
        end = _end(self._current().dull, self._text, self._done)
        seen.append(self._text[self._done : end])
        self._done = self._from = end
        if end == len(self._text):
            return False
        self._step = self._look
        return True

    def _current(self) -> Rule:
        if self._rule is None:
            raise RuntimeError("there was no announcement")
        return self._rule


def _end(pattern: re.Pattern[str], text: str, start: int) -> int:
    match = pattern.match(text, start)
    return match.end() if match else start

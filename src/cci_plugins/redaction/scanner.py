"""Hides what follows an announcement, in a text that comes in pieces."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

REDACTED = "[redacted]"
MAX_ANNOUNCEMENT_LENGTH = 96  # no announcement is longer
EMPTY_PATTERN = re.compile("")


@dataclass(frozen=True, slots=True)
class SecretRule:
    """What a secret looks like after its announcement.

    Attributes:
        secret: Enough of it to be sure; its first group stays visible.
        undecided: The rest of a text that may still become one.
        rest: More of a secret that was recognised.
        cut: The beginning of an escape that a piece ended in.
        dull: What to pass over when it is none.
    """

    secret: re.Pattern[str]
    partial: re.Pattern[str]
    rest: re.Pattern[str]
    partial_escape: re.Pattern[str]
    skip: re.Pattern[str] = EMPTY_PATTERN


class Scanner:
    """Passes a text on without its announced secrets; holds back only an undecided one.

    Announcements are never held back: they are no secret, and they are still recognised when
    only their end comes with the next piece.

    Args:
        announcement: Matches what announces a secret; no match is longer than `REACH`.
        choose: The rule for such a match.
    """

    def __init__(
        self, announcement: re.Pattern[str], choose: Callable[[re.Match[str]], SecretRule]
    ) -> None:
        self._announcement = announcement
        self._choose = choose
        self._text = ""
        self._output_end = 0  # passed on or hidden up to here
        self._search_start = 0  # the next announcement begins here or later
        self._step = self._find_announcement
        self._rule: SecretRule | None = None

    def feed(self, chunk: str, *, last: bool = False) -> str:
        """What may be seen so far; everything when this piece is the last."""
        offset = max(0, self._search_start - MAX_ANNOUNCEMENT_LENGTH)
        self._text = self._text[offset:] + chunk
        self._output_end -= offset
        self._search_start -= offset
        output: list[str] = []
        while self._step(output, last):
            pass
        return "".join(output)

    def _find_announcement(self, output: list[str], last: bool) -> bool:  # noqa: ARG002, FBT001
        match = self._announcement.search(self._text, self._search_start)
        end = len(self._text) if match is None else match.end()
        output.append(self._text[self._output_end : end])
        self._output_end = end
        self._search_start = (
            end if match else max(self._search_start, end - MAX_ANNOUNCEMENT_LENGTH)
        )
        if match is not None:
            self._rule, self._step = self._choose(match), self._match_secret
        return match is not None

    def _match_secret(self, output: list[str], last: bool) -> bool:  # noqa: FBT001
        rule = self._get_rule()
        if match := rule.secret.match(self._text, self._output_end):
            output.append(match[1] + REDACTED)
            self._output_end = self._search_start = match.end()
            self._step = self._drop_rest_of_secret
            return True
        if not last and rule.partial.match(self._text, self._output_end):
            return False
        self._step = self._skip_text
        return True

    def _drop_rest_of_secret(self, output: list[str], last: bool) -> bool:  # noqa: ARG002, FBT001
        rule = self._get_rule()
        self._output_end = self._search_start = _find_end(rule.rest, self._text, self._output_end)
        if self._output_end == len(self._text):
            return False
        if not last and rule.partial_escape.match(self._text, self._output_end):
            return False
        self._step = self._find_announcement
        return True

    def _skip_text(self, output: list[str], last: bool) -> bool:  # noqa: ARG002, FBT001
        end = _find_end(self._get_rule().skip, self._text, self._output_end)
        output.append(self._text[self._output_end : end])
        self._output_end = self._search_start = end
        if end == len(self._text):
            return False
        self._step = self._find_announcement
        return True

    def _get_rule(self) -> SecretRule:
        if self._rule is None:
            raise RuntimeError("there was no announcement")
        return self._rule


def _find_end(pattern: re.Pattern[str], text: str, start: int) -> int:
    match = pattern.match(text, start)
    return match.end() if match else start

"""Scanner that hides the values behind announcements, in a text that arrives in chunks.

The scanner is a state machine. Each state is a method that appends to the output and returns
whether there is more to do with the text it has:

* `_find_announcement`: search. Everything up to the end of the next announcement is output.
* `_match_secret`: the value behind it decides. A secret is replaced by `[redacted]`. A value
  that may still become a secret is held back until the next chunk. Anything else is output.
* `_drop_rest_of_secret`: drop the remaining characters of a secret, over as many chunks as needed.
* `_skip_text`: output characters that belong to a value which was not a secret.

`_text` holds the text that is still needed. Characters before `_output_end` were output or
hidden. The next announcement begins at `_search_start` or later. The last 96 characters stay in
`_text` after they were output, because an announcement may be cut anywhere.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

REDACTED = "[redacted]"
MAX_ANNOUNCEMENT_LENGTH = 96
EMPTY_PATTERN = re.compile("")


@dataclass(frozen=True, slots=True)
class SecretRule:
    """The form of a secret after its announcement.

    Attributes:
        secret: Matches enough of it to be sure. The first group stays visible.
        partial: Matches the end of a text that may still become one.
        rest: Matches more of a secret that was recognised.
        partial_escape: Matches the start of an escape at the end of a chunk.
        skip: Matches the text to skip when it is not a secret.
    """

    secret: re.Pattern[str]
    partial: re.Pattern[str]
    rest: re.Pattern[str]
    partial_escape: re.Pattern[str]
    skip: re.Pattern[str] = EMPTY_PATTERN


class Scanner:
    """A filter that outputs a text without its announced secrets.

    It holds back only a value that may still become a secret. Announcements are never held back.
    They are not secret, and one is still recognised when only its end is in the next chunk.

    Args:
        announcement: Matches announcements, of at most `MAX_ANNOUNCEMENT_LENGTH` characters.
        choose_rule: Returns the rule for such a match.
    """

    def __init__(
        self, announcement: re.Pattern[str], choose_rule: Callable[[re.Match[str]], SecretRule]
    ) -> None:
        self._announcement = announcement
        self._choose_rule = choose_rule
        self._text = ""
        self._output_end = 0  # output or hidden up to here
        self._search_start = 0  # the next announcement begins here or later
        self._step = self._find_announcement
        self._rule: SecretRule | None = None

    def feed(self, chunk: str, *, last: bool = False) -> str:
        """Return the output so far, or all of it when this chunk is the last."""
        offset = max(0, self._search_start - MAX_ANNOUNCEMENT_LENGTH)
        self._text = self._text[offset:] + chunk
        self._output_end -= offset
        self._search_start -= offset
        output: list[str] = []
        while self._step(output, last):
            pass
        return "".join(output)

    def _find_announcement(self, output: list[str], last: bool) -> bool:  # noqa: FBT001
        text, start, rule = self._text, self._search_start, None
        search = self._announcement.search
        while (match := search(text, start)) is not None:
            rule, end = self._choose_rule(match), match.end()
            if (
                rule.secret.match(text, end)
                or rule.skip is not EMPTY_PATTERN
                or not (last or rule.partial.match(text, end) is None)
            ):
                break
            start = end  # most announcements of most texts are followed by no secret
        end = len(text) if match is None else match.end()
        output.append(text[self._output_end : end])
        self._output_end = end
        self._search_start = end if match else max(start, end - MAX_ANNOUNCEMENT_LENGTH)
        if match is not None:
            self._rule, self._step = rule, self._match_secret
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
            raise RuntimeError("a rule is needed before any announcement was found")
        return self._rule


def _find_end(pattern: re.Pattern[str], text: str, start: int) -> int:
    match = pattern.match(text, start)
    return match.end() if match else start

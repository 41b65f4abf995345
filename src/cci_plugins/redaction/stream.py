"""Takes secrets out of a text, whole or as it comes."""

from __future__ import annotations

from .announced import named_values, tokens
from .known import SECRETS, KnownStage


class Redactor:
    """Takes secrets out of a text that comes in pieces, wherever it is cut.

    The pieces it returns, joined, are what `redact` makes of the whole text. It holds back only
    an end that may be a secret's beginning: at most 4,096 characters of what looks like a token,
    or as many as the longest known secret has, URL-encoded.
    """

    def __init__(self) -> None:
        self._stages = (KnownStage(SECRETS), named_values(), tokens())

    def feed(self, piece: str) -> str:
        """What may be seen so far."""
        return self._pass(piece, last=False)

    def finish(self) -> str:
        """What was held back; nothing is fed after it."""
        return self._pass("", last=True)

    def _pass(self, piece: str, *, last: bool) -> str:
        for stage in self._stages:
            piece = stage.feed(piece, last=last)
        return piece


def redact(text: str) -> str:
    """The text with every secret replaced by `[redacted]`; the names of parameters stay."""
    text, _ = SECRETS.hide(text)
    return tokens().feed(named_values().feed(text, last=True), last=True)

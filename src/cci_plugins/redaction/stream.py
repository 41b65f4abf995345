"""Takes secrets out of a text, whole or as it comes."""

from __future__ import annotations

from .announced import build_named_value_scanner, build_token_scanner
from .known import SECRETS, RegisteredSecretScanner


class Redactor:
    """Takes secrets out of a text that comes in pieces, wherever it is cut.

    The pieces it returns, joined, are what `redact` makes of the whole text. It holds back only
    an end that may be a secret's beginning: at most 4,096 characters of what looks like a token,
    or as many as the longest known secret has, URL-encoded.
    """

    def __init__(self) -> None:
        self._stages = (
            RegisteredSecretScanner(SECRETS),
            build_named_value_scanner(),
            build_token_scanner(),
        )

    def feed(self, chunk: str) -> str:
        """What may be seen so far."""
        return self._run_stages(chunk, last=False)

    def finish(self) -> str:
        """What was held back; nothing is fed after it."""
        return self._run_stages("", last=True)

    def _run_stages(self, chunk: str, *, last: bool) -> str:
        for stage in self._stages:
            chunk = stage.feed(chunk, last=last)
        return chunk


def redact(text: str) -> str:
    """The text with every secret replaced by `[redacted]`; the names of parameters stay."""
    text, _ = SECRETS.redact(text)
    return build_token_scanner().feed(build_named_value_scanner().feed(text, last=True), last=True)

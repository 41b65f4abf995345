"""Redaction of a text, whole or in chunks."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar

from .patterns import build_named_value_scanner, build_token_scanner
from .registry import SECRETS, RegisteredSecretScanner

SLICE_CHARACTERS = 32 * 1024  # a regular expression holds Python's lock while it searches them
after_slice: ContextVar[Callable[[], object] | None] = ContextVar("cci_after_slice", default=None)


class Redactor:
    """A redactor of a text that arrives in chunks, even when a secret spans two of them.

    The chunks it returns, joined, equal the result of `redact` on the whole text. It holds back
    only an end that may be the start of a secret. That is at most 4,096 characters that look like
    a token, or as many as the longest registered secret has, URL-encoded.

    Example:
        ```python
        from cci_plugins.redaction import Redactor

        redactor = Redactor()
        print(redactor.feed("https://x/?sig=ab") + redactor.feed("cdef") + redactor.finish())
        ```
    """

    def __init__(self) -> None:
        self._stages = (
            RegisteredSecretScanner(SECRETS),
            build_named_value_scanner(),
            build_token_scanner(),
        )

    def feed(self, chunk: str) -> str:
        """Return the redacted text so far."""
        if len(chunk) <= SLICE_CHARACTERS:
            return self._run_stages(chunk, last=False)
        output = []
        for start in range(0, len(chunk), SLICE_CHARACTERS):
            output.append(self._run_stages(chunk[start : start + SLICE_CHARACTERS], last=False))
            if pause := after_slice.get():
                pause()
        return "".join(output)

    def finish(self) -> str:
        """Return the text that was held back. Feed nothing after it."""
        return self._run_stages("", last=True)

    def _run_stages(self, chunk: str, *, last: bool) -> str:
        for stage in self._stages:
            chunk = stage.feed(chunk, last=last)
        return chunk


def redact(text: str) -> str:
    """Return the text with every secret replaced by `[redacted]`. Names of parameters stay.

    Args:
        text: Any text.

    Example:
        ```python
        from cci_plugins.redaction import redact

        print(redact("https://x/?sp=r&sig=abc"))
        ```
    """
    if not text:
        return text
    if len(text) > SLICE_CHARACTERS:
        redactor = Redactor()
        return redactor.feed(text) + redactor.finish()
    text, _ = SECRETS.redact(text)
    text = build_token_scanner().feed(build_named_value_scanner().feed(text, last=True), last=True)
    if pause := after_slice.get():
        pause()
    return text

"""What must never be seen: signatures, keys and tokens, wherever text leaves the package.

Known secrets are those that passed through the package; the rest is recognised by its form. Text
that was cut into pieces goes through a `Redactor`, which holds back no more than what could still
become a secret.
"""

from __future__ import annotations

import json
import logging
import re
import threading
from base64 import b64encode
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

GONE = "[redacted]"
SHORTEST = 8  # characters; anything shorter is no secret that could be told from other text
KNOWN = 500  # secrets that are remembered; the oldest are short-lived and expired by then
HELD = 4_096  # most characters that a stream holds back

_EQUALS = r"(?:=|%3[Dd]|%253[Dd]|\\u003[Dd]|&#61;)"
_VALUE = r"(?:[A-Za-z0-9+/_.~-]|%(?:25)?[0-9A-Fa-f]{2}|={1,2}(?![A-Za-z0-9])){16,}"
_FORMS = re.compile(
    r"(?P<sig>(?:(?<![A-Za-z0-9])|(?<=26))(?:s|%73)(?:i|%69)(?:g|%67)"
    + _EQUALS
    + r")"
    + _VALUE
    + r"|"
    r"(?P<key>\b(?:account|shared|access)_?-?key[\"']?\s{0,3}[=:]\s{0,3}[\"']?)[A-Za-z0-9+/]{20,}={0,2}|"
    r"(?P<bearer>\bbearer\s{1,3})[A-Za-z0-9._~+/-]{16,}={0,2}|"
    r"(?P<header>\bx-ms-apikey[\"']?\s{0,3}[:=]\s{0,3}[\"']?)[^\s\"',;]{8,}|"
    r"(?P<jwt>)\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*",
    re.IGNORECASE,
)
# at the end of a piece: a mark and as much of its value as is there
_OPEN = re.compile(
    r"(?:(?:(?<![A-Za-z0-9])|(?<=26))(?:s|%73)(?:i|%69)(?:g|%67)"
    + _EQUALS
    + r"[A-Za-z0-9+/_.~%=-]*|"
    r"\b(?:account|shared|access)_?-?key[\"']?\s{0,3}[=:]?\s{0,3}[\"']?[A-Za-z0-9+/=]*|"
    r"\bbearer\s{0,3}[A-Za-z0-9._~+/=-]*|"
    r"\bx-ms-apikey[\"']?\s{0,3}[:=]?\s{0,3}[\"']?[^\s\"',;]*|"
    r"\beyJ[A-Za-z0-9_.-]*)\Z",
    re.IGNORECASE,
)
# or the beginning of a mark
_MARKS = (
    *(
        f"{name}{equals}"
        for name in (
            *("sig", "%73ig", "s%69g", "si%67", "%73%69%67"),
            *("%26sig", "%2526sig", "\\u0026sig"),
        )
        for equals in ("=", "%3d", "%253d", "\\u003d", "&#61;")
    ),
    *(f"{name}{dash}key" for name in ("account", "shared", "access") for dash in ("", "_", "-")),
    "bearer",
    "x-ms-apikey",
    "eyj",
)

_PLAIN = ("sig", "%73", "key", "bearer", "eyj")


class _Known:
    """The secrets that passed through, in every spelling in which they could come out."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._secrets: OrderedDict[str, tuple[str, ...]] = OrderedDict()
        # replaced as a whole, so that readers need no lock
        self._by_length: tuple[str, ...] = ()
        self._by_letters: tuple[str, ...] = ()

    def add(self, secret: str) -> None:
        with self._guard:
            if secret in self._secrets:
                self._secrets.move_to_end(secret)
                return
            self._secrets[secret] = _spellings(secret)
            if len(self._secrets) > KNOWN:
                self._secrets.popitem(last=False)
            self._build()

    def remove(self, secret: str) -> None:
        with self._guard:
            if self._secrets.pop(secret, None) is not None:
                self._build()

    def _build(self) -> None:
        parts = {text for texts in self._secrets.values() for text in texts}
        self._by_letters = tuple(sorted(parts))
        self._by_length = tuple(sorted(parts, key=len, reverse=True))

    def cover(self, text: str) -> str:
        for part in self._by_length:  # far faster than one pattern of them all
            if part in text:
                text = text.replace(part, GONE)
        return text

    def begins(self, text: str) -> int:
        """Characters at the end of a text that could be the beginning of a secret."""
        parts = self._by_letters
        longest = len(self._by_length[0]) if parts else 0
        for length in range(min(longest - 1, len(text)), 0, -1):
            tail = text[-length:]
            at = bisect_left(parts, tail)
            if any(part.startswith(tail) and part != tail for part in parts[at : at + 2]):
                return length
        return 0


_known = _Known()


def know(secret: str) -> None:
    """Remember a secret, so that it is covered wherever it comes out; short texts are none."""
    if len(secret) >= SHORTEST:
        _known.add(secret)


def forget(secret: str) -> None:
    """Remember a secret no longer: it has ended."""
    _known.remove(secret)


def redact(text: str) -> str:
    """A text without secrets; the name of a parameter stays: `sig=[redacted]`."""
    text = _known.cover(text)
    lower = text.lower()
    if not any(mark in lower for mark in _PLAIN):
        return text
    return _FORMS.sub(_covered, text)


def redact_value(value: Any) -> Any:
    """A JSON-like value without secrets; images, which are base64, are left as they are."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, Mapping):
        return {
            redact_value(key): part if _is_image(key) else redact_value(part)
            for key, part in value.items()
        }
    if isinstance(value, (list, tuple)):
        return type(value)(map(redact_value, value)) if type(value) in {list, tuple} else value
    return value


def redact_exception(error: BaseException) -> BaseException:
    """Take secrets out of an exception, its notes and those it came from; the same object."""
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        found = waiting.pop()
        if found is None or id(found) in seen:
            continue
        seen.add(id(found))
        found.args = tuple(redact_value(part) for part in found.args)
        if isinstance(found, OSError):  # it keeps its words beside its arguments
            for name in ("strerror", "filename", "filename2"):
                if isinstance(getattr(found, name), str):
                    setattr(found, name, redact(getattr(found, name)))
        if getattr(found, "__notes__", None):
            found.__notes__ = [redact(str(note)) for note in found.__notes__]
        waiting += [found.__cause__, found.__context__]
    return error


class Redactor:
    """Takes secrets out of a stream whose pieces may cut them anywhere."""

    def __init__(self) -> None:
        self._held = ""

    def feed(self, piece: str) -> str:
        """Take a piece; return what may be shown by now."""
        text = self._held + piece
        cut = len(text) - self._open(text)
        self._held = text[cut:]
        return redact(text[:cut])

    def finish(self) -> str:
        """What was held back to the end."""
        held, self._held = self._held, ""
        return redact(held)

    def _open(self, text: str) -> int:
        """Characters at the end that may be the beginning of a secret, or its middle."""
        tail = text[-HELD:]
        match = _OPEN.search(tail)
        by_form = len(tail) - match.start() if match else _begun(tail.lower())
        return max(by_form, _known.begins(text))


class RedactingFilter(logging.Filter):
    """Takes secrets out of log records; attach it to a logger, or to a handler for all of them."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Clean the record; it always passes."""
        try:
            message: str | None = record.getMessage()
        except (TypeError, ValueError):  # logging would print the arguments as they are
            message = None
        covered = redact(f"{record.msg} {record.args}" if message is None else message)
        if covered != message:
            record.msg, record.args = covered, None
        trace = record.exc_text
        if record.exc_info and trace is None:
            trace = logging.Formatter().formatException(record.exc_info)
        if trace and (covered := redact(trace)) != trace:
            record.exc_text, record.exc_info = covered, None
        if record.stack_info:
            record.stack_info = redact(record.stack_info)
        return True


def install(*names: str) -> None:
    """Have loggers of these names cover secrets; a second time changes nothing."""
    for name in names:
        logger = logging.getLogger(name)
        if not any(isinstance(part, RedactingFilter) for part in logger.filters):
            logger.addFilter(RedactingFilter())


def _covered(match: re.Match[str]) -> str:
    return f"{match[match.lastgroup] if match.lastgroup else ''}{GONE}"


def _begun(lower: str) -> int:
    """Characters at the end that are the beginning of a mark, which begins a word."""
    most = 0
    for mark in _MARKS:
        for length in range(len(mark) - 1, most, -1):
            before = lower[:-length][-2:]  # 26: an ampersand that was encoded
            first = not mark[0].isalnum() or before == "26" or not before[-1:].isalnum()
            if first and lower.endswith(mark[:length]):
                most = length
                break
    return most


def _is_image(key: object) -> bool:
    return isinstance(key, str) and key.startswith("image/") and key != "image/svg+xml"


def _spellings(secret: str) -> tuple[str, ...]:
    quoted = quote(secret, safe="", errors="surrogatepass")
    return tuple(
        {
            secret,
            quoted,
            quoted.lower() if "%" in quoted else quoted,
            quote(quoted, safe=""),
            json.dumps(secret)[1:-1],
            b64encode(secret.encode(errors="surrogatepass")).decode().rstrip("="),
        }
    )

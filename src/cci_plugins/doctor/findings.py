"""What a check found out, and how it is told without naming whose resources they are."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Literal

from cci_plugins.redaction import redact

Status = Literal["ok", "warning", "failed", "skipped", "unknown"]
"""How a check ended: `skipped` when it would say nothing here, `report_unknown` when it got no answer."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found out.

    Attributes:
        id: The check's name, which stays the same in every release: `pool.state`.
        status: How it ended.
        message: One line for people.
        fix: What to do about it, in one line; empty when nothing has to be done.
        duration: How long it took.
    """

    id: str
    status: Status
    message: str
    fix: str = ""
    duration: timedelta = timedelta()


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a check says."""

    status: Status
    message: str
    fix: str = ""


class SkipCheckError(Exception):
    """There is nothing to check here; the text says why."""


class UnknownError(Exception):
    """It could not be found out; the text says why."""


def report_ok(message: str) -> Outcome:
    """All is as it should be."""
    return Outcome("ok", message)


def report_warning(message: str, fix: str) -> Outcome:
    """It works, or may, but not as it should."""
    return Outcome("warning", message, fix)


def report_failure(message: str, fix: str) -> Outcome:
    """It does not work."""
    return Outcome("failed", message, fix)


def report_unknown(message: str, fix: str) -> Outcome:
    """It could not be found out."""
    return Outcome("unknown", message, fix)


_GUID = re.compile(r"\b[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}\b")
_RESOURCE = re.compile(r"/subscriptions/[^\s'\",;)]+")
_HOST = re.compile(
    r"(?:https?://)?[\w.-]+\.(?:azurecontainerapps\.io|dynamicsessions\.io|core\.windows\.net"
    r"|services\.ai\.azure\.com)[^\s'\",;)]*",
    re.IGNORECASE,
)


@dataclass(slots=True)
class Mask:
    """Covers what names a user's resources, so that a report can be shown to others.

    Attributes:
        open: Whether nothing is covered.
    """

    is_open: bool
    _known: dict[str, str] = field(default_factory=dict[str, str])

    def name(self, kind: str, value: str) -> str:
        """A name or an id: itself, or what it is, as `<session pool>`; covered from now on."""
        if value:
            self._known[value.lower()] = f"<{kind}>"
        return value if self.is_open or not value else f"<{kind}>"

    def text(self, text: str) -> str:
        """Somebody else's words, on one line, without secrets or control codes, and covered."""
        text = redact(" ".join(text.split()))
        text = "".join(letter for letter in text if letter.isprintable())
        if self.is_open:
            return text
        text = _HOST.sub("<address>", _GUID.sub("<id>", _RESOURCE.sub("<resource id>", text)))
        for value in sorted(self._known, key=len, reverse=True):
            word = re.compile(rf"(?<![\w<-]){re.escape(value)}(?![\w>-])", re.IGNORECASE)
            text = word.sub(self._replace_known, text)
        return text

    def _replace_known(self, match: re.Match[str]) -> str:
        return self._known[match[0].lower()]


def lower_keys(value: Any) -> dict[str, Any]:
    """An object of JSON with its keys in lower case; Azure's casing has changed more than once."""
    items = value.items() if isinstance(value, dict) else ()
    return {str(key).lower(): item for key, item in items}

"""Results of checks, and the mask that hides the names of a user's resources in them."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Literal, Self

from cci_plugins.redaction import redact

Status = Literal["ok", "warning", "failed", "skipped", "unknown"]
"""Result of a check: `skipped` if it does not apply here, `unknown` if it got no answer."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Result of one check.

    Attributes:
        id: Name of the check, such as `pool.state`. It stays the same in every release.
        status: Whether the checked thing works.
        message: One line for people.
        fix: What to do about it, in one line. Empty when nothing has to be done.
        duration: Duration of the check.
    """

    id: str
    status: Status
    message: str
    fix: str = ""
    duration: timedelta = timedelta()


@dataclass(frozen=True, slots=True)
class Outcome:
    """Return value of a check, before the engine adds the check's name and duration."""

    status: Status
    message: str
    fix: str = ""

    @classmethod
    def ok(cls, message: str) -> Self:
        """Create an outcome for what works as it should."""
        return cls("ok", message)

    @classmethod
    def warning(cls, message: str, fix: str) -> Self:
        """Create an outcome for what works, or may work, but not as it should."""
        return cls("warning", message, fix)

    @classmethod
    def failed(cls, message: str, fix: str) -> Self:
        """Create an outcome for what does not work."""
        return cls("failed", message, fix)

    @classmethod
    def unknown(cls, message: str, fix: str) -> Self:
        """Create an outcome for what could not be determined."""
        return cls("unknown", message, fix)


class SkipCheckError(Exception):
    """The check does not apply here. The text is the reason."""


class UnknownError(Exception):
    """The check could not determine a result. The text is the reason."""


_GUID = re.compile(r"\b[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}\b")
_RESOURCE = re.compile(r"/subscriptions/[^\s'\",;)]+")
_HOST = re.compile(
    r"(?:https?://)?[\w.-]+\.(?:azurecontainerapps\.io|dynamicsessions\.io|core\.windows\.net"
    r"|services\.ai\.azure\.com)[^\s'\",;)]*",
    re.IGNORECASE,
)


@dataclass(slots=True)
class Mask:
    """Mask for the names of a user's resources, so that a report can be shared.

    Attributes:
        show_ids: Whether names and ids stay visible.
    """

    show_ids: bool
    _placeholders: dict[str, str] = field(default_factory=dict[str, str])

    def hide_name(self, kind: str, value: str) -> str:
        """Hide a name or id from now on, and return its placeholder.

        Args:
            kind: What the value names, such as `session pool`.
            value: Name or id. An empty one is returned unchanged.

        Returns:
            Placeholder such as `<session pool>`, or the value itself if ids are shown.
        """
        if value:
            self._placeholders[value.lower()] = f"<{kind}>"
        return value if self.show_ids or not value else f"<{kind}>"

    def clean_text(self, text: str) -> str:
        """Return foreign text as one line, without secrets, control codes and hidden names."""
        text = redact(" ".join(text.split()))
        text = "".join(letter for letter in text if letter.isprintable())
        if self.show_ids:
            return text
        text = _HOST.sub("<address>", _GUID.sub("<id>", _RESOURCE.sub("<resource id>", text)))
        for value in sorted(self._placeholders, key=len, reverse=True):
            word = re.compile(rf"(?<![\w<-]){re.escape(value)}(?![\w>-])", re.IGNORECASE)
            text = word.sub(self._get_placeholder, text)
        return text

    def _get_placeholder(self, match: re.Match[str]) -> str:
        return self._placeholders[match[0].lower()]


def lower_keys(value: Any) -> dict[str, Any]:
    """Return a JSON object with lower-case keys, since Azure changed their case several times.

    Anything that is not an object becomes an empty one.
    """
    items = value.items() if isinstance(value, dict) else ()
    return {str(key).lower(): item for key, item in items}

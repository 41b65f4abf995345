"""HTML elements that are safe by construction: `tag` escapes whatever is not `Html`."""

from __future__ import annotations

import re
from html import escape

from cci_plugins.core.rendering import clean, clip

# Text that is displayed in another order than it is stored, and control codes of eight bits.
_DECEPTIVE = re.compile("[\u0080-\u009f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_VOID = frozenset({"br", "hr", "img", "input", "link", "meta"})


class Html(str):
    """Text that is HTML already. Only this module makes it from other text."""

    __slots__ = ()


def tag(name: str, /, *children: str, **attributes: str | bool | None) -> Html:
    """Build an element.

    Args:
        name: The element's name.
        *children: Its content. Text that is not `Html` is made harmless.
        **attributes: Its attributes. A trailing underscore is dropped, others become hyphens.
            False and None leave an attribute out.
    """
    given = (
        f" {key.rstrip('_').replace('_', '-')}" + ("" if value is True else f'="{_quote(value)}"')
        for key, value in attributes.items()
        if value is not None and value is not False
    )
    start = f"<{name}{''.join(given)}>"
    return Html(start) if name in _VOID else Html(f"{start}{join(*children)}</{name}>")


def join(*children: str) -> Html:
    """Return children as one piece of HTML."""
    return Html("".join(one if isinstance(one, Html) else escape_text(one) for one in children))


def escape_text(text: str) -> Html:
    """Return hostile text as HTML, without control codes and without hidden direction marks."""
    return Html(escape(_DECEPTIVE.sub("\N{REPLACEMENT CHARACTER}", clean(text))))


def clip_text(text: str, limit: int) -> Html:
    """Return hostile text as HTML of a bounded length.

    Args:
        text: Text of any length.
        limit: Most characters.
    """
    return escape_text(clip(text, limit))


def _quote(value: object) -> str:
    """Return an attribute's value. It stays what it is, since links and forms send it back."""
    text = str(value)
    return text if isinstance(value, Html) else escape(text.encode(errors="replace").decode())

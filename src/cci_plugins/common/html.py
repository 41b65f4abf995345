"""HTML of an execution for a notebook of the host. Nothing in it can run script.

A session exists to keep untrusted code away from the host. So its text is escaped, its images are
`img` elements, and its HTML is shown in a frame that may not run script.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping
from html import escape
from typing import Any

from .image_data import IMAGE_TYPES, SVG, decode_image

MAX_CHARACTERS = 100_000  # of one text
_TEXT_FORMS = ("text/plain", "text/markdown", "text/latex")
_FRAME = (
    '<iframe sandbox="" srcdoc="{}" style="width:100%;height:20em;border:0;resize:vertical">'
    "</iframe>"
)


def build_text(text: str, *, is_error: bool = False) -> str:
    """Return text as a block, on a red ground if it is an error."""
    style = ' style="background:#fdd"' if is_error else ""
    return f"<pre{style}>{_escape(text)}</pre>"


def build_result(data: Mapping[str, Any]) -> str:
    """Return a result in its best form: image, HTML or text."""
    for media_type in (*IMAGE_TYPES, SVG):
        image = decode_image(media_type, data.get(media_type))
        if image is not None:
            return f'<img src="data:{media_type};base64,{b64encode(image).decode()}">'
    html = data.get("text/html")
    if isinstance(html, str) and len(html) <= MAX_CHARACTERS:
        return _FRAME.format(_escape(html))
    text = next((data[kind] for kind in _TEXT_FORMS if isinstance(data.get(kind), str)), None)
    return build_text(f"[{', '.join(map(str, data))}]" if text is None else text)


def _escape(text: str) -> str:
    if len(text) > MAX_CHARACTERS:
        dropped = len(text) - MAX_CHARACTERS
        text = f"{text[:MAX_CHARACTERS]}\n[... {dropped:,} more characters ...]"
    return escape(text.encode("utf-8", "backslashreplace").decode())

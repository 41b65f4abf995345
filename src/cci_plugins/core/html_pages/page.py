"""The frame of each page: `build_page`, its style and its security headers."""

from __future__ import annotations

from base64 import b64encode
from functools import lru_cache
from hashlib import sha256
from pathlib import Path

from .elements import Html, join, tag

_STYLE = Path(__file__).with_name("style.css")


@lru_cache(maxsize=1)
def _read_style() -> Html:
    return Html(_STYLE.read_text(encoding="utf-8"))


@lru_cache(maxsize=1)
def build_policy() -> str:
    """Return the content security policy: no script, no address of others, our one style."""
    digest = b64encode(sha256(_read_style().encode()).digest()).decode()
    return (
        f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'; form-action 'self'; "
        "frame-ancestors 'none'; base-uri 'none'"
    )


def build_headers() -> dict[str, str]:
    """Return the headers of every page."""
    return {
        "content-security-policy": build_policy(),
        "x-content-type-options": "nosniff",
        "x-frame-options": "DENY",
        "referrer-policy": "same-origin",  # with no-referrer, forms have the origin "null"
        "cross-origin-opener-policy": "same-origin",
        "cross-origin-resource-policy": "same-origin",
        "cache-control": "no-store",
    }


def build_page(
    title: str, *content: str, header: str = "", refresh: int | None = None, is_file: bool = False
) -> str:
    """Build a whole page.

    Args:
        title: Its title.
        *content: Its body.
        header: More for the line at its top.
        refresh: Seconds until the browser loads it again. None leaves it as it is.
        is_file: The page is a file, which has no headers and no other pages.
    """
    policy = build_policy().replace("frame-ancestors 'none'; ", "")  # headers only
    name = tag("span", "cci", class_="brand")
    head = join(
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=Html(policy)),
        tag("meta", name_="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name_="color-scheme", content="light dark"),
        tag("meta", name_="referrer", content="same-origin"),
        "" if refresh is None else tag("meta", http_equiv="refresh", content=str(refresh)),
        tag("title", f"{title} \N{MIDDLE DOT} cci"),
        tag("link", rel="icon", href="data:,"),
        tag("style", _read_style()),
    )
    top = tag("header", name if is_file else tag("a", name, href="/sessions"), header)
    body = join(top, tag("main", *content))
    return f"<!doctype html>\n{tag('html', tag('head', head), tag('body', body), lang='en')}\n"

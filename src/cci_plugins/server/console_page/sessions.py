"""The console's pages: signing in, the list of sessions, one session, and what went wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal
from urllib.parse import quote, urlencode

from cci_plugins.core.html_pages.elements import Html, join, tag
from cci_plugins.core.html_pages.page import build_page
from cci_plugins.core.html_pages.runs import (
    RunView,
    build_runs,
    build_time,
    format_duration,
    format_size,
)
from cci_plugins.models import FileInfo
from cci_plugins.redaction import redact

ROOT = "/sessions"
SIGN_IN, SIGN_OUT = f"{ROOT}/sign-in", f"{ROOT}/sign-out"
END, DOWNLOAD = f"{ROOT}/end", f"{ROOT}/get"
"""Shorter than a session identifier may be, so that none of them hides a session."""
TOKEN = "token"  # noqa: S105 - the name of a field
MAX_FILES = 500
_LIST_SECONDS, _RUN_SECONDS = 5, 2  # between updates while code runs
_MAX_NAME = 60

State = Literal["running", "live", "unknown", "ended"]
STATES: tuple[State, ...] = ("running", "live", "unknown", "ended")
"""In the order of the list."""


@dataclass(frozen=True, slots=True)
class SessionView:
    """A session, as it is when its page is built.

    Attributes:
        identifier: Its identifier in the pool.
        state: `unknown` if the pool lists no sessions.
        started_at: When the pool started it, or it first ran code here.
        last_used_at: When it was last used.
        left: How long until it ends if it is not used. None if code runs, or nobody knows.
        runs: How many runs this server started in it.
    """

    identifier: str
    state: State
    started_at: datetime
    last_used_at: datetime
    left: timedelta | None
    runs: int


@dataclass(frozen=True, slots=True)
class Frame:
    """What all pages of one visitor share.

    Attributes:
        token: Shows that a form comes from a page of this server.
        now: Time of the page.
    """

    token: str
    now: datetime

    def build_page(self, title: str, *content: str, refresh: int | None = None) -> str:
        """Build a page for somebody who signed in."""
        leave = self.build_form(SIGN_OUT, tag("button", "Sign out"))
        return build_page(title, *content, header=leave, refresh=refresh)

    def build_form(self, action: str, *content: str, **fields: str) -> Html:
        """Build a form that changes something."""
        hidden = (
            tag("input", type="hidden", name=name, value=value)
            for name, value in {TOKEN: self.token, **fields}.items()
        )
        return tag("form", *hidden, *content, method="post", action=action)


def build_sign_in_page(problem: str = "") -> str:
    """Build the form that takes the server's key.

    Args:
        problem: Why the last attempt failed.
    """
    form = tag(
        "form",
        tag("label", "Key of this server", for_="key"),
        tag(
            "input",
            type="password",
            id="key",
            name="key",
            autocomplete="current-password",
            required=True,
            autofocus=True,
        ),
        tag("button", "Sign in", class_="main"),
        method="post",
        action=SIGN_IN,
    )
    hint = tag(
        "small",
        "cci serve printed it when it started, or you set it as CCI_SERVE_KEY.",
        class_="soft",
    )
    alert = tag("p", problem, class_="alert", role="alert") if problem else ""
    card = tag("div", tag("h1", "Sign in"), hint, alert, form, class_="card")
    return build_page("Sign in", tag("div", card, class_="sign-in"))


def build_list_page(sessions: Sequence[SessionView], frame: Frame, *, problem: str = "") -> str:
    """Build the list of sessions.

    Args:
        sessions: The sessions, in the order to show.
        frame: What all pages share.
        problem: Why the pool's sessions are not known, or empty.
    """
    alert = tag("p", problem, class_="alert", role="alert") if problem else ""
    head = tag(
        "tr",
        tag("th", "Session"),
        tag("th", "State"),
        tag("th", "Runs", class_="number"),
        tag("th", "Last used"),
        tag("th", "Time left"),
    )
    rows = (_build_row(session, frame.now) for session in sessions)
    table = tag("table", tag("thead", head), tag("tbody", *rows))
    body = table if sessions else tag("p", "No session has run code here yet.", class_="empty")
    is_busy = any(session.state == "running" for session in sessions)
    return frame.build_page(
        "Sessions",
        tag("h1", "Sessions"),
        _build_scope_note(),
        alert,
        tag("div", body, class_="card"),
        refresh=_LIST_SECONDS if is_busy else None,
    )


def build_session_page(
    session: SessionView,
    runs: Sequence[RunView],
    frame: Frame,
    *,
    files: Sequence[FileInfo] | str,
    older: int | None = None,
    dropped: int = 0,
    is_latest: bool = True,
) -> str:
    """Build the page of one session.

    Args:
        session: The session.
        runs: Runs to show, the newest first.
        frame: What all pages share.
        files: Its files, or why they are not shown.
        older: Show a link to the runs before this number.
        dropped: How many runs are no longer kept.
        is_latest: The newest run is on this page, so it shows what changes.
    """
    head = tag("div", _build_state(session.state), _build_end(session, frame), class_="row")
    facts = {
        "Time left": _format_left(session),
        "Started": build_time(session.started_at, pattern="%Y-%m-%d %H:%M"),
        "Last used": _format_age(session.last_used_at, frame.now),
        "Runs": f"{session.runs:,}",
    }
    pairs = (tag("div", tag("dt", name), tag("dd", value)) for name, value in facts.items())
    nothing = tag("p", "This server has run no code in it.", class_="card empty")
    more = [] if older is None else [tag("a", "Older runs", href=f"?before={older}")]
    if dropped:
        more.append(tag("span", f"{dropped:,} older runs are no longer kept.", class_="soft"))
    return frame.build_page(
        session.identifier[:_MAX_NAME],
        tag("h1", session.identifier, class_="name"),
        head,
        tag("dl", *pairs),
        tag("h2", "Runs") if is_latest else tag("h2", "Older runs"),
        build_runs(runs) or nothing,
        tag("div", *more, class_="row"),
        tag("h2", "Files"),
        _build_files(session.identifier, files),
        _build_scope_note(),
        refresh=_RUN_SECONDS if is_latest and session.state == "running" else None,
    )


def build_message_page(title: str, text: str) -> str:
    """Build a page with one message and a link to the list."""
    back = tag("p", tag("a", "All sessions", href=ROOT))
    return build_page(title, tag("h1", title), tag("p", text), back)


def get_session_path(identifier: str) -> str:
    """Return the path of a session's page."""
    return f"{ROOT}/{quote(identifier, safe='', errors='replace')}"


def _build_scope_note() -> Html:
    text = (
        "One replica only: this page shows what this server process ran since it started. Runs of "
        "other replicas and of other programs are not here."
    )
    return tag("p", tag("small", text), class_="lead")


def _build_row(session: SessionView, now: datetime) -> Html:
    link = tag("a", session.identifier, href=get_session_path(session.identifier))
    return tag(
        "tr",
        tag("td", link, class_="name mono"),
        tag("td", _build_state(session.state)),
        tag("td", f"{session.runs:,}", class_="number", data_label="Runs"),
        tag("td", _format_age(session.last_used_at, now), data_label="Used"),
        tag("td", _format_left(session), data_label="Left"),
    )


def _build_state(state: str) -> Html:
    texts = {"running": ("busy", "running code"), "live": ("good", "live")}
    color, text = texts.get(state, ("idle", state))
    return tag("span", text, class_=f"status {color}")


def _build_end(session: SessionView, frame: Frame) -> Html:
    if session.state == "ended":
        return Html("")
    form = frame.build_form(
        END,
        tag("p", "Its variables and files are lost. Code that runs is stopped."),
        tag("button", "End this session", class_="danger"),
        id=session.identifier,
    )
    return tag(
        "details", tag("summary", "End session\N{HORIZONTAL ELLIPSIS}"), form, class_="ask end"
    )


def _build_files(identifier: str, files: Sequence[FileInfo] | str) -> Html:
    if isinstance(files, str) or not files:
        text = files if isinstance(files, str) else "It has no files."
        return tag("p", text, class_="soft")
    rows = (
        tag(
            "tr",
            tag("td", _build_download(identifier, file.name), class_="name mono"),
            tag("td", format_size(file.size), class_="number", data_label="Size"),
            tag("td", "" if file.modified_at is None else build_time(file.modified_at)),
        )
        for file in files[:MAX_FILES]
    )
    names = (tag("th", "Name"), tag("th", "Size", class_="number"), tag("th", "Changed"))
    table = tag("table", tag("thead", tag("tr", *names)), tag("tbody", *rows))
    left_out = len(files) - MAX_FILES
    more = (
        tag("p", f"{left_out:,} more files are not shown.", class_="note") if left_out > 0 else ""
    )
    return tag("div", join(table, more), class_="card")


def _build_download(identifier: str, name: str) -> Html:
    if (shown := redact(name)) != name:
        return join(shown)  # a link would hold the secret
    query = urlencode({"id": identifier, "name": name}, errors="replace")
    return tag("a", name, href=f"{DOWNLOAD}?{query}", download=True)


def _format_left(session: SessionView) -> str:
    if session.left is None:
        return "while it runs" if session.state == "running" else "\N{EN DASH}"
    return format_duration(session.left)


def _format_age(time: datetime, now: datetime) -> str:
    return f"{format_duration(now - time)} ago"

"""One call of what is inside: the code that is sent, and the answer that is read."""

from __future__ import annotations

import base64
import json
import zlib
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from secrets import token_hex
from typing import Any

from cci_plugins.core.session import Session
from cci_plugins.in_session.source import build_session_source
from cci_plugins.models import Execution

_MAX_TITLE = 200  # characters of a command that a reader of the history sees


@dataclass(frozen=True, slots=True)
class SessionResponse:
    """What a session said; anybody's code may have said it in its place.

    Attributes:
        fields: Its report.
        text: A command's output.
        execution: The run itself.
    """

    fields: dict[str, Any]
    text: str
    execution: Execution

    @property
    def notes(self) -> tuple[str, ...]:
        """What happened to the session: a loss, inputs that are back."""
        if self.execution.state == "lost" and not self.execution.notes:
            return ("the session was lost: files and processes of earlier calls are gone",)
        return self.execution.notes

    def found(self, count: int) -> list[dict[str, Any]]:
        """What it said about each of so many paths."""
        found = self.fields.get("found")
        if isinstance(found, list) and len(found) == count:
            return [one if isinstance(one, dict) else {"error": "no answer"} for one in found]
        return [{"error": "the session did not answer"}] * count


async def call_session(
    session: Session, title: str, job: dict[str, Any], limit: timedelta
) -> SessionResponse:
    """Have a session do a job.

    Args:
        session: Which.
        title: What a reader of the history sees.
        job: `verb`, and what it needs.
        limit: Longest run.

    Raises:
        CodeInterpreterError: As `Session.run_code`.
    """
    marker = token_hex(16)
    execution = await session.run_code(_build_code(title, marker, job), timeout=limit)
    _, _, rest = execution.stdout.partition(marker)
    header, _, rest = rest.partition(marker)
    text, end, _ = rest.rpartition(marker)
    try:
        fields = json.loads(header) if end else None
    except (ValueError, RecursionError):
        fields = None
    return SessionResponse(fields if isinstance(fields, dict) else {}, text, execution)


def _build_code(title: str, marker: str, job: dict[str, Any]) -> str:
    """One expression that binds no name and has no value, below a line for readers."""
    line = "".join(char if char.isprintable() else " " for char in title[:_MAX_TITLE])
    call = f"[exec(ns['s'],ns),ns['main'](get_ipython(),{marker!r},__import__('json').loads({json.dumps(job)!r}))]"  # noqa: E501 - it is one line there
    return (
        f"# {line}\n(lambda ns:{call} and None)(dict(s=__import__('zlib').decompress("
        f"__import__('base64').b64decode('{_pack_source()}')).decode(),__name__='_cci_shell'))"
    )


@cache
def _pack_source() -> str:
    source = build_session_source("in_session/streams.py", "in_session/shell.py")
    return base64.b64encode(zlib.compress(source.encode(), 9)).decode()

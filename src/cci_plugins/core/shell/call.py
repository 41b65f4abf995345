"""Calls of the shell program in a session."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from cci_plugins.core.session import Session
from cci_plugins.in_session.marked_call import Answer, Program, build_call
from cci_plugins.models import Execution

_PROGRAM = Program("_cci_shell", ("in_session/streams.py", "in_session/shell.py"))


@dataclass(frozen=True, slots=True)
class SessionResponse:
    """Response of the shell program. It is untrusted, since user code may have sent it.

    Attributes:
        answer: The program's answer, empty if it sent no valid one.
        execution: The call's execution.
    """

    answer: Answer
    execution: Execution

    @property
    def notes(self) -> tuple[str, ...]:
        """What happened to the session: that it was lost, or that its inputs were restored."""
        if self.execution.state == "lost" and not self.execution.notes:
            return ("the session was lost: files and processes of earlier calls are gone",)
        return self.execution.notes

    def get_path_results(self, count: int) -> list[dict[str, Any]]:
        """Return the answer's result for each of `count` paths."""
        found = self.answer.fields.get("found")
        if isinstance(found, list) and len(found) == count:
            return [one if isinstance(one, dict) else {"error": "no answer"} for one in found]
        return [{"error": "the session did not answer"}] * count


async def call_session(
    session: Session, title: str, job: dict[str, Any], limit: timedelta
) -> SessionResponse:
    """Run a job of the shell program in a session.

    Args:
        session: The session.
        title: What people see in the session's history.
        job: `verb` and its arguments, see `in_session/shell`.
        limit: Longest run.

    Raises:
        CodeInterpreterError: As `Session.run_code`.
    """
    call = build_call(_PROGRAM, job, title=title)
    execution = await session.run_code(call.code, timeout=limit)
    return SessionResponse(call.parse_answer(execution.stdout) or Answer({}, ""), execution)

"""Shell commands in a session."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import timedelta

from cci_plugins.core.session import Session
from cci_plugins.in_session.shell import TIMED_OUT

from .call import SessionResponse, call_session

_TERMINAL_CODES = re.compile(
    r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[()][0-9A-Za-z]|[=>78@-Z\\-_])"
)
OUTPUT_CHARACTERS = 1_000_000
GRACE_PERIOD = timedelta(seconds=10)  # for the answer, after a command's time is over
GRACE_SHARE = 0.1  # of the longest run, where that is shorter


@dataclass(frozen=True, slots=True)
class CommandResult:
    """Result of a command.

    Attributes:
        output: Standard output and error in their order, or head and tail of a long output.
        exit_code: The shell's exit code, 124 after a time-out, or None when the session broke.
        dropped_characters: Output that was not kept.
        notes: What happened to the session: that it was lost, or that its inputs were restored.
    """

    output: str
    exit_code: int | None
    dropped_characters: int = 0
    notes: tuple[str, ...] = ()


async def run_command(
    session: Session, command: str, *, timeout: timedelta | None, max_timeout: timedelta
) -> CommandResult:
    """Run a command by the session's shell, in the session's folder, without standard input.

    Its process group is killed when its time is over or the call is cancelled. What a finished
    command left in the background runs until the session ends.

    Args:
        session: The session.
        command: The shell's input.
        timeout: Longest run, `max_timeout` if None.
        max_timeout: Longest run of any command, the time for the answer included.

    Raises:
        CodeInterpreterError: As `Session.run_code`.
    """
    grace = min(GRACE_PERIOD, max_timeout * GRACE_SHARE)
    allowed = max_timeout - grace
    command_timeout = min(allowed, timeout) if timeout else allowed
    job = {
        "verb": "run",
        "command": command,
        "seconds": command_timeout.total_seconds(),
        "characters": OUTPUT_CHARACTERS,
    }
    response = await call_session(session, f"$ {command}", job, command_timeout + grace)
    answer, notes = response.answer, response.notes
    code = answer.get_int("exit")
    if code is None:
        exit_code = TIMED_OUT if response.execution.status == "timed_out" else None
        return CommandResult(_describe_failure(response), exit_code, notes=notes)
    output = answer.text
    if code == TIMED_OUT:
        seconds = f"{command_timeout.total_seconds():g}"
        output += f"\n[exit code 124; a command may run for {seconds} seconds]"
    return CommandResult(output, code, answer.get_int("dropped") or 0, notes)


def remove_terminal_codes(output: str) -> str:
    """Remove colours and other codes for a terminal, which nobody looks at."""
    return _TERMINAL_CODES.sub("", output)


def _describe_failure(response: SessionResponse) -> str:
    error = response.execution.error
    if error is None:
        return "the session did not report the command's exit code"
    return f"the command did not end by itself: {error.name}: {error.message}"

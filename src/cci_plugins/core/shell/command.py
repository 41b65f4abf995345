"""Run a shell command in a session."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from cci_plugins.core.session import Session
from cci_plugins.in_session.shell import TIMED_OUT
from cci_plugins.models import Execution

from .call import SessionResponse, call_session

OUTPUT_CHARACTERS = 1_000_000
GRACE_PERIOD = timedelta(seconds=10)  # for the answer, after a command's time is over
GRACE_SHARE = 0.1


@dataclass(frozen=True, slots=True)
class CommandResult:
    """What became of a command.

    Attributes:
        output: Standard output and error as they came; head and tail when it was too much.
        exit_code: As the shell has it, 124 after a time-out; None when the session broke.
        dropped_characters: Output that was not kept.
        notes: What happened to the session: a loss, inputs that are back.
    """

    output: str
    exit_code: int | None
    dropped_characters: int = 0
    notes: tuple[str, ...] = ()


async def run_command(
    session: Session, command: str, *, timeout: timedelta | None, max_timeout: timedelta
) -> CommandResult:
    """Run a command by the session's shell, in its folder, without standard input.

    Its process group is killed when its time is over or the call is cancelled. What it left
    running in the background stays, until the session ends.

    Args:
        session: Which.
        command: What the shell reads.
        timeout: Longest run; `max_timeout` when None.
        longest: The bound of every run.

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
    code = response.fields.get("exit")
    notes = response.notes
    if not isinstance(code, int):
        return CommandResult(
            _describe_failure(response), _get_exit_code(response.execution), notes=notes
        )
    output, dropped = response.text, response.fields.get("dropped")
    if code == TIMED_OUT:
        seconds = f"{command_timeout.total_seconds():g}"
        output += f"\n[exit code 124; a command may run for {seconds} seconds]"
    return CommandResult(output, code, dropped if isinstance(dropped, int) else 0, notes)


def _describe_failure(response: SessionResponse) -> str:
    error = response.execution.error
    if error is None:
        return "the session did not say how the command went"
    return f"the command did not end by itself: {error.name}: {error.message}"


def _get_exit_code(execution: Execution) -> int | None:
    return TIMED_OUT if execution.status == "timed_out" else None

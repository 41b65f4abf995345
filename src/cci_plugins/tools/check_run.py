"""The tool `check_run`: it asks for a run that `execute_code` left because it takes long.

It is offered only with `ToolOptions.wait`. The table of such runs is `core/long_runs.py`. Each call
answers at once, or within the same time as `execute_code`. Nothing is raised but cancellation, and
an exception of a framework by which a host tool ended the run.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

from cci_plugins.core.interpreter import AnyInterpreter
from cci_plugins.core.long_runs import LongRun, LongRuns, get_long_runs
from cci_plugins.core.session import Session
from cci_plugins.errors import CodeInterpreterError
from cci_plugins.models import Execution

from . import execute_code
from .execute_code import DEFAULT_OPTIONS, ToolReply
from .long_run_texts import (
    CHECK_RUN,
    NO_RUN,
    describe_end,
    format_read_already,
    format_running,
    format_seconds,
)
from .options import ToolOptions, get_wait

NAME = CHECK_RUN
ACTIONS = ("wait", "look", "stop")
ACTION_DESCRIPTION = (
    "wait: return when the run ends, or what it printed by then. look: return what it printed, "
    "at once. stop: end the run."
)
PARAMETERS: dict[str, Any] = {
    "type": "object",
    "properties": {
        "action": {"type": "string", "enum": list(ACTIONS), "description": ACTION_DESCRIPTION}
    },
    "required": ["action"],
    "additionalProperties": False,
}
_INVALID = 'action must be "wait", "look" or "stop". Nothing was changed.'


def build_description(wait: timedelta) -> str:
    """Build the tool's description.

    Args:
        wait: Longest time until an answer.
    """
    return (
        f"Check a run of {execute_code.NAME} that was still running when it answered. Its result "
        f"is returned once, when it has ended. Each call answers within {format_seconds(wait)}."
    )


async def call(
    interpreter: AnyInterpreter | None,
    action: object,
    *,
    session_key: str | None = None,
    options: ToolOptions = DEFAULT_OPTIONS,
) -> ToolReply:
    """Run the tool for an adapter.

    Args:
        interpreter: Where the run is. None means `get_default_interpreter()`.
        action: What the model wrote.
        session_key: The conversation. None means the current one of `use_session`.
        options: Options with `wait`.
    """
    try:
        chosen = execute_code.get_interpreter(interpreter)
        session = chosen.session(session_key)
    except Exception as error:  # noqa: BLE001 - nothing foreign reaches a framework
        return execute_code.build_not_run_reply(execute_code.log_failure(NAME, error))
    return await call_in_session(
        session,
        action,
        wait=get_wait(options) or timedelta(0),
        output_characters=options.output_characters or chosen.limits.output_characters,
    )


async def call_in_session(
    session: Session,
    action: object,
    *,
    wait: timedelta,
    output_characters: int,
    sanitize: Callable[[Execution], Execution] | None = None,
) -> ToolReply:
    """Look at the run of a session, wait for it or stop it.

    Args:
        session: Where the run is.
        action: What the model wrote.
        wait: Longest wait.
        output_characters: Most characters of the text.
        sanitize: Applied to the execution before it is rendered.
    """
    if action not in ACTIONS:
        return execute_code.build_not_run_reply(_INVALID)
    try:
        runs = get_long_runs(session)
        run = _choose_run(runs, action)
        if run is None:
            text = format_read_already(runs.last) if runs.last else NO_RUN
            return execute_code.build_reply_without_result("NoRun", text)
        execution = await _ask(runs, run, action, wait)
    except Exception as error:  # noqa: BLE001 - nothing foreign reaches a framework
        return execute_code.build_not_run_reply(execute_code.log_failure(NAME, error))
    if execution is None:
        text = format_running(run, output_characters, is_first=False)
        return execute_code.build_reply_without_result("StillRunning", text)
    summary = describe_end(run, execution.status)
    if not runs.remove(run, summary):
        return execute_code.build_reply_without_result("NoRun", format_read_already(summary))
    if run.error is not None:
        raise run.error
    return await execute_code.build_reply(
        execution, output_characters, sanitize=sanitize, header=f"[{summary}]"
    )


def _choose_run(runs: LongRuns, action: object) -> LongRun | None:
    """Return the run that is meant: one that goes on if it is to stop, else the oldest result."""
    running, ended = runs.find_running(), runs.find_ended()
    return (running or ended) if action == "stop" else (ended or running)


async def _ask(runs: LongRuns, run: LongRun, action: object, wait: timedelta) -> Execution | None:
    """Return the execution of a run, or None while it goes on. A failure is returned once, too."""
    try:
        if action == "stop":
            await run.cancel()
        return await run.wait(wait if action == "wait" else 0)
    except CodeInterpreterError:
        runs.remove(run, describe_end(run, "error"))
        raise

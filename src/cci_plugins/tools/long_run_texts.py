"""What the model reads about a run that goes on after its call."""

from __future__ import annotations

from datetime import timedelta

from cci_plugins.core.long_runs import LongRun
from cci_plugins.core.rendering import clean, clip

CHECK_RUN = "check_run"
NO_RUN = "No run is in progress, and none was left by an earlier call."
_ADVICE = (
    f'Call {CHECK_RUN} with action "wait" for its result, "look" for its output so far, '
    'or "stop" to end it.'
)
_STATUSES = {
    "succeeded": "it succeeded",
    "failed": "it failed",
    "timed_out": "it took too long",
    "died": "its session ended",
    "error": "the session pool failed",
}


def format_seconds(wait: timedelta) -> str:
    """Return a duration in seconds, with its unit."""
    return f"{wait.total_seconds():g} s"


def describe_wait(wait: timedelta) -> str:
    """Return the sentence of the description of `execute_code` about long runs."""
    return (
        f"A run of more than {format_seconds(wait)} goes on after the answer, and {CHECK_RUN} "
        "returns its result."
    )


def format_running(run: LongRun, budget: int, *, is_first: bool) -> str:
    """Return the answer for a run that goes on, with what it printed since the last answer.

    Args:
        run: The run.
        budget: Most characters.
        is_first: The call that started it answers.
    """
    output = run.read_output()
    header = f"[{run.name} is still running after {run.seconds} s. {_ADVICE}]"
    if output is None or not output.text.strip():
        return f"{header}\n(no {'output so far' if is_first else 'new output'})"
    missed = f"[{output.missed:,} characters before were not kept]\n" if output.missed else ""
    return f"{header}\n{missed}{clip(clean(output.text).rstrip(), budget - len(header) - 50)}"


def format_busy(run: LongRun | None) -> str:
    """Return the answer for code that was not run, because another run goes on."""
    if run is None:  # it has just ended, or runs within another call
        return "The code was not run: another run of this session is in progress. Try again."
    return (
        f"The code was not run: {run.name} is still running after {run.seconds} s, and a session "
        f"runs one thing at a time. {_ADVICE} Then run this code."
    )


def format_unread(run: LongRun | None) -> str:
    """Return the line about a result that waits, for the answer of a later run, or nothing."""
    if run is None:
        return ""
    return f"[{run.name} has ended meanwhile. Call {CHECK_RUN} for its result.]"


def describe_end(run: LongRun, status: str) -> str:
    """Return one sentence about a run that has ended."""
    return f"{run.name} has ended: {_STATUSES.get(status, status)}"


def format_read_already(summary: str) -> str:
    """Return the answer where the result of the last run was given before."""
    return f"{summary}, and its result was returned before. No run is in progress."

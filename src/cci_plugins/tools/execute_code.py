"""The tool every door offers: one name, one description, one schema, one way to run it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from secrets import token_hex
from threading import Lock
from typing import Any

from cci_plugins.common.approval import ApprovalRequest, Approver, Decision
from cci_plugins.common.log import logger
from cci_plugins.core.interpreter import CodeInterpreter
from cci_plugins.core.rendering import render_text
from cci_plugins.core.session_directory import current_budget, current_key
from cci_plugins.errors import CodeInterpreterError
from cci_plugins.models import ErrorInfo, Execution
from cci_plugins.pools.base import OutputHandler

from . import options as tool_options
from .options import ToolOptions

NAME = "execute_code"
DESCRIPTION = (
    "Run Python code in a sandbox and return what it prints and displays. "
    "Variables, imports and files are kept between calls of the same conversation. "
    "Files are in the working directory. Print, or end with, what you want to see; "
    "show charts with matplotlib."
)
CODE_DESCRIPTION = "Python source to run, without Markdown fences."
PARAMETERS: dict[str, Any] = {
    "type": "object",
    "properties": {"code": {"type": "string", "description": CODE_DESCRIPTION}},
    "required": ["code"],
    "additionalProperties": False,
}

# One complete Markdown fence around the whole, and nothing less (design decision 10).
_FENCE = re.compile(
    r"\s*(?P<fence>`{3,}|~{3,})[ \t]*(?:python3?|py|ipython)?[ \t]*\r?\n"
    r"(?P<code>.*?)\r?\n?[ \t]*(?P=fence)\s*",
    re.DOTALL | re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class ToolReply:
    """What a call gives back; as a string it is its text.

    Attributes:
        text: For the model, within its budget.
        execution: For the host. When the code did not run it says so: its error is `NotRun`.
        failed: The code raised, timed out or did not run.
    """

    text: str
    execution: Execution
    failed: bool = False

    def __str__(self) -> str:
        return self.text


DEFAULT_OPTIONS = ToolOptions()
_BUDGET_SPENT = (
    "The code was not run: the runs of this turn are used up ({}). Answer with what you have."
)
_default: list[CodeInterpreter] = []
_default_lock = Lock()


def get_default_interpreter() -> CodeInterpreter:
    """The interpreter of every door that was given none: `CodeInterpreter.from_env()`, once.

    It closes when the program ends.

    Raises:
        ConfigurationError: The environment is only half configured.
    """
    with _default_lock:
        if not _default:
            _default.append(CodeInterpreter.from_env())
        return _default[0]


def strip_fence(code: str) -> str:
    """Remove one complete Markdown fence around the whole code; change nothing else."""
    match = _FENCE.fullmatch(code)
    if match is None or match["fence"] in match["code"]:
        return code
    return match["code"]


async def call(
    interpreter: CodeInterpreter | None,
    code: str,
    *,
    session_key: str | None = None,
    on_output: OutputHandler | None = None,
    options: ToolOptions = DEFAULT_OPTIONS,
) -> ToolReply:
    """Approve, run, render; no exception but cancellation leaves here.

    Args:
        interpreter: Where to run; `default_interpreter()` when None.
        code: What the model wrote.
        session_key: The conversation; None for the current one of `use_session`.
        on_output: Told each piece of output while the code runs.
        options: What the host says of the tool.
    """
    try:
        interpreter = interpreter or get_default_interpreter()
        session = interpreter.session(session_key)
        source = strip_fence(code)
        if interpreter.approve is not None:
            decision = await _ask_approver(
                interpreter.approve, ApprovalRequest(source, session.key)
            )
            if decision.verdict != "allow":
                return build_not_run_reply(_format_denial(decision.reason))
            source = source if decision.code is None else decision.code
        budget = current_budget.get()
        if budget is not None and not budget.try_spend():
            return build_not_run_reply(_BUDGET_SPENT.format(budget.max_runs))
        execution = await session.run_code(source, on_output=on_output)
    except CodeInterpreterError as error:
        logger.warning("execute_code failed: %s: %s", type(error).__name__, error)
        return build_not_run_reply(format_failure(error))
    except Exception as error:  # noqa: BLE001 - nothing foreign reaches a framework
        logger.exception("execute_code failed unexpectedly")
        return build_not_run_reply(format_failure(error))
    text = render_text(execution, options.output_characters or interpreter.limits.output_characters)
    return ToolReply(text, execution, failed=execution.error is not None)


async def _ask_approver(approve: Approver, request: ApprovalRequest) -> Decision:
    """The approver's word; one that fails has not said yes."""
    try:
        return await approve(request)
    except Exception:  # noqa: BLE001 - the host's own code
        logger.exception("the approver failed")
        return Decision("deny", reason="nobody could be asked")


def build_description(options: ToolOptions, interpreter: CodeInterpreter | None) -> str:
    """The tool's description, with what the host says and what the pool is known to have."""
    known_packages = () if interpreter is None else interpreter.known_packages
    capabilities = None if interpreter is None else interpreter.capabilities
    return tool_options.build_description(
        DESCRIPTION, options, known_packages, capabilities=capabilities
    )


class SessionKeyResolver:
    """Which session the calls of one tool belong to.

    Args:
        door: Begins the key of those that belong to no conversation.
        advice: What a host is told, once, when they do not.
        own_key: The key of those, where the host named it; then there is no advice to give.
    """

    def __init__(self, adapter: str, warning: str = "", *, fallback_key: str | None = None) -> None:
        self.fallback_key = fallback_key or f"{adapter}-{token_hex(8)}"
        self._warning = "" if fallback_key else warning

    def resolve(self, *candidates: object) -> str:
        """The key: of `use_session`, else the first that the framework tells, else the tool's own.

        Args:
            told: What the framework calls the conversation, best first; empty ones do not count.
        """
        for key in (current_key.get(), *candidates):
            if key:
                return str(key)
        if self._warning:
            logger.warning(self._warning)
            self._warning = ""
        return self.fallback_key


def build_not_run_reply(text: str) -> ToolReply:
    """A reply that says why the code did not run."""
    error = ErrorInfo("NotRun", text)
    execution = Execution(error=error, status="failed", state="unknown")
    return ToolReply(text, execution, failed=True)


def _format_denial(reason: str | None) -> str:
    return f"The code was not run: the user did not approve it{': ' + reason if reason else ''}."


def format_failure(error: Exception) -> str:
    """One short sentence: a model needs to know what happened, not our internals."""
    if not isinstance(error, CodeInterpreterError):
        return "The code interpreter failed unexpectedly; whether the code ran is unknown."
    advice = "It did not start; you may try again." if error.retryable else ""
    return f"The code interpreter could not run this: {error}. {advice}".strip()

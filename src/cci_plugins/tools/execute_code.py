"""The tool `execute_code`: its name, description, schema, and the one way to run it.

Every adapter runs it by `call`, and the MCP server by `call_in_session`. The steps have a fixed
order, and the first that fails decides the reply:

1. Find the interpreter and the session.
2. Remove a Markdown fence around the code.
3. Ask the approver, if the application has one. An exception counts as a denial.
4. Spend one run of the budget. A denied run therefore costs nothing.
5. Run the code once. With `ToolOptions.wait`, leave it after that time (`core/long_runs.py`).
6. Render the execution within the model's budget.

Nothing is raised but cancellation, because an exception from a tool ends a LangChain run and
becomes an empty sentence in Agent Framework. A failure becomes a short text that names no secret
and no internals. The application finds it in the log and on `ToolReply.execution`.
"""

from __future__ import annotations

import logging
import os
import re
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from secrets import token_hex
from threading import Lock
from typing import Any

from cci_plugins.common.approval import ApprovalRequest, Approver, Decision
from cci_plugins.common.log import describe_error, logger
from cci_plugins.core.background_run import BackgroundRun
from cci_plugins.core.conversation import (
    SessionKey,
    current_budget,
    current_key,
    is_named,
    to_key,
)
from cci_plugins.core.host_tools import HostTool, ToolApprover
from cci_plugins.core.interpreter import AnyInterpreter, CodeInterpreter, unwrap_interpreter
from cci_plugins.core.long_runs import LongRun, LongRuns, get_long_runs
from cci_plugins.core.redacted_output import (
    estimate_execution,
    redact_in_lane,
    transform_in_lane,
)
from cci_plugins.core.rendering import render_text
from cci_plugins.core.session import Session
from cci_plugins.core.tool_signatures import describe_tools
from cci_plugins.errors import CodeInterpreterError, ConfigurationError
from cci_plugins.models import ErrorInfo, Execution
from cci_plugins.pools.base import OutputHandler, check_packages_support
from cci_plugins.redaction import redact

from . import options as tool_options
from .long_run_texts import describe_wait, format_busy, format_running, format_unread
from .options import ToolOptions, check_wait_support, get_wait

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

# One complete Markdown fence around the whole code, and nothing else (docs/decisions/0005).
_FENCE = re.compile(
    r"\s*(?P<fence>`{3,}|~{3,})[ \t]*(?:python3?|py|ipython)?[ \t]*\r?\n"
    r"(?P<code>.*?)\r?\n?[ \t]*(?P=fence)\s*",
    re.DOTALL | re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class ToolReply:
    """The result of a call. As a string it is its text.

    Attributes:
        text: For the model, within its budget.
        execution: For the application. If the code did not run, its error is `NotRun`. While it
            goes on, the error is `StillRunning`.
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
_logged_messages: deque[str] = deque(maxlen=100)
_default: list[CodeInterpreter] = []
_default_lock = Lock()


def _reset_default_lock() -> None:
    global _default_lock  # noqa: PLW0603 - a thread of the parent process may hold it
    _default_lock = Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset_default_lock)


def get_default_interpreter() -> CodeInterpreter:
    """Return the interpreter of every adapter that was given none.

    The first call creates it with `CodeInterpreter.from_env()`. It closes when the program ends.

    Raises:
        ConfigurationError: The environment is only half configured.
    """
    with _default_lock:
        if not _default:
            _default.append(CodeInterpreter.from_env())
        return _default[0]


def get_interpreter(interpreter: AnyInterpreter | None) -> CodeInterpreter:
    """Return the interpreter of an adapter, by default `get_default_interpreter()`.

    Args:
        interpreter: What the application gave, also one of `cci_plugins.sync`.

    Raises:
        ConfigurationError: It is not an interpreter, or the environment is half configured.
    """
    return get_default_interpreter() if interpreter is None else unwrap_interpreter(interpreter)


def strip_fence(code: str) -> str:
    """Remove one complete Markdown fence around the whole code. Change nothing else."""
    match = _FENCE.fullmatch(code)
    if match is None or match["fence"] in match["code"]:
        return code
    return match["code"]


async def call(
    interpreter: AnyInterpreter | None,
    code: str,
    *,
    session_key: str | None = None,
    on_output: OutputHandler | None = None,
    options: ToolOptions = DEFAULT_OPTIONS,
    tools: Sequence[HostTool] = (),
    approve_tool: ToolApprover | None = None,
    on_leave: Callable[[LongRun], object] | None = None,
) -> ToolReply:
    """Run the tool for an adapter. Nothing is raised but cancellation.

    Args:
        interpreter: Where to run. None means `get_default_interpreter()`.
        code: What the model wrote.
        session_key: The conversation. None means the current one of `use_session`.
        on_output: Called with each chunk of output while the code runs.
        options: Options for the tool's description and the size of its output.
        tools: Functions of the application that the code may call.
        approve_tool: Asked before a call of a tool that needs approval, while the code waits.
        on_leave: Called with a run that goes on after the reply.
    """
    try:
        chosen = get_interpreter(interpreter)
        session = chosen.session(session_key)
    except Exception as error:  # noqa: BLE001 - nothing foreign reaches a framework
        return build_not_run_reply(log_failure(NAME, error))
    return await call_in_session(
        session,
        code,
        output_characters=options.output_characters or chosen.limits.output_characters,
        approve=chosen.approve,
        on_output=on_output,
        tools=tools,
        approve_tool=approve_tool,
        wait=get_wait(options),
        on_leave=on_leave,
    )


async def call_in_session(
    session: Session,
    code: str,
    *,
    output_characters: int,
    approve: Approver | None = None,
    on_output: OutputHandler | None = None,
    sanitize: Callable[[Execution], Execution] | None = None,
    tools: Sequence[HostTool] = (),
    approve_tool: ToolApprover | None = None,
    wait: timedelta | None = None,
    on_leave: Callable[[LongRun], object] | None = None,
) -> ToolReply:
    """Approve the code, run it and render the result. Nothing is raised but cancellation.

    Args:
        session: Where to run.
        code: What the model wrote.
        output_characters: Most characters of the text.
        approve: Called before the run.
        on_output: Called with each chunk of output while the code runs.
        sanitize: Applied to the execution before it is rendered.
        tools: Functions of the application that the code may call.
        approve_tool: Asked before a call of a tool that needs approval, while the code waits.
        wait: Longest time until the reply, from the approval on. None means no limit.
        on_leave: Called with a run that goes on after the reply.
    """
    options: dict[str, Any] = {
        "on_output": on_output,
        "tools": tools,
        "approve_tool": approve_tool,
    }
    header = ""
    try:
        runs = None if wait is None else get_long_runs(session)
        if runs is not None and (running := runs.find_running()) is not None:
            raise _NotRunError(format_busy(running))  # noqa: TRY301 - every refusal is one
        source = await _approve_code(strip_fence(code), session, approve)
        if runs is None or wait is None:
            _spend_run()
            execution = await session.run_code(source, **options)
        else:
            header = format_unread(runs.find_ended())
            outcome = await run_or_leave(runs, partial(session.start_code, source, **options), wait)
            if isinstance(outcome, LongRun):
                if on_leave is not None:
                    on_leave(outcome)
                text = format_running(outcome, output_characters, is_first=True)
                return build_reply_without_result("StillRunning", text)
            execution = outcome
    except _NotRunError as refusal:
        return build_not_run_reply(str(refusal))
    except Exception as error:  # noqa: BLE001 - nothing foreign reaches a framework
        return build_not_run_reply(log_failure(NAME, error))
    return await build_reply(execution, output_characters, sanitize=sanitize, header=header)


class _NotRunError(Exception):
    """The code was not run, for a reason that the model reads."""


async def _approve_code(source: str, session: Session, approve: Approver | None) -> str:
    """Return the code that the approver allows, if there is one.

    Raises:
        _NotRunError: The approver denied it.
    """
    if approve is None:
        return source
    decision = await ask_approver(approve, ApprovalRequest(source, session.key))
    if decision.verdict != "allow":
        raise _NotRunError(_format_denial(decision.reason))
    return source if decision.code is None else decision.code


def _spend_run() -> None:
    """Spend one run of the budget, if there is one.

    Raises:
        _NotRunError: None is left.
    """
    budget = current_budget.get()
    if budget is not None and not budget.try_spend():
        raise _NotRunError(_BUDGET_SPENT.format(budget.max_runs))


async def run_or_leave(
    runs: LongRuns, start: Callable[[], Awaitable[BackgroundRun]], wait: timedelta
) -> Execution | LongRun:
    """Run code, after the run of another call if there is one. Return the run if it goes on.

    Args:
        runs: The runs of the session.
        start: Starts the code.
        wait: Longest time until this returns.

    Raises:
        Exception: What `start` or the pool raised, or that the code was not run.
    """
    deadline = time.monotonic() + wait.total_seconds()
    run = await runs.begin(deadline)
    if run is None:
        raise _NotRunError(format_busy(runs.find_running()))
    is_left = False
    try:
        _spend_run()
        seconds = max(deadline - time.monotonic(), 0)
        execution = await run.run(start, timedelta(seconds=seconds))
        is_left = execution is None
        if execution is None:
            runs.leave(run)
            return run
        return execution
    finally:
        if not is_left:
            runs.remove(run)


async def build_reply(
    execution: Execution,
    output_characters: int,
    *,
    sanitize: Callable[[Execution], Execution] | None = None,
    header: str = "",
) -> ToolReply:
    """Render an execution within the model's budget.

    Args:
        execution: The run.
        output_characters: Most characters of the text.
        sanitize: Applied to the execution first.
        header: First line of the text.
    """
    if sanitize is not None:
        execution = await transform_in_lane(execution, sanitize)
    rendered = execution
    budget = output_characters - (len(header) + 1 if header else 0)
    text = await redact_in_lane(
        estimate_execution(execution), lambda: render_text(rendered, budget)
    )
    text = f"{header}\n{text}" if header else text
    return ToolReply(text, execution, failed=execution.error is not None)


async def ask_approver(approve: Approver, request: ApprovalRequest) -> Decision:
    """Ask the approver. An exception counts as a denial."""
    try:
        return await approve(request)
    except Exception:  # noqa: BLE001 - the application's own code
        logger.exception("the approver failed")
        return Decision("deny", reason="nobody could be asked")


def check_options(options: ToolOptions, interpreter: AnyInterpreter | None) -> None:
    """Check that the pool of an interpreter can do what the options ask for.

    Raises:
        ConfigurationError: It cannot.
    """
    if interpreter is not None:
        capabilities = unwrap_interpreter(interpreter).capabilities
        check_wait_support(get_wait(options), capabilities)
        if options.install_packages:
            check_packages_support(capabilities)


def build_description(
    options: ToolOptions, interpreter: AnyInterpreter | None, tools: Sequence[HostTool] = ()
) -> str:
    """Build the tool's description from the options, the pool's packages and the host tools."""
    functions = describe_tools(tools, options.tools_characters)
    wait = get_wait(options)
    base = DESCRIPTION if wait is None else f"{DESCRIPTION} {describe_wait(wait)}"
    if interpreter is None:
        text = tool_options.build_description(base, options, ())
    else:
        unwrapped = unwrap_interpreter(interpreter)
        text = tool_options.build_description(
            base, options, unwrapped.known_packages, capabilities=unwrapped.capabilities
        )
    return f"{text}\n{functions}" if functions else text


class SessionKeyResolver:
    """Decides which session a tool call belongs to.

    Args:
        adapter: The first part of the fallback key.
        warning: Logged once, when a call belongs to no conversation.
        fallback_key: The key of such calls. If None, one is generated. If the application names
            one, there is nothing to warn about.

    Attributes:
        fallback_key: The key of calls that belong to no conversation.
    """

    def __init__(
        self, adapter: str, warning: str = "", *, fallback_key: SessionKey | None = None
    ) -> None:
        is_given = is_named(fallback_key)
        self.fallback_key = to_key(fallback_key) if is_given else f"{adapter}-{token_hex(8)}"
        self._warning = "" if is_given else warning

    def resolve(self, *candidates: object, explicit_key: SessionKey | None = None) -> str:
        """Return the session key of a call.

        The first of these that is not empty: the explicit key, the key of `use_session`, the
        candidates, the fallback key.

        Args:
            *candidates: How the framework identifies the conversation, best first.
            explicit_key: The key that the application gave for this call.
        """
        for key in (explicit_key, current_key.get(), *candidates):
            if is_named(key):
                return str(key)
        if self._warning:
            logger.warning(self._warning)
            self._warning = ""
        return self.fallback_key


def build_not_run_reply(text: str) -> ToolReply:
    """Build the reply for code that did not run.

    Args:
        text: The reason, for the model.
    """
    error = ErrorInfo("NotRun", text)
    execution = Execution(error=error, status="failed", state="unknown")
    return ToolReply(text, execution, failed=True)


def build_reply_without_result(error: str, text: str) -> ToolReply:
    """Build a reply that is not a failure, about a run that goes on or is not there.

    Args:
        error: Name of the error of the execution.
        text: For the model.
    """
    execution = Execution(error=ErrorInfo(error, text), status="failed", state="unknown")
    return ToolReply(text, execution)


def log_failure(
    action: str, error: Exception, *, outcome: str = "The code interpreter could not run this"
) -> str:
    """Log a failure for the application, and return one short sentence for the model.

    Args:
        action: What failed, such as a tool's name.
        error: The exception. Only the text of the package's own errors reaches the model.
        outcome: Start of the sentence.
    """
    if not isinstance(error, CodeInterpreterError):
        logger.error("%s failed unexpectedly", action, exc_info=error)
        return "The code interpreter failed unexpectedly; whether the code ran is unknown."
    is_repeated = isinstance(error, ConfigurationError) and not _is_new(str(error))
    level = logging.DEBUG if is_repeated else logging.WARNING
    text = describe_error(error)
    logger.log(level, "%s failed: %s: %s", action, type(error).__name__, text)
    advice = "It did not start; you may try again." if error.retryable else ""
    return f"{outcome}: {redact(str(error))}. {advice}".strip()


def _is_new(message: str) -> bool:
    """Return whether an error of the configuration was not logged yet."""
    if message in _logged_messages:
        return False
    _logged_messages.append(message)
    return True


def _format_denial(reason: str | None) -> str:
    return f"The code was not run: the user did not approve it{': ' + reason if reason else ''}."

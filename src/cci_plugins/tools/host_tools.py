"""Host tools of an adapter: the checks when it is created, and the end of a run by a framework.

A framework may ask for approval by ending the agent's run and starting it again later. In the
middle of code that would run the code twice. So a tool that needs approval makes `execute_code` as
a whole need it, before any code runs, or the application passes an approver that is asked while
the code waits.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Collection, Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, NoReturn

from cci_plugins.core.host_tools import (
    HostTool,
    ToolApprover,
    approve_tools,
    check_tools,
    list_approval_names,
)
from cci_plugins.core.interpreter import AnyInterpreter, unwrap_interpreter
from cci_plugins.core.long_runs import LongRun
from cci_plugins.errors import ConfigurationError, ToolCallError
from cci_plugins.pools.tool_host import build_unsupported_error

from .execute_code import ToolReply


@dataclass(frozen=True, slots=True)
class HostToolPolicy:
    """Who approves the host tools of an adapter.

    Attributes:
        approve_tool: Asked while the code waits.
        needs_approval: Whether the framework must ask before each run of code.
    """

    approve_tool: ToolApprover | None = field(default=None, repr=False)
    needs_approval: bool = False

    def apply(self, tools: Sequence[HostTool]) -> Sequence[HostTool]:
        """Return the tools of one run. Those of an approved run need no further approval."""
        return approve_tools(tools) if self.needs_approval else tools


def check_host_tools(
    tools: Sequence[HostTool],
    approve_tool: ToolApprover | None,
    interpreter: AnyInterpreter | None,
    *,
    framework_asks: bool = False,
) -> HostToolPolicy:
    """Check the host tools that an application passes to an adapter.

    Args:
        tools: The tools, with the need of approval that they have in the framework.
        approve_tool: Asked while the code waits.
        interpreter: Where the code will run.
        framework_asks: Whether the framework can ask before `execute_code` runs.

    Raises:
        ConfigurationError: The tools do not fit together, nobody can be asked, or the sessions of
            the pool cannot call tools.
    """
    if approve_tool is not None and not tools:
        raise ConfigurationError(
            "approve_tool was passed without tools", hint="pass the tools that code may call, too"
        )
    needs_approval = framework_asks and approve_tool is None and bool(list_approval_names(tools))
    check_tools(approve_tools(tools) if needs_approval else tools, approve_tool)
    if tools and interpreter is not None:
        capabilities = unwrap_interpreter(interpreter).capabilities
        if capabilities.host_tools is False:
            raise build_unsupported_error(capabilities.name)
    return HostToolPolicy(approve_tool, needs_approval)


def check_list(option: str, given: object) -> None:
    """Check that an option is a list and not a single tool.

    Raises:
        ConfigurationError: It is not.
    """
    if isinstance(given, str) or not isinstance(given, Sequence):
        raise ConfigurationError(
            f"{option} is a {type(given).__name__}", hint=f"pass a list: {option}=[...]"
        )


def mark_approval(tools: Sequence[HostTool], names: Collection[str]) -> list[HostTool]:
    """Return the tools, of which the named ones need approval.

    Raises:
        ConfigurationError: A name is not that of a tool.
    """
    wanted = {names} if isinstance(names, str) else set(names)
    unknown = sorted(wanted - {tool.name for tool in tools})
    if unknown:
        known = ", ".join(tool.name for tool in tools) or "none"
        raise ConfigurationError(
            f"needs_approval names {unknown[0]!r}, which is not a tool",
            hint=f"the tools are: {known}",
        )
    return [replace(tool, needs_approval=True) if tool.name in wanted else tool for tool in tools]


def parse_text(text: str) -> Any:
    """Return the JSON object or list that a framework rendered as text, or the text itself."""
    if text[:1] in ("{", "["):
        with suppress(ValueError):
            return json.loads(text)
    return text


class RunStopper:
    """Ends a run of code when the framework's pipeline demands the end of the agent's run.

    Use one for each call of `execute_code`, on the event loop that its tools run on.

    Attributes:
        error: The exception that ended the run.
    """

    def __init__(self) -> None:
        self.error: BaseException | None = None
        self._task: asyncio.Task[ToolReply] | None = None
        self._left: LongRun | None = None

    async def run(self, call: Coroutine[Any, Any, ToolReply]) -> ToolReply:
        """Await the call.

        Raises:
            BaseException: What `stop` got.
        """
        self._task = task = asyncio.ensure_future(call)
        try:
            reply = await task
        except asyncio.CancelledError:
            current = asyncio.current_task()
            if self.error is None or (current is not None and current.cancelling()):
                raise
        else:
            if self.error is None:
                return reply
        raise self.error from None

    def leave(self, run: LongRun) -> None:
        """Take over a run that goes on after its call."""
        self._left = run

    def stop(self, error: BaseException) -> NoReturn:
        """End the run, because of an exception of the framework.

        If the run was left, the next call of `check_run` raises the exception.

        Raises:
            ToolCallError: Always, for the code that still runs.
        """
        if self.error is None:
            self.error = error
            if self._left is not None:
                self._left.abort(error)
            elif self._task is not None:
                self._task.get_loop().call_soon_threadsafe(self._task.cancel)
        raise ToolCallError("the application has ended this run", kind="denied")

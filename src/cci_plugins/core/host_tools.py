"""Functions of the application that code in a session may call: `HostTool` and its approval."""

from __future__ import annotations

import inspect
import keyword
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from typing import Any, TypeAlias

from cci_plugins.common.approval import Decision
from cci_plugins.errors import ConfigurationError
from cci_plugins.pools.tool_host import MAX_NAME_CHARACTERS

from .tool_schema import check_schema

MAX_TOOLS = 128  # of one run
RESERVED_NAMES = frozenset({"acall", "call"})  # methods of `tools` in a session
_OTHER_CHARACTERS = re.compile(r"\W", re.ASCII)

ToolFunction: TypeAlias = Callable[..., Any]
"""A function that takes the arguments by name and returns a JSON value, or an awaitable of one."""

ApprovalRule: TypeAlias = bool | Callable[[Mapping[str, Any]], bool | Awaitable[bool]]
"""Whether a call needs approval: always, never, or by its arguments."""


@dataclass(frozen=True, slots=True, eq=False)
class HostTool:
    """A function of the application that code in a session may call.

    The code calls `tools.NAME(...)`. The name and the arguments are checked against the schema
    here, before `call` gets them.

    Attributes:
        name: A Python identifier of at most 64 ASCII characters.
        description: Text for the model. Its first sentence is in the description of
            `execute_code`, and `help(tools.NAME)` shows all of it.
        parameters_schema: JSON schema of the arguments, of the type `object`. Arguments that it
            does not name are refused, unless it has `additionalProperties`.
        call: Called with the arguments by name. An async function runs on the event loop of the
            call of `run_code`, with its context variables. Any other function runs in a thread.
            It returns JSON data, or what pydantic can convert to it. An exception arrives in the
            code as `ToolError`, with its class name and text. See `ToolCallError` for others.
        result_schema: JSON schema of the result, for the signature only.
        needs_approval: Whether `ToolApprover` is asked before the call. Without an approver, a
            tool that needs approval is refused when it is passed.

    Raises:
        ConfigurationError: The name or a schema is invalid.

    Example:
        ```python
        from cci_plugins import CodeInterpreter, HostTool

        NUMBERS = {
            "type": "object",
            "properties": {"a": {"type": "number"}, "b": {"type": "number"}},
            "required": ["a", "b"],
        }
        add = HostTool("add", "Add two numbers.", NUMBERS, lambda a, b: a + b)

        async with CodeInterpreter.local() as interpreter:
            execution = await interpreter.run_code("tools.add(a=40, b=2)", tools=[add])
            assert execution.text == "42"
        ```
    """

    name: str
    description: str
    parameters_schema: Mapping[str, Any] = field(repr=False)
    call: ToolFunction = field(repr=False)
    _: KW_ONLY
    result_schema: Mapping[str, Any] | None = field(default=None, repr=False)
    needs_approval: ApprovalRule = False

    def __post_init__(self) -> None:
        _check_name(self.name)
        if not callable(self.call):
            raise ConfigurationError(
                f"the call of the tool {self.name!r} is a {type(self.call).__name__}",
                hint="pass a function",
            )
        check_schema(self.name, self.parameters_schema)


@dataclass(frozen=True, slots=True)
class ToolCallRequest:
    """A call of a host tool that code asks for, while it waits.

    Attributes:
        name: The tool.
        arguments: The arguments, which fit its schema.
        code: The code that runs.
        session_key: Key of the conversation that it belongs to.
    """

    name: str
    arguments: Mapping[str, Any] = field(repr=False)
    code: str = field(repr=False)
    session_key: str


ToolApprover: TypeAlias = Callable[[ToolCallRequest], Awaitable[Decision]]
"""An async function of the application that is asked before a call, while the code waits.

It is asked only for tools with `needs_approval`. `Decision.code` has no meaning here. A denial and
an exception are a `ToolDeniedError` in the code.
"""


def to_tool_name(text: str) -> str:
    """Return a valid name for a tool of a framework, such as `orders_search` for `orders-search`.

    Args:
        text: Its name there.
    """
    name = _OTHER_CHARACTERS.sub("_", text).strip("_") or "tool"
    name = f"tool_{name}" if name[0].isdigit() else name
    name = name[:MAX_NAME_CHARACTERS]
    return f"{name[: MAX_NAME_CHARACTERS - 1]}_" if _is_reserved(name) else name


def list_approval_names(tools: Sequence[HostTool]) -> list[str]:
    """List the tools that may need approval. With any of them, `execute_code` needs it.

    A rule by arguments counts, because the arguments are not known before the run.
    """
    return [tool.name for tool in tools if tool.needs_approval is not False]


def approve_tools(tools: Sequence[HostTool]) -> list[HostTool]:
    """Return the tools without their need of approval, once the whole run was approved."""
    return [replace(tool, needs_approval=False) for tool in tools]


def check_tools(
    tools: Sequence[HostTool], approve_tool: ToolApprover | None
) -> tuple[HostTool, ...]:
    """Return the tools of a run.

    Args:
        tools: What the caller passed.
        approve_tool: Asked while the code waits.

    Raises:
        ConfigurationError: Two have the same name, there are too many, or one needs approval and
            nobody can be asked.
    """
    chosen = tuple(tools)
    for tool in chosen:
        if not isinstance(tool, HostTool):
            raise ConfigurationError(
                f"tools has a {type(tool).__name__}", hint="pass HostTool(...) objects"
            )
    names = [tool.name for tool in chosen]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ConfigurationError(
            f"several tools are called {repeated[0]!r}", hint="give each one its own name"
        )
    if len(chosen) > MAX_TOOLS:
        raise ConfigurationError(
            f"{len(chosen)} tools are more than {MAX_TOOLS}", hint="pass the ones that code needs"
        )
    unapproved = [] if approve_tool is not None else list_approval_names(chosen)
    if unapproved:
        raise ConfigurationError(
            f"the tool {unapproved[0]!r} needs approval, and nobody can be asked while code runs",
            hint="pass approve_tool=..., which is asked while the code waits",
        )
    return chosen


def is_async(function: ToolFunction) -> bool:
    """Return whether calling a function returns a coroutine."""
    call = getattr(function, "__call__", None)  # noqa: B004 - the method of a callable object
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(call)


def _is_reserved(name: str) -> bool:
    return keyword.iskeyword(name) or name in RESERVED_NAMES or name.endswith("Error")


def _check_name(name: object) -> None:
    is_valid = isinstance(name, str) and name.isidentifier() and name.isascii()
    if not is_valid or str(name).startswith("_") or len(str(name)) > MAX_NAME_CHARACTERS:
        raise ConfigurationError(
            f"{str(name)[:100]!r} is not a valid name for a tool",
            hint=f"use up to {MAX_NAME_CHARACTERS} letters, digits and _, a letter first",
        )
    if _is_reserved(str(name)):
        raise ConfigurationError(
            f"a tool cannot be called {name!r}, which `tools` in a session needs itself",
            hint="give it another name",
        )

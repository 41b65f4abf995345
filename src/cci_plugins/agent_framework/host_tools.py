"""Function tools of Agent Framework as host tools: code calls them, and its middleware runs.

Agent Framework builds a pipeline of function middleware for each run: the client's, the agent's,
the run's and that of context providers. It does not hand the pipeline to tools. So the provider
adds `PipelineFinder` to the run, twice. The first one finds the pipeline in the closure of its
`call_next`, and leaves it for the tool in the metadata of the invocation. If a later release hides
it, calls are refused, because middleware must never be bypassed.

Middleware that ends the run (`MiddlewareFailure`, `MiddlewareTermination`) ends the code, too.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Sequence
from copy import copy
from typing import Any, TypeAlias
from uuid import uuid4

import agent_framework
from agent_framework import (
    SKIP_PARSING,
    Content,
    FunctionInvocationContext,
    FunctionMiddleware,
    FunctionTool,
    MiddlewareTermination,
    UserInputRequiredException,
    tool,
)
from typing_extensions import override

from cci_plugins.core.host_tools import HostTool, to_tool_name
from cci_plugins.errors import ConfigurationError, ToolCallError
from cci_plugins.tools import execute_code
from cci_plugins.tools.host_tools import RunStopper, check_list, parse_text

HostToolInput: TypeAlias = FunctionTool | Callable[..., Any] | HostTool
"""A function tool, a function that becomes one, or a `HostTool`."""

_FAILURES: tuple[type[Exception], ...] = tuple(
    getattr(agent_framework, name)
    for name in ("MiddlewareFailure",)  # older releases do not have it
    if hasattr(agent_framework, name)
)
_PIPELINE = "cci_function_middleware"  # in the metadata of an invocation
_NO_PIPELINE = "the function middleware of this run cannot be found, so no tool is called from code"
_WAITS = "this tool waits for the user, which is not possible while code runs"


def to_tools(given: Sequence[HostToolInput]) -> list[FunctionTool | HostTool]:
    """Return what the application passed, with functions as function tools."""
    check_list("tools", given)
    return [_to_tool(one) for one in given]


def build_host_tool(
    one: FunctionTool | HostTool,
    context: FunctionInvocationContext | None = None,
    stopper: RunStopper | None = None,
) -> HostTool:
    """Build the host tool of a function tool.

    Args:
        one: The tool.
        context: The context of the call of `execute_code`. None for the description.
        stopper: Ends the run of code when middleware demands it.
    """
    if isinstance(one, HostTool):
        return one
    calls = _ToolCalls(one, context, stopper or RunStopper())
    schema = {"type": "object", **one.parameters()}
    needs_approval = one.approval_mode == "always_require"
    name = to_tool_name(one.name)
    return HostTool(name, one.description, schema, calls.run, needs_approval=needs_approval)


class PipelineFinder(FunctionMiddleware):
    """Finds the run's pipeline of function middleware for calls of `execute_code`."""

    @override
    async def process(
        self, context: FunctionInvocationContext, call_next: Callable[[], Awaitable[None]]
    ) -> None:
        """Leave the pipeline in the context's metadata."""
        if context.function.name != execute_code.NAME:
            await call_next()
            return
        pipeline = inspect.getclosurevars(call_next).nonlocals.get("self")
        if hasattr(pipeline, "execute"):
            context.metadata[_PIPELINE] = pipeline
        try:
            await call_next()
        except MiddlewareTermination as error:  # of a call from code
            context.result = [Content.from_text(str(error.result))]
            raise


def _to_tool(one: HostToolInput) -> FunctionTool | HostTool:
    if isinstance(one, HostTool) or (isinstance(one, FunctionTool) and not one.declaration_only):
        return one
    if isinstance(one, FunctionTool) or not inspect.isroutine(one):
        raise ConfigurationError(
            f"tools has a {type(one).__name__} without a function",
            hint="pass function tools, or functions",
        )
    return tool(one)


class _ToolCalls:
    """The calls of one tool in one run of code."""

    def __init__(
        self, one: FunctionTool, context: FunctionInvocationContext | None, stopper: RunStopper
    ) -> None:
        self._tool = one
        self._context = context
        self._stopper = stopper

    async def run(self, **arguments: Any) -> Any:
        pipeline = None if self._context is None else self._context.metadata.get(_PIPELINE)
        if self._context is None or pipeline is None:
            raise ToolCallError(_NO_PIPELINE)
        call_id = f"code_{uuid4().hex}"
        invocation = _Invocation(self._tool, call_id)
        context = _build_context(self._context, self._tool, arguments, call_id)
        try:
            result = await pipeline.execute(context=context, final_handler=invocation.run)
        except MiddlewareTermination as error:
            if error.result is None:
                error.result = _to_text(context.result) if context.result else str(error)
            self._stopper.stop(error)
        except _FAILURES as error:
            self._stopper.stop(error)
        except UserInputRequiredException:
            raise ToolCallError(_WAITS, kind="denied") from None
        return invocation.get_value(result)


class _Invocation:
    """One invocation of a tool below the middleware, which sees the framework's form of a result.

    The code gets the function's own value, unless middleware has changed the result.
    """

    def __init__(self, one: FunctionTool, call_id: str) -> None:
        self._tool = one
        self._call_id = call_id
        self._value: Any = None
        self._shown: Any = None
        self._text = ""

    async def run(self, context: FunctionInvocationContext) -> Any:
        self._value = await self._tool.invoke(
            arguments=context.arguments,
            context=context,
            tool_call_id=self._call_id,
            skip_parsing=True,
        )
        self._shown = self._parse(self._value)
        self._text = _to_text(self._shown)
        return self._shown

    def _parse(self, value: Any) -> Any:
        parser = self._tool.result_parser
        if parser is SKIP_PARSING:
            return value
        parsed = parser(value) if callable(parser) else FunctionTool.parse_result(value)
        return [Content.from_text(parsed)] if isinstance(parsed, str) else parsed

    def get_value(self, result: Any) -> Any:
        """Return what the code gets for the result of the pipeline."""
        if _is_approval_request(result):
            raise ToolCallError(_WAITS, kind="denied")
        is_same = result is self._shown and _to_text(result) == self._text
        has_parser = callable(self._tool.result_parser)
        if is_same and not has_parser and not _has_content(self._value):
            return self._value
        return parse_text(_to_text(result))


def _build_context(
    outer: FunctionInvocationContext, one: FunctionTool, arguments: dict[str, Any], call_id: str
) -> FunctionInvocationContext:
    """Build the context of a call, with the session and the options of the run."""
    context = copy(outer)
    context.function = one
    context.arguments = arguments
    context.kwargs = dict(outer.kwargs)
    context.metadata = {"call_id": call_id}
    context.result = None
    return context


def _is_approval_request(result: Any) -> bool:
    return isinstance(result, Content) and result.type == "function_approval_request"


def _has_content(value: Any) -> bool:
    items = value if isinstance(value, list) else [value]
    return any(isinstance(item, Content) for item in items)


def _to_text(result: Any) -> str:
    """Return the text that the model would read."""
    items = result if isinstance(result, list) else [result]
    parts = []
    for item in items:
        if isinstance(item, Content):
            parts.append(item.text if item.text is not None else f"[{item.type}]")
        else:
            parts.append(item if isinstance(item, str) else repr(item))
    return "\n".join(parts)

"""Function tools of the OpenAI Agents SDK as host tools: code calls them, as the SDK would.

The SDK's own loop runs a tool that the model calls. A tool that code calls goes through the same
steps here, by the SDK's public interfaces: `is_enabled`, the input guardrails, `on_tool_start` of
the agent's hooks, the tool with its time-out, the output guardrails and `on_tool_end`, within a
span of the SDK's tracing. The `RunHooks` that `Runner.run` got cannot be reached from a tool.

A guardrail that rejects is a refusal for the code. One that raises ends the run of the code, and
then the run of the agent.
"""

from __future__ import annotations

import asyncio
import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from copy import copy
from typing import Any, TypeAlias
from uuid import uuid4

from agents import (
    FunctionTool,
    ToolInputGuardrailData,
    ToolOutputGuardrailData,
    ToolOutputText,
    UserError,
    function_span,
    function_tool,
    get_current_trace,
)
from agents.exceptions import (
    ToolInputGuardrailTripwireTriggered,
    ToolOutputGuardrailTripwireTriggered,
)
from agents.tool_context import ToolContext

from cci_plugins.core.host_tools import ApprovalRule, HostTool, to_tool_name
from cci_plugins.errors import ConfigurationError, ToolCallError
from cci_plugins.tools.host_tools import RunStopper, check_list

HostToolInput: TypeAlias = FunctionTool | Callable[..., Any] | HostTool
"""A function tool, a function that becomes one, or a `HostTool`."""


def to_tools(given: Sequence[HostToolInput]) -> list[FunctionTool | HostTool]:
    """Return what the application passed, with functions as function tools."""
    check_list("tools", given)
    return [_to_tool(one) for one in given]


def build_host_tool(
    one: FunctionTool | HostTool,
    context: ToolContext[Any] | None = None,
    stopper: RunStopper | None = None,
) -> HostTool:
    """Build the host tool of a function tool.

    Args:
        one: The tool.
        context: The context of the call of `execute_code`. None for the description.
        stopper: Ends the run of code when a guardrail demands it.
    """
    if isinstance(one, HostTool):
        return one
    calls = _ToolCalls(one, context, stopper or RunStopper())
    return HostTool(
        to_tool_name(one.name),
        one.description,
        get_schema(one),
        calls.run,
        needs_approval=_get_approval_rule(one, context),
    )


async def is_enabled(one: FunctionTool | HostTool, context: ToolContext[Any]) -> bool:
    """Return whether the SDK would offer a tool in this run."""
    if isinstance(one, HostTool) or not callable(one.is_enabled):
        return isinstance(one, HostTool) or bool(one.is_enabled)
    enabled: Any = one.is_enabled(context, context.agent)  # type: ignore[arg-type]
    return bool(await enabled if inspect.isawaitable(enabled) else enabled)


def get_schema(one: FunctionTool) -> dict[str, Any]:
    """Return the JSON schema of a tool. Code may leave out what has a default.

    The strict mode of OpenAI's API requires every argument. Code does not have to.
    """
    schema = dict(one.params_json_schema)
    properties: Mapping[str, Any] = schema.get("properties", {})
    required = [name for name in schema.get("required", ()) if not _has_default(properties, name)]
    return {**schema, "required": required}


def _has_default(properties: Mapping[str, Any], name: str) -> bool:
    found = properties.get(name)
    return isinstance(found, Mapping) and "default" in found


def _to_tool(one: HostToolInput) -> FunctionTool | HostTool:
    if isinstance(one, FunctionTool | HostTool):
        return one
    if not inspect.isroutine(one):
        raise ConfigurationError(
            f"tools has a {type(one).__name__}", hint="pass function tools, or functions"
        )
    try:
        return function_tool(one)
    except (UserError, TypeError, ValueError) as error:
        raise ConfigurationError(
            f"{one.__name__!r} cannot become a tool: {error}", hint="pass a function tool"
        ) from error


def _get_approval_rule(one: FunctionTool, context: ToolContext[Any] | None) -> ApprovalRule:
    rule = one.needs_approval
    if not callable(rule):
        return bool(rule)

    async def needs_approval(arguments: Mapping[str, Any]) -> bool:
        return context is None or await rule(context, dict(arguments), _create_call_id())

    return needs_approval


def _create_call_id() -> str:
    return f"code_{uuid4().hex}"


class _ToolCalls:
    """The calls of one tool in one run of code."""

    def __init__(
        self, one: FunctionTool, context: ToolContext[Any] | None, stopper: RunStopper
    ) -> None:
        self._tool = one
        self._context = context
        self._stopper = stopper

    async def run(self, **arguments: Any) -> Any:
        if self._context is None:
            raise ToolCallError("execute_code was called without a context")
        text = json.dumps(arguments)
        context = ToolContext.from_agent_context(
            self._context,
            _create_call_id(),
            agent=self._context.agent,
            tool_name=self._tool.name,
            tool_arguments=text,
            run_config=self._context.run_config,
        )
        with self._start_span(text) as span:
            await self._check_input(context)
            await self._call_hooks("on_tool_start", context)
            result = await self._invoke(context, text)
            await self._check_output(context, result)
            await self._call_hooks("on_tool_end", context, result)
            if span is not None and self._is_traced():
                span.span_data.output = str(result)
        return _to_value(result)

    def _start_span(self, arguments: str) -> AbstractContextManager[Any]:
        if get_current_trace() is None:
            return nullcontext()
        return function_span(self._tool.name, input=arguments if self._is_traced() else None)

    def _is_traced(self) -> bool:
        """Return whether spans may have arguments and results."""
        config = None if self._context is None else self._context.run_config
        return config is None or config.trace_include_sensitive_data

    async def _check_input(self, context: ToolContext[Any]) -> None:
        agent: Any = context.agent
        for guardrail in self._tool.tool_input_guardrails or ():
            output = await guardrail.run(ToolInputGuardrailData(context=context, agent=agent))
            if output.behavior["type"] == "raise_exception":
                self._stopper.stop(
                    ToolInputGuardrailTripwireTriggered(guardrail=guardrail, output=output)
                )
            if output.behavior["type"] == "reject_content":
                raise ToolCallError(output.behavior["message"], kind="denied")

    async def _check_output(self, context: ToolContext[Any], result: Any) -> None:
        agent: Any = context.agent
        for guardrail in self._tool.tool_output_guardrails or ():
            data = ToolOutputGuardrailData(context=context, agent=agent, output=result)
            output = await guardrail.run(data)
            if output.behavior["type"] == "raise_exception":
                self._stopper.stop(
                    ToolOutputGuardrailTripwireTriggered(guardrail=guardrail, output=output)
                )
            if output.behavior["type"] == "reject_content":
                raise ToolCallError(output.behavior["message"], kind="denied")

    async def _call_hooks(self, name: str, context: ToolContext[Any], *result: Any) -> None:
        hooks = getattr(context.agent, "hooks", None)
        if hooks is not None:
            await getattr(hooks, name)(context, context.agent, self._tool, *result)

    async def _invoke(self, context: ToolContext[Any], arguments: str) -> Any:
        one = _let_raise(self._tool)
        try:
            result = await asyncio.wait_for(
                one.on_invoke_tool(context, arguments), one.timeout_seconds
            )
        except TimeoutError as error:
            if one.timeout_seconds is None:
                raise
            raise ToolCallError(
                await self._format_timeout(context, error), kind="timeout"
            ) from None
        except Exception as error:
            failure = await self._format_failure(context, error)
            if failure is None:
                raise
            raise ToolCallError(failure) from None
        if result is None and getattr(one, "_is_agent_tool", False):
            raise ToolCallError(
                "this agent waits for an approval, which is not possible while code runs",
                kind="denied",
            )
        return result

    async def _format_timeout(self, context: ToolContext[Any], error: Exception) -> str:
        formatter = self._tool.timeout_error_function
        if formatter is None:
            return f"the tool did not return within {self._tool.timeout_seconds:g} s"
        text: Any = formatter(context, error)
        return str(await text if inspect.isawaitable(text) else text)

    async def _format_failure(self, context: ToolContext[Any], error: Exception) -> str | None:
        """Return the text of the tool's own `failure_error_function`, if it has one."""
        formatter = getattr(self._tool, "_failure_error_function", None)
        if formatter is None or isinstance(error, ToolCallError):
            return None
        text: Any = formatter(context, error)
        return str(await text if inspect.isawaitable(text) else text)


def _let_raise(one: FunctionTool) -> FunctionTool:
    """Return a tool that raises its exceptions. The SDK's decorator makes text of them."""
    is_wrapped = hasattr(one.on_invoke_tool, "__agents_bind_function_tool__")
    if not is_wrapped or not hasattr(one, "_failure_error_function"):
        return one
    copied = copy(one)
    vars(copied).update(_use_default_failure_error_function=False, _failure_error_function=None)
    return copied


def _to_value(result: Any) -> Any:
    """Return what the code gets: data as it is, and the text of the SDK's own text outputs."""
    if isinstance(result, ToolOutputText):
        return result.text
    if isinstance(result, list | tuple):
        return [_to_value(one) for one in result]
    return result

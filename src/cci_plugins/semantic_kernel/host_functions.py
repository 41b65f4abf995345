"""Kernel functions as host tools: code calls them, and Semantic Kernel runs them.

A function runs as one that the model calls: through the kernel's auto function invocation filters
and its function invocation filters, with the `KernelArguments` of the call of `execute_code`.
Parameters that the model does not see are neither in the schema nor accepted from code.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from copy import copy
from functools import cache
from typing import Any, TypeAlias
from uuid import uuid4

from semantic_kernel import Kernel
from semantic_kernel.connectors.ai.prompt_execution_settings import PromptExecutionSettings
from semantic_kernel.contents import ChatHistory, FunctionCallContent
from semantic_kernel.filters import AutoFunctionInvocationContext, FilterTypes
from semantic_kernel.functions import (
    FunctionResult,
    KernelArguments,
    KernelFunction,
    KernelFunctionFromMethod,
    KernelPlugin,
)

from cci_plugins.core.host_tools import HostTool, ToolFunction, to_tool_name
from cci_plugins.errors import ConfigurationError, ToolCallError
from cci_plugins.tools.host_tools import check_list

HostFunctionInput: TypeAlias = KernelFunction | KernelPlugin | Callable[..., Any] | HostTool
"""A kernel function, a plugin with several, a decorated function, or a `HostTool`."""

_REFUSED = "a filter of the kernel did not run this function"
_ENDED = "a filter of the kernel has ended the functions of this turn"


def to_functions(given: Sequence[HostFunctionInput]) -> list[KernelFunction | HostTool]:
    """Return what the application passed, as kernel functions and host tools."""
    check_list("functions", given)
    return [function for one in given for function in _iter_functions(one)]


def build_host_tool(one: KernelFunction | HostTool) -> HostTool:
    """Build the host tool of a kernel function."""
    if isinstance(one, HostTool):
        return one
    name, call = to_tool_name(one.fully_qualified_name), bind_call(one, FunctionCalls(None, None))
    return HostTool(name, one.description or "", get_schema(one), call)


def bind_call(one: KernelFunction | HostTool, calls: FunctionCalls) -> ToolFunction:
    """Return the function that calls a kernel function in one run of code."""
    if isinstance(one, HostTool):
        return one.call

    async def call(**arguments: Any) -> Any:
        return await calls.invoke(one, arguments)

    return call


def get_schema(function: KernelFunction) -> dict[str, Any]:
    """Return the JSON schema of the arguments that the model may set."""
    shown = [one for one in function.parameters if one.include_in_function_choices and one.name]
    properties = {}
    for one in shown:
        schema = dict(one.schema_data or {})
        if not one.is_required and _is_json(one.default_value):
            schema.setdefault("default", one.default_value)
        properties[str(one.name)] = schema
    required = [one.name for one in shown if one.is_required]
    return {"type": "object", "properties": properties, "required": required}


class FunctionCalls:
    """The calls of kernel functions in one run of code.

    Args:
        kernel: Runs the functions, with its filters.
        arguments: The arguments of the call of `execute_code`, which the functions get, too.
    """

    def __init__(self, kernel: Kernel | None, arguments: KernelArguments | None) -> None:
        self._kernel = kernel
        self._arguments = arguments or KernelArguments()
        self._has_ended = False

    async def invoke(self, function: KernelFunction, given: dict[str, Any]) -> Any:
        """Run a function through the filters, and return its value."""
        if self._kernel is None:
            raise ToolCallError("execute_code was called without a kernel")
        if self._has_ended:
            raise ToolCallError(_ENDED, kind="denied")
        context = self._build_context(function, given, self._kernel)
        ran: list[FunctionResult | None] = []

        async def run(inner: AutoFunctionInvocationContext) -> None:
            result = await inner.function.invoke(inner.kernel, inner.arguments)
            ran.append(result)
            if result is not None:
                inner.function_result = result

        stack = self._kernel.construct_call_stack(FilterTypes.AUTO_FUNCTION_INVOCATION, run)
        await stack(context)
        if context.terminate:
            self._has_ended = True
        result = context.function_result
        has_run = any(one is not None for one in ran)
        if result is None or (result.value is None and not has_run):
            raise ToolCallError(_REFUSED, kind="denied")
        if function.is_prompt and not isinstance(result.value, str):
            return str(result)
        return result.value

    def _build_context(
        self, function: KernelFunction, given: dict[str, Any], kernel: Kernel
    ) -> AutoFunctionInvocationContext:
        """Build the context that the kernel builds for a call by the model."""
        arguments = copy(self._arguments)
        arguments.pop("code", None)
        arguments.update(given)
        return _get_context_class()(
            function=function,
            kernel=kernel,
            arguments=arguments,
            chat_history=ChatHistory(),
            function_call_content=FunctionCallContent(
                id=f"code_{uuid4().hex}",
                name=function.fully_qualified_name,
                plugin_name=function.plugin_name,
                function_name=function.name,
                arguments=json.dumps(given),
            ),
            function_result=FunctionResult(function=function.metadata, value=None),
        )


def _iter_functions(one: HostFunctionInput) -> Iterator[KernelFunction | HostTool]:
    if isinstance(one, KernelPlugin):
        yield from one.functions.values()
    elif isinstance(one, KernelFunction | HostTool):
        yield one
    elif hasattr(one, "__kernel_function__"):
        yield KernelFunctionFromMethod(method=one)
    else:
        raise ConfigurationError(
            f"functions has a {type(one).__name__}",
            hint='pass kernel functions such as kernel.plugins["orders"]["search"]',
        )


def _is_json(value: Any) -> bool:
    return value is not None and isinstance(value, str | int | float | bool | list | dict)


@cache
def _get_context_class() -> type[AutoFunctionInvocationContext]:
    """Return the class of the context, once its forward references are resolved."""
    AutoFunctionInvocationContext.model_rebuild(
        _types_namespace={
            "ChatHistory": ChatHistory,
            "FunctionCallContent": FunctionCallContent,
            "FunctionResult": FunctionResult,
            "Kernel": Kernel,
            "KernelArguments": KernelArguments,
            "KernelFunction": KernelFunction,
            "PromptExecutionSettings": PromptExecutionSettings,
        }
    )
    return AutoFunctionInvocationContext

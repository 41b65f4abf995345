"""LangChain tools as host tools: code calls them, and LangChain runs them.

A tool runs by `ainvoke` with the `RunnableConfig` of the call of `execute_code`. So callbacks, tags
and metadata of the agent's run reach it, and its run is a child of `execute_code`. Arguments that
LangChain injects are neither in the schema nor accepted from code. A tool that needs LangGraph's
state, store or runtime runs in a `ToolNode`, which injects them.

A tool cannot pause the graph while code runs: LangGraph would start `execute_code` again later, and
the code would run twice. So an interrupt is a refusal, and the answers to earlier interrupts of the
graph are hidden from the tool.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from typing import Annotated, Any, TypeAlias, get_origin, get_type_hints
from uuid import uuid4

from langchain_core.messages import ToolMessage
from langchain_core.runnables import RunnableConfig
from langchain_core.tools import BaseTool, InjectedToolCallId, tool
from langchain_core.utils.function_calling import convert_to_openai_tool
from pydantic import BaseModel, SkipValidation

from cci_plugins.core.host_tools import HostTool, ToolFunction, to_tool_name
from cci_plugins.errors import ConfigurationError, ToolCallError
from cci_plugins.tools.host_tools import check_list, parse_text

HostToolInput: TypeAlias = BaseTool | Callable[..., Any] | HostTool
"""A tool of LangChain, a function that becomes one, or a `HostTool`."""

HostTools: TypeAlias = Annotated[Sequence[HostToolInput], SkipValidation]
ToolNames: TypeAlias = Annotated[Collection[str], SkipValidation]

_SCRATCHPAD = "__pregel_scratchpad"  # LangGraph's record of the interrupts of a task
_INTERRUPTED = (
    "this tool interrupts the graph, which is not possible while code runs; ask the user before "
    "execute_code runs"
)


def to_tools(given: Sequence[HostToolInput]) -> list[BaseTool | HostTool]:
    """Return what the application passed, with functions as tools of LangChain."""
    check_list("tools", given)
    return [_to_tool(one) for one in given]


def build_host_tool(one: BaseTool | HostTool) -> HostTool:
    """Build the host tool of a LangChain tool."""
    if isinstance(one, HostTool):
        return one
    call = bind_call(one, {}, None)
    return HostTool(to_tool_name(one.name), one.description, get_schema(one), call)


def bind_call(one: BaseTool | HostTool, config: RunnableConfig, state: Any) -> ToolFunction:
    """Return the function that calls a tool in one run of code.

    Args:
        one: The tool.
        config: The configuration of the call of `execute_code`.
        state: The state of the graph.
    """
    if isinstance(one, HostTool):
        return one.call
    return _ToolCall(one, _hide_interrupts(config), state).run


def needs_graph(one: BaseTool | HostTool) -> bool:
    """Return whether LangGraph injects arguments into a tool."""
    if isinstance(one, HostTool) or "langgraph.prebuilt" not in sys.modules:
        return False  # an argument can only be annotated for LangGraph after its import
    from langgraph.prebuilt import InjectedState, InjectedStore, ToolRuntime  # noqa: PLC0415

    marks = (InjectedState, InjectedStore, ToolRuntime)
    return any(_is_marked(annotation, marks) for annotation in _iter_annotations(one))


def get_schema(one: BaseTool) -> dict[str, Any]:
    """Return the JSON schema of the arguments that the model may set."""
    injected = getattr(one, "_injected_args_keys", frozenset[str]())
    schema = one.tool_call_schema
    if isinstance(schema, dict):
        found = dict(schema)
    elif issubclass(schema, BaseModel):
        found = dict(schema.model_json_schema())
    else:  # a model of pydantic 1
        found = dict(convert_to_openai_tool(one)["function"]["parameters"])
    properties = {k: v for k, v in found.get("properties", {}).items() if k not in injected}
    required = [name for name in found.get("required", ()) if name in properties]
    return {**found, "type": "object", "properties": properties, "required": required}


def _to_tool(one: HostToolInput) -> BaseTool | HostTool:
    if isinstance(one, BaseTool | HostTool):
        return one
    if not callable(one):
        raise ConfigurationError(
            f"tools has a {type(one).__name__}", hint="pass tools of LangChain, or functions"
        )
    try:
        made = tool(one)
    except ValueError as error:
        raise ConfigurationError(
            f"{getattr(one, '__name__', one)!r} cannot become a tool: {error}",
            hint="give the function a docstring, or pass a tool",
        ) from error
    return made


def _hide_interrupts(config: RunnableConfig) -> RunnableConfig:
    """Return the configuration without the answers to interrupts that the graph had before."""
    configurable = config.get("configurable")
    if not configurable or _SCRATCHPAD not in configurable:
        return config
    kept = {key: value for key, value in configurable.items() if key != _SCRATCHPAD}
    return {**config, "configurable": kept}


class _ToolCall:
    """The calls of one tool in one run of code."""

    def __init__(self, one: BaseTool, config: RunnableConfig, state: Any) -> None:
        self._tool = one
        self._config = config
        self._state = state

    async def run(self, **arguments: Any) -> Any:
        try:
            result = await self._invoke(arguments)
        except Exception as error:
            if _is_interrupt(error):
                raise ToolCallError(_INTERRUPTED, kind="denied") from None
            raise
        return self._read(result)

    async def _invoke(self, arguments: dict[str, Any]) -> Any:
        if not self._returns_message:
            return await self._tool.ainvoke(arguments, self._config)
        call = {
            "type": "tool_call",
            "name": self._tool.name,
            "args": arguments,
            "id": f"code_{uuid4().hex}",
        }
        if not self._needs_graph:
            return await self._tool.ainvoke(call, self._config)
        from langgraph.prebuilt import ToolNode  # noqa: PLC0415

        node = ToolNode([self._tool], handle_tool_errors=False)
        task = {"__type": "tool_call_with_context", "tool_call": call, "state": self._state}
        result = await node.ainvoke(task, self._config)
        messages = result.get("messages", ()) if isinstance(result, Mapping) else result
        return messages[0] if len(messages) == 1 else messages

    @cached_property
    def _needs_graph(self) -> bool:
        return needs_graph(self._tool)

    @cached_property
    def _returns_message(self) -> bool:
        """Return whether a tool needs the form of a model's call, which returns a message."""
        one = self._tool
        handles = bool(one.handle_tool_error or one.handle_validation_error)
        with_artifact = one.response_format == "content_and_artifact"
        return handles or with_artifact or _needs_call_id(one) or self._needs_graph

    def _read(self, result: Any) -> Any:
        """Return what the code gets: the tool's value, or the content of its message."""
        if type(result).__name__ == "Command":
            raise ToolCallError("this tool changes the graph, which is not possible from code")
        if not isinstance(result, ToolMessage):
            return result
        text = str(result.text)
        if result.status == "error":
            raise ToolCallError(text)
        return parse_text(text) if _is_text(result.content) else result.content


def _iter_annotations(one: BaseTool) -> Iterator[Any]:
    """Yield the annotations of a tool's arguments, of its schema and of its functions."""
    for each in getattr(one.get_input_schema(), "model_fields", {}).values():
        yield each.annotation
        yield from each.metadata
    for function in (getattr(one, "func", None), getattr(one, "coroutine", None), one._run):  # noqa: SLF001
        with suppress(Exception):  # an annotation that cannot be resolved is not one of LangGraph
            yield from get_type_hints(function, include_extras=True).values()


def _is_text(content: str | list[Any]) -> bool:
    """Return whether a message has text only, such as that of a tool of an MCP server."""
    blocks = [] if isinstance(content, str) else content
    return all(isinstance(one, str) or one.get("type") == "text" for one in blocks)


def _needs_call_id(one: BaseTool) -> bool:
    return any(
        _is_marked(annotation, (InjectedToolCallId,)) for annotation in _iter_annotations(one)
    )


def _is_marked(annotation: Any, marks: tuple[type, ...]) -> bool:
    """Return whether an annotation is, or has in its `Annotated`, one of the marks."""
    for each in (annotation, get_origin(annotation), *getattr(annotation, "__metadata__", ())):
        if isinstance(each, marks) or (isinstance(each, type) and issubclass(each, marks)):
            return True
    return False


def _is_interrupt(error: Exception) -> bool:
    """Return whether LangGraph means to leave the node, or a tool asked for an interrupt."""
    if isinstance(error, KeyError) and error.args == (_SCRATCHPAD,):
        return True  # `interrupt` looked for what `_hide_interrupts` took away
    errors: Any = sys.modules.get("langgraph.errors")
    return errors is not None and isinstance(error, errors.GraphBubbleUp)

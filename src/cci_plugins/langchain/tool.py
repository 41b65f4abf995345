"""The tool for LangChain and LangGraph: `create_agent`, `ToolNode` or `bind_tools`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import replace
from typing import Annotated, Any, Literal, Self, get_type_hints

from langchain_core.messages import ToolMessage
from langchain_core.messages.content import create_image_block, create_text_block
from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import var_child_runnable_config
from langchain_core.tools import ArgsSchema, BaseTool, InjectedToolArg
from pydantic import BaseModel, Field, PrivateAttr
from typing_extensions import override

from cci_plugins.common import event_loop
from cci_plugins.core.conversation import DEFAULT_KEY, SessionKey, is_named
from cci_plugins.core.host_tools import HostTool, ToolApprover
from cci_plugins.core.interpreter import AnyInterpreter
from cci_plugins.core.tool_signatures import describe_tools
from cci_plugins.errors import ConfigurationError
from cci_plugins.models import Execution, OutputEvent
from cci_plugins.pools.base import OutputHandler
from cci_plugins.tools import check_run, execute_code, install_packages
from cci_plugins.tools.execute_code import SessionKeyResolver, ToolReply
from cci_plugins.tools.host_tools import check_host_tools, mark_approval
from cci_plugins.tools.images import select_images
from cci_plugins.tools.options import ToolOptions, get_wait

from .host_tools import HostTools, ToolNames, bind_call, build_host_tool, needs_graph, to_tools

__all__ = ["CheckRunTool", "CodeInterpreterTool", "InstallPackagesTool"]

Content = str | list[str | dict[Any, Any]]
ToolOutput = tuple[Content | ToolMessage, Execution]
Runtime = Annotated[Any, InjectedToolArg]
_call_id: ContextVar[str | None] = ContextVar("cci_tool_call_id", default=None)


def create_fallback_key() -> str:
    """Create the session key of a tool, for calls that belong to no thread."""
    return SessionKeyResolver("langchain").fallback_key


class CodeInput(BaseModel):
    """The arguments of `execute_code`."""

    model_config = {"extra": "forbid"}

    code: str = Field(description=execute_code.CODE_DESCRIPTION)


class _CodeInputInGraph(CodeInput):
    """The arguments with LangGraph's runtime, which the model neither sees nor sets."""

    runtime: Runtime = Field(default=None, exclude=True)


class CheckInput(BaseModel):
    """The arguments of `check_run`."""

    model_config = {"extra": "forbid"}

    action: Literal["wait", "look", "stop"] = Field(description=check_run.ACTION_DESCRIPTION)


class InstallInput(BaseModel):
    """The arguments of `install_packages`."""

    model_config = {"extra": "forbid"}

    packages: list[str] = Field(description=install_packages.PACKAGES_DESCRIPTION)


class CodeInterpreterTool(BaseTool):
    """Runs Python in the session of the current conversation.

    The conversation is that of `use_session`, else LangGraph's `thread_id`. The message to the
    model is text within the budget of `Limits.output_characters`. Its `artifact` is the whole
    `Execution`, and its `status` is `error` if the code failed. While the code runs, its output is
    streamed to LangGraph's stream modes `custom` and `tools`, as
    `{"tool": "execute_code", "stream": "stdout", "text": ...}`.

    Attributes:
        interpreter: Where to run. None means `CodeInterpreter.from_env()`.
        images: `inline` attaches charts to the message, for models that accept images in tool
            messages. `ImagesAsUserMessages` moves them into a message of the user for the others.
        options: Options for the tool's description and the size of its output.
        on_output: Called with each chunk of output while the code runs, in addition to
            LangGraph's streams.
        session_key: The conversation of calls that belong to no thread. Random by default.
        tools: Tools of LangChain, or functions, that the code may call as `tools.NAME(...)`.
            LangChain runs them, with the callbacks and the configuration of the agent's run.
        needs_approval: Names of those tools that `approve_tool` must allow, as the code writes
            them.
        approve_tool: Asked before a call of such a tool, while the code waits.

    Example:
        ```python
        from langchain.agents import create_agent

        agent = create_agent(model, tools=[CodeInterpreterTool()])
        ```
    """

    name: str = execute_code.NAME
    description: str = execute_code.DESCRIPTION
    args_schema: ArgsSchema | None = CodeInput
    response_format: Literal["content", "content_and_artifact"] = "content_and_artifact"
    interpreter: AnyInterpreter | None = Field(default=None, exclude=True, repr=False)

    images: Literal["reference", "inline"] = "reference"
    options: ToolOptions = Field(default=execute_code.DEFAULT_OPTIONS, exclude=True, repr=False)
    on_output: OutputHandler | None = Field(default=None, exclude=True, repr=False)
    session_key: SessionKey = Field(default_factory=create_fallback_key, exclude=True, repr=False)
    tools: HostTools = Field(default=(), exclude=True, repr=False)
    needs_approval: ToolNames = Field(default=(), exclude=True, repr=False)
    approve_tool: ToolApprover | None = Field(default=None, exclude=True, repr=False)
    _host_tools: tuple[HostTool, ...] = PrivateAttr(default=())

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._set_tools()  # here, since pydantic would wrap a ConfigurationError

    @override
    def model_post_init(self, context: Any, /) -> None:
        super().model_post_init(context)
        if self.description == execute_code.DESCRIPTION:
            self.description = execute_code.build_description(self.options, self.interpreter)

    def check_run_tool(self) -> CheckRunTool:
        """Return the tool `check_run`, for runs of this tool that take longer than `wait`.

        Raises:
            ConfigurationError: The options of this tool have no `wait`.

        Example:
            ```python
            from cci_plugins import ToolOptions

            tool = CodeInterpreterTool(options=ToolOptions(wait=90))
            tools = [tool, tool.check_run_tool()]
            ```
        """
        wait = get_wait(self.options)
        if wait is None:
            raise ConfigurationError(
                "check_run is only for a tool that answers before its run ends",
                hint="pass options=ToolOptions(wait=90)",
            )
        return CheckRunTool(
            description=check_run.build_description(wait),
            interpreter=self.interpreter,
            images=self.images,
            options=self.options,
            session_key=self.session_key,
        )

    def install_packages_tool(self) -> InstallPackagesTool:
        """Return the tool `install_packages`, for the sessions of this tool.

        Raises:
            ConfigurationError: The options of this tool do not have `install_packages`.

        Example:
            ```python
            from cci_plugins import ToolOptions

            tool = CodeInterpreterTool(options=ToolOptions(install_packages=True))
            tools = [tool, tool.install_packages_tool()]
            ```
        """
        if not self.options.install_packages:
            raise ConfigurationError(
                "install_packages is only for a tool whose options offer it",
                hint="pass options=ToolOptions(install_packages=True)",
            )
        return InstallPackagesTool(interpreter=self.interpreter, session_key=self.session_key)

    def _set_tools(self) -> None:
        """Check the host tools. A tool that needs the graph makes this one need its runtime."""
        tools = to_tools(self.tools)
        host_tools = mark_approval([build_host_tool(one) for one in tools], self.needs_approval)
        check_host_tools(host_tools, self.approve_tool, self.interpreter)
        execute_code.check_options(self.options, self.interpreter)
        self.tools, self._host_tools = tools, tuple(host_tools)
        if functions := describe_tools(host_tools, self.options.tools_characters):
            self.description = f"{self.description}\n{functions}"
        if self.args_schema is CodeInput and any(needs_graph(one) for one in tools):
            self.args_schema = _CodeInputInGraph

    @override
    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        """Copy the tool. The copy calls the same functions of the application."""
        kept = (self.on_output, self.tools, self.approve_tool, self._host_tools)
        return super().__deepcopy__({**{id(one): one for one in kept}, **(memo or {})})

    @override
    def run(self, *args: Any, tool_call_id: str | None = None, **kwargs: Any) -> Any:
        with _CallIdContext(tool_call_id):
            return super().run(*args, tool_call_id=tool_call_id, **kwargs)

    @override
    async def arun(self, *args: Any, tool_call_id: str | None = None, **kwargs: Any) -> Any:
        with _CallIdContext(tool_call_id):
            return await super().arun(*args, tool_call_id=tool_call_id, **kwargs)

    @override
    def _run(self, code: str, config: RunnableConfig, runtime: Runtime = None) -> ToolOutput:
        handler, tools = _get_graph_handler(config), self._bind_tools(config, runtime)
        return self._to_tool_output(
            event_loop.run_blocking(self._call, code, config, handler, tools)
        )

    @override
    async def _arun(self, code: str, config: RunnableConfig, runtime: Runtime = None) -> ToolOutput:
        handler, tools = _get_graph_handler(config), self._bind_tools(config, runtime)
        return self._to_tool_output(await self._call(code, config, handler, tools))

    async def _call(
        self,
        code: str,
        config: RunnableConfig,
        graph: OutputHandler | None,
        tools: list[HostTool],
    ) -> ToolReply:
        return await execute_code.call(
            self.interpreter,
            code,
            session_key=resolve_key(config, self.session_key),
            on_output=_combine_handlers(self.on_output, graph),
            options=self.options,
            tools=tools,
            approve_tool=self.approve_tool,
        )

    def _bind_tools(self, config: RunnableConfig, runtime: Any) -> list[HostTool]:
        """Return the host tools of one call, which run with its configuration."""
        state = None if isinstance(runtime, dict) else getattr(runtime, "state", None)
        child_config = var_child_runnable_config.get() or config  # its parent is this tool's run
        return [
            replace(known, call=bind_call(one, child_config, state))
            for one, known in zip(to_tools(self.tools), self._host_tools, strict=True)
        ]

    def _to_tool_output(self, reply: ToolReply) -> ToolOutput:
        return _build_output(reply, self.name, self.images)


# LangChain asks for the types of the parameters in every call, and would evaluate them each time.
for _function in (CodeInterpreterTool._run, CodeInterpreterTool._arun):  # noqa: SLF001
    _function.__annotations__ = get_type_hints(_function, include_extras=True)
    del _function.__annotations__["return"]


class _SecondTool(BaseTool):
    """The base of the tools next to `CodeInterpreterTool`, whose messages have the same form.

    Attributes:
        interpreter: Where the sessions are. None means `CodeInterpreter.from_env()`.
        session_key: The conversation of calls that belong to no thread.
    """

    response_format: Literal["content", "content_and_artifact"] = "content_and_artifact"
    interpreter: AnyInterpreter | None = Field(default=None, exclude=True, repr=False)
    session_key: SessionKey = Field(default_factory=create_fallback_key, exclude=True, repr=False)

    @override
    def run(self, *args: Any, tool_call_id: str | None = None, **kwargs: Any) -> Any:
        with _CallIdContext(tool_call_id):
            return super().run(*args, tool_call_id=tool_call_id, **kwargs)

    @override
    async def arun(self, *args: Any, tool_call_id: str | None = None, **kwargs: Any) -> Any:
        with _CallIdContext(tool_call_id):
            return await super().arun(*args, tool_call_id=tool_call_id, **kwargs)


class InstallPackagesTool(_SecondTool):
    """Installs packages into the session of the current conversation.

    `CodeInterpreterTool.install_packages_tool` creates it.
    """

    name: str = install_packages.NAME
    description: str = install_packages.DESCRIPTION
    args_schema: ArgsSchema | None = InstallInput

    @override
    def _run(self, packages: list[str], config: RunnableConfig) -> ToolOutput:
        reply = event_loop.run_blocking(self._call, packages, config)
        return _build_output(reply, self.name, "reference")

    @override
    async def _arun(self, packages: list[str], config: RunnableConfig) -> ToolOutput:
        return _build_output(await self._call(packages, config), self.name, "reference")

    async def _call(self, packages: list[str], config: RunnableConfig) -> ToolReply:
        key = resolve_key(config, self.session_key)
        return await install_packages.call(self.interpreter, packages, session_key=key)


class CheckRunTool(_SecondTool):
    """Checks a run of `CodeInterpreterTool` that goes on after its answer.

    `CodeInterpreterTool.check_run_tool` creates it. The message and its artifact are as for that
    tool.

    Attributes:
        interpreter: Where the run is. None means `CodeInterpreter.from_env()`.
        images: As with `CodeInterpreterTool`.
        options: As with `CodeInterpreterTool`, with `wait`.
        session_key: The conversation of calls that belong to no thread.
    """

    name: str = check_run.NAME
    description: str = check_run.NAME
    args_schema: ArgsSchema | None = CheckInput
    images: Literal["reference", "inline"] = "reference"
    options: ToolOptions = Field(default=execute_code.DEFAULT_OPTIONS, exclude=True, repr=False)

    @override
    def _run(self, action: str, config: RunnableConfig) -> ToolOutput:
        reply = event_loop.run_blocking(self._call, action, config)
        return _build_output(reply, self.name, self.images)

    @override
    async def _arun(self, action: str, config: RunnableConfig) -> ToolOutput:
        return _build_output(await self._call(action, config), self.name, self.images)

    async def _call(self, action: str, config: RunnableConfig) -> ToolReply:
        return await check_run.call(
            self.interpreter,
            action,
            session_key=resolve_key(config, self.session_key),
            options=self.options,
        )


def _build_output(reply: ToolReply, name: str, images: str) -> ToolOutput:
    """Return content and artifact. A failure is a message, to have both and a status."""
    content = reply.text if images == "reference" else _attach_images(reply)
    call_id = _call_id.get()
    if not reply.failed or call_id is None:
        return content, reply.execution
    message = ToolMessage(
        content,
        artifact=reply.execution,
        name=name,
        status="error",
        tool_call_id=call_id,
    )
    return message, reply.execution


def resolve_key(config: RunnableConfig, fallback_key: SessionKey) -> str:
    """Return the session key: of `use_session`, else the graph's thread, else the fallback."""
    chosen = fallback_key if is_named(fallback_key) else DEFAULT_KEY
    resolver = SessionKeyResolver("langchain", fallback_key=chosen)
    return resolver.resolve((config.get("configurable") or {}).get("thread_id"))


def _attach_images(reply: ToolReply) -> Content:
    """Return the text and after it the images, as LangChain's own blocks."""
    images, note = select_images(reply.execution)
    if not images and not note:
        return reply.text
    text = f"{reply.text}\n{note}" if note else reply.text
    blocks = [create_image_block(base64=one.base64, mime_type=one.media_type) for one in images]
    return [dict(create_text_block(text)), *(dict(block) for block in blocks)]


def _combine_handlers(
    first: OutputHandler | None, second: OutputHandler | None
) -> OutputHandler | None:
    if first is None or second is None:
        return first or second

    def handle(event: OutputEvent) -> None:
        first(event)
        second(event)

    return handle


class _CallIdContext:
    """Keeps the call id for `_to_tool_output`, because LangChain passes it to `run` only."""

    def __init__(self, call_id: str | None) -> None:
        self._call_id = call_id

    def __enter__(self) -> None:
        self._token = _call_id.set(self._call_id)

    def __exit__(self, *_: object) -> None:
        _call_id.reset(self._token)


def _get_graph_handler(config: RunnableConfig) -> OutputHandler | None:
    """Return the handler for stream modes `custom` and `tools`, if the tool runs in a graph."""
    if "langgraph" not in sys.modules:
        return None
    from langgraph.config import get_stream_writer

    try:
        write = get_stream_writer()
    except (KeyError, RuntimeError):
        return None
    emit_delta = _get_delta_emitter(config, write)

    def handle(event: OutputEvent) -> None:
        if event.stream != "result":
            chunk = {"tool": execute_code.NAME, "stream": event.stream, "text": event.text}
            write(chunk)
            emit_delta(chunk)

    return handle


def _get_delta_emitter(
    config: RunnableConfig, write: Callable[[Any], None]
) -> Callable[[Any], None]:
    """Return the emitter of stream mode `tools`. Before LangGraph 1.2 it does nothing."""
    if "langgraph.prebuilt" not in sys.modules:
        return _ignore
    from langgraph.prebuilt import ToolRuntime

    if not hasattr(ToolRuntime, "emit_output_delta"):
        return _ignore
    call_id = _call_id.get()
    return ToolRuntime(None, None, config, write, call_id, None).emit_output_delta


def _ignore(_: object) -> None:
    """Drop a chunk."""

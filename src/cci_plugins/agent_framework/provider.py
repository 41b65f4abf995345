"""Adapter for Microsoft Agent Framework: a context provider for an agent, and the plain tool."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from copy import copy
from dataclasses import replace
from typing import Any, Literal, Self, TypeAlias

from agent_framework import (
    ChatContext,
    ChatMiddleware,
    Content,
    ContextProvider,
    FunctionInvocationContext,
    FunctionTool,
    Message,
    SessionContext,
)
from typing_extensions import override

from cci_plugins.common.log import describe_error, logger
from cci_plugins.core.host_tools import HostTool, ToolApprover
from cci_plugins.core.interpreter import AnyInterpreter
from cci_plugins.core.mounts import FileMount, FileMountInput, Mounts
from cci_plugins.errors import CodeInterpreterError
from cci_plugins.pools.base import OutputHandler
from cci_plugins.tools import check_run, execute_code, install_packages
from cci_plugins.tools.execute_code import SessionKeyResolver, ToolReply
from cci_plugins.tools.host_tools import HostToolPolicy, RunStopper, check_host_tools
from cci_plugins.tools.images import (
    DEFAULT_LIMITS,
    INTRODUCTION,
    ImageLimits,
    ImagePolicy,
    move_images_to_user,
    select_images,
)
from cci_plugins.tools.options import ToolOptions, check_single_tool, get_wait

from .host_tools import HostToolInput, PipelineFinder, build_host_tool, to_tools

__all__ = [
    "CodeInterpreterProvider",
    "FileMount",
    "code_interpreter_tool",
    "code_interpreter_tools",
]

ApprovalMode: TypeAlias = Literal["always_require", "never_require"]
_NO_MOUNTS = Mounts(None)
_NO_TOOLS = HostToolPolicy()
_IMAGE_MARKER = "cci_shown_after"  # on images that belong into a message of the user
_FILES = f"Files in the working directory of {execute_code.NAME}"
_SHARED_SESSION_WARNING = (
    "the agent has no session, so all calls of this tool share one; pass "
    "`session=agent.create_session()` to `run`, or use `CodeInterpreterProvider`"
)
_MOUNT_FAILED = "The code was not run: its files could not be copied into the session."


def code_interpreter_tool(
    interpreter: AnyInterpreter | None = None,
    *,
    approval_mode: ApprovalMode = "never_require",
    images: Literal["reference", "inline"] = "reference",
    on_output: OutputHandler | None = None,
    options: ToolOptions = execute_code.DEFAULT_OPTIONS,
) -> FunctionTool:
    """Create the tool `execute_code`, for an agent's `tools`.

    The conversation is the one of `interpreter.use_session`, else the agent session. Without
    either, all calls of this tool share a session, and one warning reports it. The first item of
    a result has the whole `Execution` as its `raw_representation`.

    Args:
        interpreter: Where to run. None means `CodeInterpreter.from_env()`.
        approval_mode: Whether the framework requests approval before each call.
        images: `inline` attaches charts to the result, for models that accept images there.
        on_output: Called with each chunk of output while the code runs, in the context of the
            call.
        options: Options for the tool's description and the size of its output, for one tool.

    Raises:
        ConfigurationError: The options have `wait` or `install_packages`, a second tool.

    Example:
        ```python
        from agent_framework import Agent

        agent = Agent(client, tools=[code_interpreter_tool()])
        ```
    """
    check_single_tool(options)
    (tool,) = code_interpreter_tools(
        interpreter,
        approval_mode=approval_mode,
        images=images,
        on_output=on_output,
        options=options,
    )
    return tool


def code_interpreter_tools(
    interpreter: AnyInterpreter | None = None,
    *,
    approval_mode: ApprovalMode = "never_require",
    images: Literal["reference", "inline"] = "reference",
    on_output: OutputHandler | None = None,
    options: ToolOptions = execute_code.DEFAULT_OPTIONS,
) -> list[FunctionTool]:
    """Create the tool `execute_code`, and with `ToolOptions.wait` also `check_run`.

    With `ToolOptions.install_packages`, it creates that tool too. The arguments are those of
    `code_interpreter_tool`. All tools share the conversation. `check_run` runs no code, so nobody
    approves it.

    Args:
        interpreter: Where to run. None means `CodeInterpreter.from_env()`.
        approval_mode: Whether the framework requests approval before each call of `execute_code`.
        images: `inline` attaches charts to the result.
        on_output: Called with each chunk of output while the code runs.
        options: Options for the tools.

    Example:
        ```python
        from agent_framework import Agent

        from cci_plugins import ToolOptions

        agent = Agent(client, tools=code_interpreter_tools(options=ToolOptions(wait=90)))
        ```
    """
    adapter = _Adapter(interpreter, images=images, on_output=on_output, options=options)
    description = execute_code.build_description(options, interpreter)
    return _build_tools(adapter, approval_mode, description, options)


class CodeInterpreterProvider(ContextProvider):
    """Adds `execute_code` to an agent, and instructions that name the mounted files.

    With `ToolOptions.wait`, it adds `check_run` too, and `install_packages` with that option.

    The conversation is the agent session. `interpreter.use_session` around a run names another
    one, so that agents can share it. The options have the names of the framework's own
    code-execution packages.

    Args:
        interpreter: Where to run. None means `CodeInterpreter.from_env()`.
        source_id: Identifies this provider among those of an agent.
        approval_mode: Whether the framework requests approval before each call.
        file_mounts: Files and folders of this machine, copied into each session before its first
            run. Each is a path, or a pair of a path and its name in the session.
        images: How the model sees charts. `reference` names them, `inline` attaches them to the
            result, `user_message` moves them into a message of the user after it.
        max_output_files: Most images attached to one result.
        max_output_file_bytes: Most bytes of one attached image.
        max_output_total_bytes: Most bytes of all images of one result.
        on_output: Called with each chunk of output while the code runs, in the context of the
            call.
        options: Options for the tool's description and the size of its output. Its instructions
            become instructions of the agent.
        tools: Function tools, or functions, that the code may call as `tools.NAME(...)`. The
            function middleware of the run sees each call. With one whose approval mode is
            `always_require`, `execute_code` has that mode.
        approve_tool: Asked before a call of such a tool, while the code waits. So `execute_code`
            keeps its own `approval_mode`.

    Example:
        ```python
        from agent_framework import Agent

        agent = Agent(client, context_providers=[CodeInterpreterProvider()])
        ```
    """

    DEFAULT_SOURCE_ID = "code_interpreter"

    def __init__(
        self,
        interpreter: AnyInterpreter | None = None,
        *,
        source_id: str = DEFAULT_SOURCE_ID,
        approval_mode: ApprovalMode = "never_require",
        file_mounts: FileMountInput | Sequence[FileMountInput] | None = None,
        images: ImagePolicy = "reference",
        max_output_files: int = DEFAULT_LIMITS.count,
        max_output_file_bytes: int = DEFAULT_LIMITS.image_bytes,
        max_output_total_bytes: int = DEFAULT_LIMITS.total_bytes,
        on_output: OutputHandler | None = None,
        options: ToolOptions = execute_code.DEFAULT_OPTIONS,
        tools: Sequence[HostToolInput] = (),
        approve_tool: ToolApprover | None = None,
    ) -> None:
        super().__init__(source_id)
        functions = to_tools(tools)
        host_tools = [build_host_tool(one) for one in functions]
        policy = check_host_tools(host_tools, approve_tool, interpreter, framework_asks=True)
        limits = ImageLimits(max_output_files, max_output_file_bytes, max_output_total_bytes)
        mounts = Mounts(file_mounts)
        adapter = _Adapter(
            interpreter,
            images=images,
            on_output=on_output,
            options=options,
            limits=limits,
            mounts=mounts,
            tools=functions,
            policy=policy,
        )
        description = execute_code.build_description(
            replace(options, instructions=""), interpreter, host_tools
        )
        mode: ApprovalMode = "always_require" if policy.needs_approval else approval_mode
        self._tools = _build_tools(adapter, mode, description, options)
        self._calls_tools = bool(functions)
        self._instructions = [options.instructions] if options.instructions else []
        if mounts.names:
            self._instructions.append(f"{_FILES}: {', '.join(mounts.names)}")
        self._shows_images = images == "user_message"

    @override
    async def before_run(
        self, *, agent: Any, session: Any, context: SessionContext, state: dict[str, Any]
    ) -> None:
        """Add the tool, and instructions for the model, to one run."""
        context.extend_tools(self.source_id, self._tools)
        if self._instructions:
            context.extend_instructions(self.source_id, self._instructions)
        if self._shows_images:
            context.extend_middleware(self.source_id, [_ImageMiddleware()])
        if self._calls_tools:
            context.extend_middleware(self.source_id, [PipelineFinder(), PipelineFinder()])


class _Adapter:
    """The implementation of the tool."""

    def __init__(
        self,
        interpreter: AnyInterpreter | None,
        *,
        images: ImagePolicy,
        on_output: OutputHandler | None,
        options: ToolOptions,
        limits: ImageLimits = DEFAULT_LIMITS,
        mounts: Mounts = _NO_MOUNTS,
        tools: Sequence[FunctionTool | HostTool] = (),
        policy: HostToolPolicy = _NO_TOOLS,
    ) -> None:
        execute_code.check_options(options, interpreter)
        self._interpreter = interpreter
        self._images = images
        self._on_output = on_output
        self._limits = limits
        self._mounts = mounts
        self._options = options
        self._tools = tools
        self._policy = policy
        self._key_resolver = SessionKeyResolver("agent-framework", _SHARED_SESSION_WARNING)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self  # it holds the interpreter and functions of the application

    async def execute_code(self, code: str, ctx: FunctionInvocationContext) -> list[Content]:
        key = self._resolve_key(ctx)
        if not await self._mount(key):
            return list(self._build_contents(execute_code.build_not_run_reply(_MOUNT_FAILED)))
        stopper = RunStopper()
        tools = [build_host_tool(one, ctx, stopper) for one in self._tools]
        call = execute_code.call(
            self._interpreter,
            code,
            session_key=key,
            on_output=self._on_output,
            options=self._options,
            tools=self._policy.apply(tools),
            approve_tool=self._policy.approve_tool,
            on_leave=stopper.leave,
        )
        reply = await (stopper.run(call) if tools else call)
        return list(self._build_contents(reply))

    async def check_run(self, action: str, ctx: FunctionInvocationContext) -> list[Content]:
        reply = await check_run.call(
            self._interpreter, action, session_key=self._resolve_key(ctx), options=self._options
        )
        return list(self._build_contents(reply))

    async def install_packages(
        self, packages: list[str], ctx: FunctionInvocationContext
    ) -> list[Content]:
        reply = await install_packages.call(
            self._interpreter, packages, session_key=self._resolve_key(ctx)
        )
        return list(self._build_contents(reply))

    def _resolve_key(self, ctx: FunctionInvocationContext) -> str:
        return self._key_resolver.resolve(ctx.session and ctx.session.session_id)

    async def _mount(self, key: str) -> bool:
        """Copy the mounted files. Return False on a failure, which only the log describes."""
        if not self._mounts.names:
            return True
        try:
            interpreter = execute_code.get_interpreter(self._interpreter)
            await self._mounts.copy_into(interpreter.session(key))
        except CodeInterpreterError as error:
            logger.warning("file_mounts: %s", describe_error(error))
            return False
        return True

    def _build_contents(self, reply: ToolReply) -> Iterator[Content]:
        yield Content.from_text(reply.text, raw_representation=reply.execution)
        if self._images == "reference":
            return
        markers = {_IMAGE_MARKER: True} if self._images == "user_message" else {}
        images, note = select_images(reply.execution, self._limits)
        for image in images:
            yield Content.from_data(image.data, image.media_type, additional_properties={**markers})
        if note:
            yield Content.from_text(note)


def _build_tools(
    adapter: _Adapter, approval_mode: ApprovalMode, description: str, options: ToolOptions
) -> list[FunctionTool]:
    """Build `execute_code`, and the other tools that the options ask for."""
    run_tool = FunctionTool(
        name=execute_code.NAME,
        description=description,
        approval_mode=approval_mode,
        func=adapter.execute_code,
        input_model=execute_code.PARAMETERS,
    )
    tools = [run_tool]
    if (wait := get_wait(options)) is not None:
        check_tool = FunctionTool(
            name=check_run.NAME,
            description=check_run.build_description(wait),
            approval_mode="never_require",
            func=adapter.check_run,
            input_model=check_run.PARAMETERS,
        )
        tools.append(check_tool)
    if options.install_packages:
        install_tool = FunctionTool(
            name=install_packages.NAME,
            description=install_packages.DESCRIPTION,
            approval_mode=approval_mode,
            func=adapter.install_packages,
            input_model=install_packages.PARAMETERS,
        )
        tools.append(install_tool)
    return tools


class _ImageMiddleware(ChatMiddleware):
    """Moves marked images of tool results into a message of the user, in the request only."""

    @override
    async def process(self, context: ChatContext, call_next: Callable[[], Awaitable[None]]) -> None:
        context.messages = list(
            move_images_to_user(
                context.messages,
                is_result=lambda message: message.role == "tool",
                split_images=_split_images,
                build_message=lambda images: Message("user", [INTRODUCTION, *images]),
            )
        )
        await call_next()


def _split_images(message: Message) -> tuple[Message, list[Content]]:
    results = [content for content in message.contents if content.type == "function_result"]
    images = [item for result in results for item in result.items or () if _is_marked(item)]
    return (_strip_images(message) if images else message), images


def _is_marked(item: Content) -> bool:
    return bool((item.additional_properties or {}).get(_IMAGE_MARKER))


def _strip_images(message: Message) -> Message:
    """Copy the message without its images. The message itself belongs to the history."""
    changed = copy(message)
    changed.contents = [_strip_result_images(content) for content in message.contents]
    return changed


def _strip_result_images(content: Content) -> Content:
    if not content.items:
        return content
    changed = copy(content)
    changed.items = [item for item in content.items if not _is_marked(item)]
    return changed

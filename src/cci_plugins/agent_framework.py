"""Microsoft Agent Framework: a context provider for an agent, and the bare tool."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from copy import copy
from dataclasses import replace
from typing import Any, Literal, TypeAlias

from typing_extensions import override

from .common.log import logger
from .core.interpreter import CodeInterpreter
from .core.mounts import FileMount, FileMountInput, Mounts
from .errors import CodeInterpreterError, ConfigurationError
from .pools.base import OutputHandler
from .tools import execute_code as tool
from .tools.images import ImageLimits, ImagePolicy, format_omitted, select_images
from .tools.options import ToolOptions

try:
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
except ModuleNotFoundError as missing:
    raise ConfigurationError(
        f"the Agent Framework tool needs {missing.name}",
        hint='pip install "cci-plugins[agent-framework]"',
    ) from missing

__all__ = ["CodeInterpreterProvider", "FileMount", "code_interpreter_tool"]

ApprovalMode: TypeAlias = Literal["always_require", "never_require"]
_LIMITS = ImageLimits()
_NO_MOUNTS = Mounts(None)
_INTRODUCTION = f"[images that {tool.NAME} displayed]"
_IMAGE_MARKER = "cci_shown_after"  # marks images that go to the model as a message of the user
_FILES = f"Files in the working directory of {tool.NAME}"
_SHARED_SESSION_WARNING = (
    "the agent has no session, so all calls of this tool share one; pass "
    "`session=agent.create_session()` to `run`, or use `CodeInterpreterProvider`"
)
_MOUNT_FAILED = "The code was not run: the files it was to find could not be put into its session."


def code_interpreter_tool(
    interpreter: CodeInterpreter | None = None,
    *,
    approval_mode: ApprovalMode = "never_require",
    images: Literal["reference", "inline"] = "reference",
    on_output: OutputHandler | None = None,
    options: ToolOptions = tool.DEFAULT_OPTIONS,
) -> FunctionTool:
    """Make the tool `execute_code`, for an agent's `tools`.

    The conversation is the one of `interpreter.use_session`, else the agent session; without
    either all calls of this tool share a session, and a warning says so once. The first item of
    a result has the whole `Execution` as its `raw_representation`.

    Args:
        interpreter: Where to run; `CodeInterpreter.from_env()` when None.
        approval_mode: Whether the framework asks its host before each call.
        images: `inline` attaches charts to the result, for models that take images there.
        on_output: Told each piece of output while code runs, in the context of the call.
        options: How the tool is told to the model, and how much it may answer.

    Example:
        ```python
        from agent_framework import Agent

        agent = Agent(client, tools=[code_interpreter_tool()])
        ```
    """
    adapter = _Adapter(interpreter, images=images, on_output=on_output, options=options)
    return _build_tool(adapter, approval_mode, tool.build_description(options, interpreter))


class CodeInterpreterProvider(ContextProvider):
    """Gives an agent `execute_code` and tells it of the files that are there.

    The conversation is the agent session; `interpreter.use_session` around a run names another
    one, so that agents can share it. The options are those of the framework's own code-execution
    packages.

    Args:
        interpreter: Where to run; `CodeInterpreter.from_env()` when None.
        source_id: Names this provider among those of an agent.
        approval_mode: Whether the framework asks its host before each call.
        file_mounts: Files and folders of this machine, copied into each session before its first
            run: a path, or a pair of a path and the name it gets there.
        images: How the model meets charts: `reference` names them, `inline` attaches them to the
            result, `user_message` shows them in a message of the user after it.
        max_output_files: Images attached to one result.
        max_output_file_bytes: Bytes of one attached image.
        max_output_total_bytes: Bytes of all images of one result.
        on_output: Told each piece of output while code runs, in the context of the call.
        options: How the tool is told to the model, and how much it may answer; its instructions
            become the agent's.

    Example:
        ```python
        from agent_framework import Agent

        agent = Agent(client, context_providers=[CodeInterpreterProvider()])
        ```
    """

    DEFAULT_SOURCE_ID = "code_interpreter"

    def __init__(
        self,
        interpreter: CodeInterpreter | None = None,
        *,
        source_id: str = DEFAULT_SOURCE_ID,
        approval_mode: ApprovalMode = "never_require",
        file_mounts: FileMountInput | Sequence[FileMountInput] | None = None,
        images: ImagePolicy = "reference",
        max_output_files: int = _LIMITS.count,
        max_output_file_bytes: int = _LIMITS.image_bytes,
        max_output_total_bytes: int = _LIMITS.total_bytes,
        on_output: OutputHandler | None = None,
        options: ToolOptions = tool.DEFAULT_OPTIONS,
    ) -> None:
        super().__init__(source_id)
        limits = ImageLimits(max_output_files, max_output_file_bytes, max_output_total_bytes)
        mounts = Mounts(file_mounts)
        adapter = _Adapter(
            interpreter,
            images=images,
            on_output=on_output,
            options=options,
            limits=limits,
            mounts=mounts,
        )
        description = tool.build_description(replace(options, instructions=""), interpreter)
        self._tool = _build_tool(adapter, approval_mode, description)
        self._instructions = [options.instructions] if options.instructions else []
        if mounts.names:
            self._instructions.append(f"{_FILES}: {', '.join(mounts.names)}")
        self._shows_images = images == "user_message"

    @override
    async def before_run(
        self, *, agent: Any, session: Any, context: SessionContext, state: dict[str, Any]
    ) -> None:
        """Add the tool, and what the model must know, to one run."""
        context.extend_tools(self.source_id, [self._tool])
        if self._instructions:
            context.extend_instructions(self.source_id, self._instructions)
        if self._shows_images:
            context.extend_middleware(self.source_id, [_ImageMiddleware()])


class _Adapter:
    """What runs behind the tool."""

    def __init__(
        self,
        interpreter: CodeInterpreter | None,
        *,
        images: ImagePolicy,
        on_output: OutputHandler | None,
        options: ToolOptions,
        limits: ImageLimits = _LIMITS,
        mounts: Mounts = _NO_MOUNTS,
    ) -> None:
        self._interpreter = interpreter
        self._images = images
        self._on_output = on_output
        self._limits = limits
        self._mounts = mounts
        self._options = options
        self._key_resolver = tool.SessionKeyResolver("agent-framework", _SHARED_SESSION_WARNING)

    async def execute_code(self, code: str, ctx: FunctionInvocationContext) -> list[Content]:
        key = self._key_resolver.resolve(ctx.session and ctx.session.session_id)
        if not await self._mount(key):
            return list(self._build_contents(tool.build_not_run_reply(_MOUNT_FAILED)))
        reply = await tool.call(
            self._interpreter,
            code,
            session_key=key,
            on_output=self._on_output,
            options=self._options,
        )
        return list(self._build_contents(reply))

    async def _mount(self, key: str) -> bool:
        """Whether the files are there; what is wrong is for the host, not for the model."""
        if not self._mounts.names:
            return True
        try:
            interpreter = self._interpreter or tool.get_default_interpreter()
            await self._mounts.copy_into(interpreter.session(key))
        except CodeInterpreterError as error:
            logger.warning("file_mounts: %s", error)
            return False
        return True

    def _build_contents(self, reply: tool.ToolReply) -> Iterator[Content]:
        yield Content.from_text(reply.text, raw_representation=reply.execution)
        if self._images == "reference":
            return
        markers = {_IMAGE_MARKER: True} if self._images == "user_message" else {}
        images, missing = select_images(reply.execution, self._limits)
        for image in images:
            yield Content.from_data(image.data, image.media_type, additional_properties={**markers})
        if missing:
            yield Content.from_text(format_omitted(missing))


def _build_tool(adapter: _Adapter, approval_mode: ApprovalMode, description: str) -> FunctionTool:
    return FunctionTool(
        name=tool.NAME,
        description=description,
        approval_mode=approval_mode,
        func=adapter.execute_code,
        input_model=tool.PARAMETERS,
    )


class _ImageMiddleware(ChatMiddleware):
    """Moves the marked images of tool results into a message of the user, in the request only."""

    @override
    async def process(self, context: ChatContext, call_next: Callable[[], Awaitable[None]]) -> None:
        context.messages = list(_move_images_to_user(context.messages))
        await call_next()


def _move_images_to_user(messages: Sequence[Message]) -> Iterator[Message]:
    """Messages with their images behind the last tool result of each turn, as the APIs want it."""
    images: list[Content] = []
    for message in messages:
        if images and message.role != "tool":
            yield _build_image_message(images)
            images = []
        found = [item for item in _iter_result_items(message) if _is_marked(item)]
        images += found
        yield _strip_images(message) if found else message
    if images:
        yield _build_image_message(images)


def _build_image_message(images: Sequence[Content]) -> Message:
    return Message("user", [_INTRODUCTION, *images])


def _iter_result_items(message: Message) -> Iterator[Content]:
    for content in message.contents:
        if content.type == "function_result":
            yield from content.items or ()


def _is_marked(item: Content) -> bool:
    return bool((item.additional_properties or {}).get(_IMAGE_MARKER))


def _strip_images(message: Message) -> Message:
    """A copy; the message itself is the history's."""
    changed = copy(message)
    changed.contents = [_strip_result_images(content) for content in message.contents]
    return changed


def _strip_result_images(content: Content) -> Content:
    if not content.items:
        return content
    changed = copy(content)
    changed.items = [item for item in content.items if not _is_marked(item)]
    return changed

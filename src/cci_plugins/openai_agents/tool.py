"""Adapter for the OpenAI Agents SDK: a function tool for an agent's `tools`."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from typing import Any, Literal, Self, TypeAlias
from uuid import UUID

from agents import FunctionTool, RunContextWrapper, ToolOutputImage, ToolOutputText
from agents.run_config import CallModelData, ModelInputData
from agents.tool_context import ToolContext

from cci_plugins.core.conversation import SessionKey
from cci_plugins.core.host_tools import HostTool, ToolApprover
from cci_plugins.core.interpreter import AnyInterpreter
from cci_plugins.models import Execution
from cci_plugins.pools.base import OutputHandler
from cci_plugins.tools import check_run, execute_code, install_packages
from cci_plugins.tools.execute_code import SessionKeyResolver, ToolReply
from cci_plugins.tools.host_tools import RunStopper, check_host_tools
from cci_plugins.tools.images import INTRODUCTION, move_images_to_user, select_images
from cci_plugins.tools.options import ToolOptions, check_single_tool, get_wait

from .host_tools import HostToolInput, build_host_tool, is_enabled, to_tools

__all__ = [
    "ImageReply",
    "TextReply",
    "code_interpreter_tool",
    "code_interpreter_tools",
    "images_as_user_messages",
]

NeedsApproval: TypeAlias = (
    bool | Callable[[RunContextWrapper[Any], dict[str, Any], str], Awaitable[bool]]
)
SessionKeyFunction: TypeAlias = Callable[[RunContextWrapper[Any]], SessionKey | None]

_NAMES = (execute_code.NAME, check_run.NAME)
_CONVERSATION_FIELDS = ("session_id", "conversation_id", "thread_id")
_SHARED_SESSION_WARNING = (
    "no conversation was named, so all calls of this tool share one session; use "
    "`interpreter.use_session(...)`, or a context with a `session_id`"
)
_INVALID_ARGUMENTS = 'The code was not run: the arguments must be a JSON object {"code": "..."}.'


class TextReply(str):
    """The text of a result for the model, with the whole result for the application.

    The SDK stores the text only.

    Attributes:
        execution: For the application.
        failed: The code raised, timed out or did not run.
    """

    __slots__ = ("execution", "failed")

    execution: Execution
    failed: bool

    @classmethod
    def of(cls, reply: ToolReply) -> Self:
        """Create the text of a reply.

        Args:
            reply: The reply of the tool.
        """
        text = cls(reply.text)
        text.execution, text.failed = reply.execution, reply.failed
        return text


class ImageReply(list[ToolOutputText | ToolOutputImage]):
    """A result with images for the model, with the whole result for the application.

    The SDK stores text and images only.

    Attributes:
        text: For the model, within its budget.
        execution: For the application.
        failed: The code raised, timed out or did not run.
    """

    def __init__(self, reply: ToolReply, parts: list[ToolOutputText | ToolOutputImage]) -> None:
        super().__init__(parts)
        self.text = reply.text
        self.execution = reply.execution
        self.failed = reply.failed

    def __str__(self) -> str:
        return self.text


def code_interpreter_tool(
    interpreter: AnyInterpreter | None = None,
    *,
    needs_approval: NeedsApproval = False,
    images: Literal["reference", "inline"] = "reference",
    session_key: SessionKeyFunction | None = None,
    on_output: OutputHandler | None = None,
    options: ToolOptions = execute_code.DEFAULT_OPTIONS,
    tools: Sequence[HostToolInput] = (),
    approve_tool: ToolApprover | None = None,
) -> FunctionTool:
    """Create the tool `execute_code`.

    The SDK does not pass a conversation to a tool. The tool uses the first of these: the result
    of `session_key`, the session of `interpreter.use_session`, `session_id`, `conversation_id` or
    `thread_id` of the run's context (an attribute or a key), `RunConfig.group_id`. Without any of
    them all calls of this tool share a session, and one warning reports it.

    The `output` of a run item is a `TextReply` or an `ImageReply`. Its `execution` is the whole
    `Execution`.

    Args:
        interpreter: Where to run. None means `CodeInterpreter.from_env()`.
        needs_approval: Whether the SDK interrupts the run before each call, or a function of
            context, arguments and call id that decides it.
        images: `inline` attaches charts to the result, for models that accept images there.
        session_key: Returns the conversation of a run.
        on_output: Called with each chunk of output while the code runs, in the context of the
            call.
        options: Options for the tool's description and the size of its output, for one tool.
        tools: Function tools, or functions, that the code may call as `tools.NAME(...)`. Their
            guardrails, time-outs and the agent's hooks work as for calls of the model. With one
            that needs approval, this tool needs it as a whole.
        approve_tool: Asked before a call of a tool that needs approval, while the code waits. So
            this tool does not need it as a whole.

    Raises:
        ConfigurationError: The options have `wait` or `install_packages`, a second tool.

    Example:
        ```python
        from agents import Agent

        agent = Agent("analyst", tools=[code_interpreter_tool()])
        ```
    """
    check_single_tool(options)
    (tool,) = code_interpreter_tools(
        interpreter,
        needs_approval=needs_approval,
        images=images,
        session_key=session_key,
        on_output=on_output,
        options=options,
        tools=tools,
        approve_tool=approve_tool,
    )
    return tool


def code_interpreter_tools(
    interpreter: AnyInterpreter | None = None,
    *,
    needs_approval: NeedsApproval = False,
    images: Literal["reference", "inline"] = "reference",
    session_key: SessionKeyFunction | None = None,
    on_output: OutputHandler | None = None,
    options: ToolOptions = execute_code.DEFAULT_OPTIONS,
    tools: Sequence[HostToolInput] = (),
    approve_tool: ToolApprover | None = None,
) -> list[FunctionTool]:
    """Create the tool `execute_code`, and with `ToolOptions.wait` also `check_run`.

    With `ToolOptions.install_packages`, it creates that tool too. The arguments are those of
    `code_interpreter_tool`. All tools share the conversation. `check_run` runs no code, so nobody
    approves it.

    Args:
        interpreter: Where to run. None means `CodeInterpreter.from_env()`.
        needs_approval: Whether the SDK interrupts the run before each call of `execute_code`.
        images: `inline` attaches charts to the result.
        session_key: Returns the conversation of a run.
        on_output: Called with each chunk of output while the code runs.
        options: Options for the tools.
        tools: Function tools, or functions, that the code may call.
        approve_tool: Asked before a call of a tool that needs approval, while the code waits.

    Example:
        ```python
        from agents import Agent

        from cci_plugins import ToolOptions

        agent = Agent("analyst", tools=code_interpreter_tools(options=ToolOptions(wait=90)))
        ```
    """
    adapter = _Adapter(
        interpreter,
        inline=images == "inline",
        key=session_key,
        on_output=on_output,
        options=options,
        tools=tools,
        approve_tool=approve_tool,
    )
    return _build_tools(adapter, options, needs_approval)


def _build_tools(
    adapter: _Adapter, options: ToolOptions, needs_approval: NeedsApproval
) -> list[FunctionTool]:
    """Build `execute_code`, and the other tools that the options ask for."""
    run_tool = FunctionTool(
        name=execute_code.NAME,
        description=adapter.description,
        params_json_schema=deepcopy(execute_code.PARAMETERS),  # older releases write into it
        on_invoke_tool=adapter.invoke,
        needs_approval=adapter.policy.needs_approval or needs_approval,
    )
    created = [run_tool]
    if (wait := get_wait(options)) is not None:
        check_tool = FunctionTool(
            name=check_run.NAME,
            description=check_run.build_description(wait),
            params_json_schema=deepcopy(check_run.PARAMETERS),
            on_invoke_tool=adapter.check_run,
        )
        created.append(check_tool)
    if options.install_packages:
        install_tool = FunctionTool(
            name=install_packages.NAME,
            description=install_packages.DESCRIPTION,
            params_json_schema=deepcopy(install_packages.PARAMETERS),
            on_invoke_tool=adapter.install_packages,
            needs_approval=needs_approval,
        )
        created.append(install_tool)
    return created


class _Adapter:
    """The implementation of the tool."""

    def __init__(
        self,
        interpreter: AnyInterpreter | None,
        *,
        inline: bool,
        key: SessionKeyFunction | None,
        on_output: OutputHandler | None,
        options: ToolOptions,
        tools: Sequence[HostToolInput],
        approve_tool: ToolApprover | None,
    ) -> None:
        self._interpreter = interpreter
        self._inline = inline
        self._session_key = key
        self._on_output = on_output
        self._options = options
        self._tools = to_tools(tools)
        host_tools = [build_host_tool(one) for one in self._tools]
        self.policy = check_host_tools(host_tools, approve_tool, interpreter, framework_asks=True)
        execute_code.check_options(options, interpreter)
        self.description = execute_code.build_description(options, interpreter, host_tools)
        self._key_resolver = SessionKeyResolver("openai-agents", _SHARED_SESSION_WARNING)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self  # it holds the interpreter and functions of the application

    async def invoke(self, context: ToolContext[Any], arguments: str) -> TextReply | ImageReply:
        code = _parse_argument(arguments, "code")
        if code is None:
            return TextReply.of(execute_code.build_not_run_reply(_INVALID_ARGUMENTS))
        stopper = RunStopper()
        call = execute_code.call(
            self._interpreter,
            code,
            session_key=self._resolve_key(context),
            on_output=self._on_output,
            options=self._options,
            tools=await self._bind_tools(context, stopper),
            approve_tool=self.policy.approve_tool,
            on_leave=stopper.leave,
        )
        reply = await (stopper.run(call) if self._tools else call)
        return self._build_output(reply)

    async def check_run(self, context: ToolContext[Any], arguments: str) -> TextReply | ImageReply:
        reply = await check_run.call(
            self._interpreter,
            _parse_argument(arguments, "action"),
            session_key=self._resolve_key(context),
            options=self._options,
        )
        return self._build_output(reply)

    async def install_packages(
        self, context: ToolContext[Any], arguments: str
    ) -> TextReply | ImageReply:
        reply = await install_packages.call(
            self._interpreter,
            _parse_value(arguments, "packages"),
            session_key=self._resolve_key(context),
        )
        return self._build_output(reply)

    def _build_output(self, reply: ToolReply) -> TextReply | ImageReply:
        return _attach_images(reply) if self._inline else TextReply.of(reply)

    async def _bind_tools(
        self, context: ToolContext[Any], stopper: RunStopper
    ) -> Sequence[HostTool]:
        """Return the host tools of one call, which run with its context."""
        tools = [one for one in self._tools if await is_enabled(one, context)]
        return self.policy.apply([build_host_tool(one, context, stopper) for one in tools])

    def _resolve_key(self, context: ToolContext[Any]) -> str:
        return self._key_resolver.resolve(
            next(_iter_conversation_ids(context.context), None),
            context.run_config and context.run_config.group_id,
            explicit_key=self._session_key and self._session_key(context),
        )


def _parse_argument(arguments: str, name: str) -> str | None:
    value = _parse_value(arguments, name)
    return value if isinstance(value, str) else None


def _parse_value(arguments: str, name: str) -> object:
    try:
        return json.loads(arguments)[name]
    except (ValueError, TypeError, KeyError):
        return None


def _iter_conversation_ids(context: object) -> Iterator[str]:
    """Yield the identifiers of the conversation in a run's context, best first."""
    for name in _CONVERSATION_FIELDS:
        value = context.get(name) if isinstance(context, Mapping) else getattr(context, name, None)
        if isinstance(value, str | int | UUID) and value != "":
            yield str(value)


def _attach_images(reply: ToolReply) -> TextReply | ImageReply:
    images, note = select_images(reply.execution)
    if not images and not note:
        return TextReply.of(reply)
    parts: list[ToolOutputText | ToolOutputImage] = [ToolOutputText(text=reply.text)]
    parts += [ToolOutputImage(image_url=image.data_uri) for image in images]
    if note:
        parts.append(ToolOutputText(text=note))
    return ImageReply(reply, parts)


def images_as_user_messages(data: CallModelData[Any]) -> ModelInputData:
    """Move the images of `execute_code` into a message of the user after each turn's results.

    With Chat Completions the SDK drops images of tool results. Pass this function as
    `RunConfig.call_model_input_filter`, so that the model sees those of `execute_code`. History
    and sessions stay as they are.

    Args:
        data: The input of one model call. It is not changed.
    """
    items: list[Any] = data.model_data.input
    call_ids = {
        item["call_id"] for item in items if item.get("name") in _NAMES and "call_id" in item
    }

    def split_images(item: Any) -> tuple[Any, list[Any]]:
        if not _is_result(item) or item["call_id"] not in call_ids:
            return item, []
        if not isinstance(item["output"], list):
            return item, []
        images = [part for part in item["output"] if part["type"] == "input_image"]
        rest = [part for part in item["output"] if part["type"] != "input_image"]
        return {**item, "output": rest}, images

    moved = move_images_to_user(
        items, is_result=_is_result, split_images=split_images, build_message=_build_image_message
    )
    return ModelInputData(input=list(moved), instructions=data.model_data.instructions)


def _is_result(item: Any) -> bool:
    return bool(item.get("type") == "function_call_output")


def _build_image_message(images: list[Any]) -> Any:
    return {"role": "user", "content": [{"type": "input_text", "text": INTRODUCTION}, *images]}

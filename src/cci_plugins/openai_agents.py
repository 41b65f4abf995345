"""OpenAI Agents SDK: a function tool for an agent's `tools`."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterator, Mapping
from copy import deepcopy
from typing import Any, Literal, Self, TypeAlias
from uuid import UUID

from .core.interpreter import CodeInterpreter
from .errors import ConfigurationError
from .models import Execution
from .pools.base import OutputHandler
from .tools import execute_code
from .tools.images import ImageLimits, format_omitted, select_images
from .tools.options import ToolOptions

try:
    from agents import FunctionTool, RunContextWrapper, ToolOutputImage, ToolOutputText
    from agents.run_config import CallModelData, ModelInputData
    from agents.tool_context import ToolContext
except ModuleNotFoundError as missing:
    raise ConfigurationError(
        f"the OpenAI Agents tool needs {missing.name}",
        hint='pip install "cci-plugins[openai-agents]"',
    ) from missing

__all__ = ["ImageReply", "TextReply", "code_interpreter_tool", "images_as_user_messages"]

NeedsApproval: TypeAlias = (
    bool | Callable[[RunContextWrapper[Any], dict[str, Any], str], Awaitable[bool]]
)
SessionKey: TypeAlias = Callable[[RunContextWrapper[Any]], str | None]

_CONVERSATION_FIELDS = ("session_id", "conversation_id", "thread_id")
_SHARED_SESSION_WARNING = (
    "no conversation was named, so all calls of this tool share one session; use "
    "`interpreter.use_session(...)`, or a context with a `session_id`"
)
_INVALID_ARGUMENTS = 'The code was not run: the arguments must be a JSON object {"code": "..."}.'
_INTRODUCTION = f"[images that {execute_code.NAME} displayed]"


class TextReply(str):
    """A result as the model reads it, and for the host all of it; the SDK stores the text only.

    Attributes:
        execution: For the host.
        failed: The code raised, timed out or did not run.
    """

    __slots__ = ("execution", "failed")

    execution: Execution
    failed: bool

    @classmethod
    def of(cls, reply: execute_code.ToolReply) -> Self:
        """The text of a reply."""
        text = cls(reply.text)
        text.execution, text.failed = reply.execution, reply.failed
        return text


class ImageReply(list[ToolOutputText | ToolOutputImage]):
    """A result with images, and for the host all of it; the SDK stores text and images.

    Attributes:
        text: For the model, within its budget.
        execution: For the host.
        failed: The code raised, timed out or did not run.
    """

    def __init__(
        self, reply: execute_code.ToolReply, parts: list[ToolOutputText | ToolOutputImage]
    ) -> None:
        super().__init__(parts)
        self.text = reply.text
        self.execution = reply.execution
        self.failed = reply.failed

    def __str__(self) -> str:
        return self.text


def code_interpreter_tool(
    interpreter: CodeInterpreter | None = None,
    *,
    needs_approval: NeedsApproval = False,
    images: Literal["reference", "inline"] = "reference",
    session_key: SessionKey | None = None,
    on_output: OutputHandler | None = None,
    options: ToolOptions = execute_code.DEFAULT_OPTIONS,
) -> FunctionTool:
    """Make the tool `execute_code`.

    The SDK tells a tool no conversation. It is, in this order: what `session_key` says, the one
    of `interpreter.use_session`, `session_id`, `conversation_id` or `thread_id` of the run's
    context (an attribute or a key), `RunConfig.group_id`. With none of them all calls of this
    tool share a session, and a warning says so once.

    A run item has a `TextReply` as its `output`, or an `ImageReply`: the whole `Execution` is its
    `execution`.

    Args:
        interpreter: Where to run; `CodeInterpreter.from_env()` when None.
        needs_approval: Whether the SDK interrupts the run before each call, or a function of
            context, arguments and call id that says so.
        images: `inline` attaches charts to the result, for models that take images there.
        session_key: Names the conversation of a run.
        on_output: Told each piece of output while code runs, in the context of the call.
        options: How the tool is told to the model, and how much it may answer.

    Example:
        ```python
        from agents import Agent

        agent = Agent("analyst", tools=[code_interpreter_tool()])
        ```
    """
    adapter = _Adapter(
        interpreter,
        inline=images == "inline",
        key=session_key,
        on_output=on_output,
        options=options,
    )
    return FunctionTool(
        name=execute_code.NAME,
        description=execute_code.build_description(options, interpreter),
        params_json_schema=deepcopy(execute_code.PARAMETERS),  # older releases write into it
        on_invoke_tool=adapter.invoke,
        needs_approval=needs_approval,
    )


class _Adapter:
    """What runs behind the tool."""

    def __init__(
        self,
        interpreter: CodeInterpreter | None,
        *,
        inline: bool,
        key: SessionKey | None,
        on_output: OutputHandler | None,
        options: ToolOptions,
    ) -> None:
        self._interpreter = interpreter
        self._inline = inline
        self._session_key = key
        self._on_output = on_output
        self._options = options
        self._key_resolver = execute_code.SessionKeyResolver(
            "openai-agents", _SHARED_SESSION_WARNING
        )

    async def invoke(self, context: ToolContext[Any], arguments: str) -> TextReply | ImageReply:
        code = _parse_code(arguments)
        if code is None:
            return TextReply.of(execute_code.build_not_run_reply(_INVALID_ARGUMENTS))
        reply = await execute_code.call(
            self._interpreter,
            code,
            session_key=self._resolve_key(context),
            on_output=self._on_output,
            options=self._options,
        )
        return _attach_images(reply) if self._inline else TextReply.of(reply)

    def _resolve_key(self, context: ToolContext[Any]) -> str:
        explicit_key = self._session_key and self._session_key(context)
        group = context.run_config and context.run_config.group_id
        return explicit_key or self._key_resolver.resolve(
            next(_iter_conversation_ids(context.context), None), group
        )


def _parse_code(arguments: str) -> str | None:
    try:
        code = json.loads(arguments)["code"]
    except (ValueError, TypeError, KeyError):
        return None
    return code if isinstance(code, str) else None


def _iter_conversation_ids(context: object) -> Iterator[str]:
    """What a run's context calls its conversation."""
    for name in _CONVERSATION_FIELDS:
        value = context.get(name) if isinstance(context, Mapping) else getattr(context, name, None)
        if isinstance(value, str | int | UUID) and value != "":
            yield str(value)


def _attach_images(reply: execute_code.ToolReply) -> TextReply | ImageReply:
    images, missing = select_images(reply.execution, ImageLimits())
    if not images and not missing:
        return TextReply.of(reply)
    parts: list[ToolOutputText | ToolOutputImage] = [ToolOutputText(text=reply.text)]
    parts += [ToolOutputImage(image_url=image.data_uri) for image in images]
    if missing:
        parts.append(ToolOutputText(text=format_omitted(missing)))
    return ImageReply(reply, parts)


def images_as_user_messages(data: CallModelData[Any]) -> ModelInputData:
    """Show the images of tool results in a message of the user, where results are text only.

    With Chat Completions the SDK drops images of tool results; with this as
    `RunConfig.call_model_input_filter` the model sees those of `execute_code`. History and
    sessions stay as they are.
    """
    return ModelInputData(
        input=list(_move_images_to_user(data.model_data.input)),
        instructions=data.model_data.instructions,
    )


def _move_images_to_user(items: list[Any]) -> Iterator[Any]:
    """Items with their images behind the last result of each turn, as the APIs want it."""
    call_ids = {
        each["call_id"]
        for each in items
        if each.get("name") == execute_code.NAME and "call_id" in each
    }
    images: list[Any] = []
    for item in items:
        is_result = item.get("type") == "function_call_output"
        if images and not is_result:
            yield _build_image_message(images)
            images = []
        if is_result and item["call_id"] in call_ids and isinstance(item["output"], list):
            images += [part for part in item["output"] if part["type"] == "input_image"]
            text = [part for part in item["output"] if part["type"] != "input_image"]
            yield {**item, "output": text}
        else:
            yield item
    if images:
        yield _build_image_message(images)


def _build_image_message(images: list[Any]) -> Any:
    return {"role": "user", "content": [{"type": "input_text", "text": _INTRODUCTION}, *images]}

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
from .tools.images import ImageLimits, images_of, left_out
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

_NAMES = ("session_id", "conversation_id", "thread_id")
_ADVICE = (
    "no conversation was named, so all calls of this tool share one session; use "
    "`interpreter.use_session(...)`, or a context with a `session_id`"
)
_NOT_READ = 'The code was not run: the arguments must be a JSON object {"code": "..."}.'
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
    options: ToolOptions = execute_code.DEFAULTS,
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
    door = _Door(
        interpreter,
        inline=images == "inline",
        key=session_key,
        on_output=on_output,
        options=options,
    )
    return FunctionTool(
        name=execute_code.NAME,
        description=execute_code.describe(options, interpreter),
        params_json_schema=deepcopy(execute_code.PARAMETERS),  # older releases write into it
        on_invoke_tool=door.invoke,
        needs_approval=needs_approval,
    )


class _Door:
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
        self._named = key
        self._on_output = on_output
        self._options = options
        self._conversation = execute_code.Conversation("openai-agents", _ADVICE)

    async def invoke(self, context: ToolContext[Any], arguments: str) -> TextReply | ImageReply:
        code = _code(arguments)
        if code is None:
            return TextReply.of(execute_code.not_run(_NOT_READ))
        reply = await execute_code.call(
            self._interpreter,
            code,
            session_key=self._key(context),
            on_output=self._on_output,
            options=self._options,
        )
        return _with_images(reply) if self._inline else TextReply.of(reply)

    def _key(self, context: ToolContext[Any]) -> str:
        named = self._named and self._named(context)
        group = context.run_config and context.run_config.group_id
        return named or self._conversation.key(next(_told(context.context), None), group)


def _code(arguments: str) -> str | None:
    try:
        code = json.loads(arguments)["code"]
    except (ValueError, TypeError, KeyError):
        return None
    return code if isinstance(code, str) else None


def _told(context: object) -> Iterator[str]:
    """What a run's context calls its conversation."""
    for name in _NAMES:
        told = context.get(name) if isinstance(context, Mapping) else getattr(context, name, None)
        if isinstance(told, str | int | UUID) and told != "":
            yield str(told)


def _with_images(reply: execute_code.ToolReply) -> TextReply | ImageReply:
    images, missing = images_of(reply.execution, ImageLimits())
    if not images and not missing:
        return TextReply.of(reply)
    parts: list[ToolOutputText | ToolOutputImage] = [ToolOutputText(text=reply.text)]
    parts += [ToolOutputImage(image_url=image.data_uri) for image in images]
    if missing:
        parts.append(ToolOutputText(text=left_out(missing)))
    return ImageReply(reply, parts)


def images_as_user_messages(data: CallModelData[Any]) -> ModelInputData:
    """Show the images of tool results in a message of the user, where results are text only.

    With Chat Completions the SDK drops images of tool results; with this as
    `RunConfig.call_model_input_filter` the model sees those of `execute_code`. History and
    sessions stay as they are.
    """
    return ModelInputData(
        input=list(_with_images_after(data.model_data.input)),
        instructions=data.model_data.instructions,
    )


def _with_images_after(items: list[Any]) -> Iterator[Any]:
    """Items with their images behind the last result of each turn, as the APIs want it."""
    ours = {
        each["call_id"]
        for each in items
        if each.get("name") == execute_code.NAME and "call_id" in each
    }
    images: list[Any] = []
    for item in items:
        is_result = item.get("type") == "function_call_output"
        if images and not is_result:
            yield _shown(images)
            images = []
        if is_result and item["call_id"] in ours and isinstance(item["output"], list):
            images += [part for part in item["output"] if part["type"] == "input_image"]
            text = [part for part in item["output"] if part["type"] != "input_image"]
            yield {**item, "output": text}
        else:
            yield item
    if images:
        yield _shown(images)


def _shown(images: list[Any]) -> Any:
    return {"role": "user", "content": [{"type": "input_text", "text": _INTRODUCTION}, *images]}

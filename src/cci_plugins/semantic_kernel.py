"""Semantic Kernel: a plugin for a kernel or a `ChatCompletionAgent`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Annotated, Any, TypeVar

from .core.interpreter import CodeInterpreter
from .errors import ConfigurationError
from .pools.base import OutputHandler
from .tools import execute_code as tool
from .tools.images import ImageLimits, format_omitted, select_images
from .tools.options import ToolOptions

try:
    from semantic_kernel.connectors.ai.chat_completion_client_base import ChatCompletionClientBase
    from semantic_kernel.contents import (
        AuthorRole,
        ChatHistory,
        ChatMessageContent,
        FunctionResultContent,
        ImageContent,
        TextContent,
    )
    from semantic_kernel.functions import kernel_function
except ModuleNotFoundError as missing:
    raise ConfigurationError(
        f"the Semantic Kernel plugin needs {missing.name}",
        hint='pip install "cci-plugins[semantic-kernel]"',
    ) from missing

__all__ = ["CodeInterpreterPlugin", "images_as_user_messages"]

Service = TypeVar("Service", bound=ChatCompletionClientBase)
Prepare = Callable[..., Any]

_INTRODUCTION = f"[images that {tool.NAME} displayed]"
_PREPARE = "_prepare_chat_history_for_request"
_SHARED_SESSION_WARNING = (
    "no conversation was named, so all calls of this plugin share one session; "
    "use `interpreter.use_session(thread.id)`"
)


class CodeInterpreterPlugin:
    """Offers `execute_code` to the model.

    Semantic Kernel tells a plugin no thread id, so the host names the conversation: with
    `interpreter.use_session(thread.id)` around the call, or with the argument `session_id`, which
    the model does not see (`KernelArguments(session_id=thread.id)`). With neither, all calls of
    this plugin object share one session; a warning says so once, unless `session_key` names it.

    Args:
        interpreter: Where to run; `CodeInterpreter.from_env()` when None.
        options: How the tool is told to the model, and how much it may answer.
        on_output: Told each piece of output while code runs, in the context of the call.
        session_key: The conversation of calls that neither names, as in Semantic Kernel's
            orchestrations: their runtime calls agents where `use_session` is not heard.

    Example:
        ```python
        kernel.add_plugin(CodeInterpreterPlugin(), "code_interpreter")
        ```
    """

    def __init__(
        self,
        interpreter: CodeInterpreter | None = None,
        *,
        options: ToolOptions = tool.DEFAULT_OPTIONS,
        on_output: OutputHandler | None = None,
        session_key: str | None = None,
    ) -> None:
        self._interpreter = interpreter
        self._options = options
        self._on_output = on_output
        self._key_resolver = tool.SessionKeyResolver(
            "semantic-kernel", _SHARED_SESSION_WARNING, fallback_key=session_key
        )
        # Semantic Kernel reads the description off the function, of which every plugin has one
        vars(self)["execute_code"] = _copy_with_description(
            self.execute_code, tool.build_description(options, interpreter)
        )

    @kernel_function(name=tool.NAME, description=tool.DESCRIPTION)
    async def execute_code(
        self,
        code: Annotated[str, tool.CODE_DESCRIPTION],
        session_id: Annotated[
            str | None, "The conversation.", {"include_in_function_choices": False}
        ] = None,
    ) -> tool.ToolReply:
        """Run code for the model.

        Returns:
            A reply whose text the model reads, and whose `execution` stays in
            `FunctionResultContent.result` for filters and `on_intermediate_message`.
        """
        return await tool.call(
            self._interpreter,
            code,
            session_key=session_id or self._key_resolver.resolve(),
            on_output=self._on_output,
            options=self._options,
        )


def _copy_with_description(
    method: Callable[..., Awaitable[tool.ToolReply]], description: str
) -> Callable[..., Awaitable[tool.ToolReply]]:
    """The method as a function of its own, with another description."""

    async def execute_code(code: str, session_id: str | None = None) -> tool.ToolReply:
        return await method(code, session_id)

    vars(execute_code).update(vars(method), __kernel_function_description__=description)
    return execute_code


def images_as_user_messages(service: Service) -> Service:
    """Make a chat service show the images of `execute_code` in a message of the user.

    Results of functions are text only in Semantic Kernel's requests, so the model would not see a
    chart. Only the requests of this service object are changed, never the chat history; a history
    that was stored and read back has no images any more.

    Args:
        service: Such as an `OpenAIChatCompletion` of yours.

    Returns:
        The same service.

    Example:
        ```python
        from semantic_kernel.connectors.ai.open_ai import OpenAIChatCompletion

        service = OpenAIChatCompletion(ai_model_id="gpt-4.1-mini")
        kernel.add_service(images_as_user_messages(service))
        ```
    """
    if _PREPARE in vars(service):
        return service
    prepare: Prepare = service._prepare_chat_history_for_request  # noqa: SLF001 - made to be overridden

    def prepare_with_images(chat_history: ChatHistory, *args: Any, **options: Any) -> Any:
        history = ChatHistory(messages=list(_move_images_to_user(chat_history.messages)))
        return prepare(history, *args, **options)

    vars(service)[_PREPARE] = prepare_with_images
    return service


def _move_images_to_user(messages: Sequence[ChatMessageContent]) -> Iterator[ChatMessageContent]:
    """Messages with their images behind the last result of each turn, as the APIs want it."""
    images: list[ImageContent | TextContent] = []
    for message in messages:
        if images and message.role != AuthorRole.TOOL:
            yield _build_image_message(images)
            images = []
        images += _iter_images(message)
        yield message
    if images:
        yield _build_image_message(images)


def _build_image_message(images: list[ImageContent | TextContent]) -> ChatMessageContent:
    introduction = TextContent(text=_INTRODUCTION)
    return ChatMessageContent(role=AuthorRole.USER, items=[introduction, *images])


def _iter_images(message: ChatMessageContent) -> Iterator[ImageContent | TextContent]:
    for item in message.items:
        if not isinstance(item, FunctionResultContent) or not _is_tool_reply(item):
            continue
        found, missing = select_images(item.result.execution, ImageLimits())
        for image in found:
            yield ImageContent(data=image.data, data_format="base64", mime_type=image.media_type)
        if missing:
            yield TextContent(text=format_omitted(missing))


def _is_tool_reply(item: FunctionResultContent) -> bool:
    return isinstance(item.result, tool.ToolReply)

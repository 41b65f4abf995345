"""Adapter for Semantic Kernel: a plugin for a kernel or a `ChatCompletionAgent`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterator, Sequence
from copy import copy
from dataclasses import replace
from enum import StrEnum
from typing import Annotated, Any, Self, TypeAlias, TypeVar

from semantic_kernel import Kernel
from semantic_kernel.connectors.ai.chat_completion_client_base import ChatCompletionClientBase
from semantic_kernel.connectors.ai.prompt_execution_settings import PromptExecutionSettings
from semantic_kernel.contents import (
    AuthorRole,
    ChatHistory,
    ChatMessageContent,
    FunctionCallContent,
    FunctionResultContent,
    ImageContent,
    TextContent,
)
from semantic_kernel.filters import (
    AutoFunctionInvocationContext,
    FunctionInvocationContext,
    PromptRenderContext,
)
from semantic_kernel.functions import (
    FunctionResult,
    KernelArguments,
    KernelFunction,
    kernel_function,
)

from cci_plugins.core.conversation import SessionKey
from cci_plugins.core.host_tools import HostTool, ToolApprover
from cci_plugins.core.interpreter import AnyInterpreter
from cci_plugins.pools.base import OutputHandler
from cci_plugins.tools import check_run, execute_code, install_packages
from cci_plugins.tools.execute_code import SessionKeyResolver, ToolReply
from cci_plugins.tools.host_tools import check_host_tools, mark_approval
from cci_plugins.tools.images import INTRODUCTION, move_images_to_user, select_images
from cci_plugins.tools.options import ToolOptions, get_wait

from .host_functions import (
    FunctionCalls,
    HostFunctionInput,
    bind_call,
    build_host_tool,
    to_functions,
)

__all__ = ["CodeInterpreterPlugin", "images_as_user_messages"]

Service = TypeVar("Service", bound=ChatCompletionClientBase)
Value = TypeVar("Value")
Prepare = Callable[..., Any]
Hidden: TypeAlias = Annotated[Value, "Not for the model.", {"include_in_function_choices": False}]
Code: TypeAlias = Annotated[str, execute_code.CODE_DESCRIPTION]

_PREPARE = "_prepare_chat_history_for_request"
_SHARED_SESSION_WARNING = (
    "no conversation was named, so all calls of this plugin share one session; "
    "use `interpreter.use_session(thread.id)`"
)


def _complete_contexts() -> None:
    """Resolve the types in Semantic Kernel's contexts while only one thread can do it.

    Semantic Kernel does so in the first call of a function. Where two threads make their first
    calls together, one reads a context that the other has taken apart, and Semantic Kernel gives
    the model an error for code that has run (Semantic Kernel 1.45, pydantic 2.13).
    """
    types = (
        ChatHistory,
        FunctionCallContent,
        FunctionResult,
        Kernel,
        KernelArguments,
        KernelFunction,
        PromptExecutionSettings,
    )
    names = {each.__name__: each for each in types}
    for context in (AutoFunctionInvocationContext, FunctionInvocationContext, PromptRenderContext):
        context.model_rebuild(_types_namespace=names)


_complete_contexts()


class _Action(StrEnum):
    """What `check_run` does. Semantic Kernel shows the values of an enumeration only."""

    WAIT = "wait"
    LOOK = "look"
    STOP = "stop"


class CodeInterpreterPlugin:
    """The function `execute_code` for the model, and with `ToolOptions.wait` also `check_run`.

    With `ToolOptions.install_packages`, it has the function of that name too.

    Semantic Kernel does not pass a thread id to a plugin, so your application names the
    conversation. Either call `interpreter.use_session(thread.id)` around the call, or pass the
    argument `session_id`, which the model does not see (`KernelArguments(session_id=thread.id)`).
    Without either, all calls of this plugin object share one session. One warning reports it,
    unless `session_key` names that session.

    Args:
        interpreter: Where to run. None means `CodeInterpreter.from_env()`.
        options: Options for the tool's description and the size of its output.
        on_output: Called with each chunk of output while the code runs, in the context of the
            call.
        session_key: The conversation of calls that name none. You need it for Semantic Kernel's
            orchestrations, whose runtime calls agents outside the context of `use_session`.
        functions: Kernel functions that the code may call, or whole plugins. For the code,
            `kernel.plugins["orders"]["search"]` is `tools.orders_search(...)`. The kernel runs
            them, with its filters.
        needs_approval: Names of those functions that `approve_tool` must allow, as the code
            writes them.
        approve_tool: Asked before a call of such a function, while the code waits.

    Example:
        ```python
        kernel.add_plugin(CodeInterpreterPlugin(), "code_interpreter")
        ```
    """

    def __init__(
        self,
        interpreter: AnyInterpreter | None = None,
        *,
        options: ToolOptions = execute_code.DEFAULT_OPTIONS,
        on_output: OutputHandler | None = None,
        session_key: SessionKey | None = None,
        functions: Sequence[HostFunctionInput] = (),
        needs_approval: Collection[str] = (),
        approve_tool: ToolApprover | None = None,
    ) -> None:
        self._interpreter = interpreter
        self._options = options
        self._on_output = on_output
        self._key_resolver = SessionKeyResolver(
            "semantic-kernel", _SHARED_SESSION_WARNING, fallback_key=session_key
        )
        self._functions = to_functions(functions)
        self._host_tools = mark_approval(
            [build_host_tool(one) for one in self._functions], needs_approval
        )
        self._approve_tool = approve_tool
        check_host_tools(self._host_tools, approve_tool, interpreter)
        execute_code.check_options(options, interpreter)
        # Semantic Kernel reads the description from the function, so each plugin needs its own
        method = self._execute_in_kernel if self._functions else self.execute_code
        vars(self)["execute_code"] = _copy_with_description(
            method, execute_code.build_description(options, interpreter, self._host_tools)
        )
        if (wait := get_wait(options)) is not None:
            description = check_run.build_description(wait)
            vars(self)["check_run"] = _build_check_function(self._check_run, description)
        if options.install_packages:
            vars(self)["install_packages"] = _build_install_function(self._install_packages)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Return a plugin with the same interpreter, sessions and functions."""
        return copy(self)

    @kernel_function(name=execute_code.NAME, description=execute_code.DESCRIPTION)
    async def _execute_in_kernel(
        self,
        code: Code,
        session_id: Hidden[str | None] = None,
        kernel: Hidden[Kernel | None] = None,
        arguments: Hidden[KernelArguments | None] = None,
    ) -> ToolReply:
        """Run code that may call functions. Semantic Kernel passes the kernel and arguments."""
        calls = FunctionCalls(kernel, arguments)
        tools = [
            replace(known, call=bind_call(one, calls))
            for one, known in zip(self._functions, self._host_tools, strict=True)
        ]
        return await self._call(code, session_id, tools)

    @kernel_function(name=execute_code.NAME, description=execute_code.DESCRIPTION)
    async def execute_code(
        self,
        code: Code,
        session_id: Annotated[
            str | None, "The conversation.", {"include_in_function_choices": False}
        ] = None,
    ) -> ToolReply:
        """Run code for the model.

        Args:
            code: What the model wrote.
            session_id: The conversation, if the application passes one. The model cannot.

        Returns:
            A reply whose text the model reads. Its `execution` stays in
            `FunctionResultContent.result` for filters and `on_intermediate_message`.
        """
        return await self._call(code, session_id)

    async def _check_run(self, action: str, session_id: str | None) -> ToolReply:
        return await check_run.call(
            self._interpreter,
            action,
            session_key=self._key_resolver.resolve(explicit_key=session_id),
            options=self._options,
        )

    async def _install_packages(self, packages: list[str], session_id: str | None) -> ToolReply:
        key = self._key_resolver.resolve(explicit_key=session_id)
        return await install_packages.call(self._interpreter, packages, session_key=key)

    async def _call(
        self, code: str, session_id: str | None, tools: Sequence[HostTool] = ()
    ) -> ToolReply:
        return await execute_code.call(
            self._interpreter,
            code,
            session_key=self._key_resolver.resolve(explicit_key=session_id),
            on_output=self._on_output,
            options=self._options,
            tools=tools,
            approve_tool=self._approve_tool,
        )


def _copy_with_description(
    method: Callable[..., Awaitable[ToolReply]], description: str
) -> Callable[..., Awaitable[ToolReply]]:
    """Return a function that calls the method and has another description."""

    async def execute_code(code: str, session_id: str | None = None, **injected: Any) -> ToolReply:
        return await method(code, session_id, **injected)

    vars(execute_code).update(vars(method), __kernel_function_description__=description)
    return execute_code


def _build_check_function(
    method: Callable[[str, str | None], Awaitable[ToolReply]], description: str
) -> Callable[..., Awaitable[ToolReply]]:
    """Return the kernel function `check_run`. As a method, each plugin would have it."""

    @kernel_function(name=check_run.NAME, description=description)
    async def check(
        action: Annotated[_Action, check_run.ACTION_DESCRIPTION],
        session_id: Hidden[str | None] = None,
    ) -> ToolReply:
        return await method(action, session_id)

    function: Callable[..., Awaitable[ToolReply]] = check
    return function


def _build_install_function(
    method: Callable[[list[str], str | None], Awaitable[ToolReply]],
) -> Callable[..., Awaitable[ToolReply]]:
    """Return the kernel function `install_packages`. As a method, each plugin would have it."""

    @kernel_function(name=install_packages.NAME, description=install_packages.DESCRIPTION)
    async def install(
        packages: Annotated[list[str], install_packages.PACKAGES_DESCRIPTION],
        session_id: Hidden[str | None] = None,
    ) -> ToolReply:
        return await method(packages, session_id)

    function: Callable[..., Awaitable[ToolReply]] = install
    return function


def images_as_user_messages(service: Service) -> Service:
    """Make a chat service send the images of `execute_code` in a message of the user.

    Function results are text in Semantic Kernel's requests, so the model would not see a chart.
    Only the requests of this service object are changed, never the chat history. A history that
    was stored and read back has lost its images.

    Args:
        service: A chat service, such as an `OpenAIChatCompletion`.

    Returns:
        The same service.

    Example:
        ```python
        from semantic_kernel.connectors.ai.open_ai import OpenAIChatCompletion

        service = OpenAIChatCompletion(ai_model_id="gpt-5.6-luna")
        kernel.add_service(images_as_user_messages(service))
        ```
    """
    if _PREPARE in vars(service):
        return service
    prepare: Prepare = service._prepare_chat_history_for_request  # noqa: SLF001 - made to be overridden

    def prepare_with_images(chat_history: ChatHistory, *args: Any, **options: Any) -> Any:
        moved = move_images_to_user(
            chat_history.messages,
            is_result=lambda message: message.role == AuthorRole.TOOL,
            split_images=lambda message: (message, list(_iter_images(message))),
            build_message=_build_image_message,
        )
        return prepare(ChatHistory(messages=list(moved)), *args, **options)

    vars(service)[_PREPARE] = prepare_with_images
    return service


def _build_image_message(images: list[ImageContent | TextContent]) -> ChatMessageContent:
    introduction = TextContent(text=INTRODUCTION)
    return ChatMessageContent(role=AuthorRole.USER, items=[introduction, *images])


def _iter_images(message: ChatMessageContent) -> Iterator[ImageContent | TextContent]:
    for item in message.items:
        if not isinstance(item, FunctionResultContent) or not isinstance(item.result, ToolReply):
            continue
        images, note = select_images(item.result.execution)
        for image in images:
            yield ImageContent(data=image.data, data_format="base64", mime_type=image.media_type)
        if note:
            yield TextContent(text=note)

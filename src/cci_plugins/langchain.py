"""LangChain and LangGraph: a tool for `create_agent`, `ToolNode` or `bind_tools`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextvars import ContextVar
from importlib import import_module
from secrets import token_hex
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, Field, PrivateAttr
from typing_extensions import override

from . import portal, tool
from .errors import ConfigurationError
from .interpreter import CodeInterpreter
from .models import Execution, OutputEvent
from .pools.base import OutputHandler
from .sessions import current_key

try:
    from langchain_core.messages import ToolMessage
    from langchain_core.runnables import RunnableConfig
    from langchain_core.tools import ArgsSchema, BaseTool
except ModuleNotFoundError as missing:
    raise ConfigurationError(
        f"the LangChain tool needs {missing.name}", hint='pip install "cci-plugins[langchain]"'
    ) from missing

if TYPE_CHECKING:
    from .langchain_toolkit import CodeInterpreterToolkit

__all__ = ["CodeInterpreterTool", "CodeInterpreterToolkit"]

_call_id: ContextVar[str | None] = ContextVar("cci_tool_call_id", default=None)


class CodeInput(BaseModel):
    """What a model may pass, and nothing else."""

    model_config = {"extra": "forbid"}

    code: str = Field(description=tool.CODE_DESCRIPTION)


class CodeInterpreterTool(BaseTool):
    """Runs Python; the conversation is LangGraph's `thread_id`.

    The message to the model is text within the budget of `Limits.output_characters`; its
    `artifact` is the whole `Execution`, its `status` is `error` when the code failed. Output is
    streamed while the code runs to LangGraph's stream modes `custom` and `tools`, as
    `{"tool": "execute_code", "stream": "stdout", "text": ...}`.

    Attributes:
        interpreter: Where to run; `CodeInterpreter.from_env()` when None.

    Example:
        ```python
        from langchain.agents import create_agent

        agent = create_agent(model, tools=[CodeInterpreterTool()])
        ```
    """

    name: str = tool.NAME
    description: str = tool.DESCRIPTION
    args_schema: ArgsSchema | None = CodeInput
    response_format: Literal["content", "content_and_artifact"] = "content_and_artifact"
    interpreter: CodeInterpreter | None = Field(default=None, exclude=True, repr=False)

    _own_key: str = PrivateAttr(default_factory=lambda: f"langchain-{token_hex(8)}")

    @override
    def run(self, *args: Any, tool_call_id: str | None = None, **kwargs: Any) -> Any:
        with _remembering(tool_call_id):
            return super().run(*args, tool_call_id=tool_call_id, **kwargs)

    @override
    async def arun(self, *args: Any, tool_call_id: str | None = None, **kwargs: Any) -> Any:
        with _remembering(tool_call_id):
            return await super().arun(*args, tool_call_id=tool_call_id, **kwargs)

    @override
    def _run(self, code: str, config: RunnableConfig) -> tuple[str | ToolMessage, Execution]:
        return self._dress(portal.wait(self._call, code, config, _graph_stream(config)))

    @override
    async def _arun(self, code: str, config: RunnableConfig) -> tuple[str | ToolMessage, Execution]:
        return self._dress(await self._call(code, config, _graph_stream(config)))

    async def _call(
        self, code: str, config: RunnableConfig, on_output: OutputHandler | None
    ) -> tool.ToolReply:
        key = self._key(config)
        return await tool.call(self.interpreter, code, session_key=key, on_output=on_output)

    def _key(self, config: RunnableConfig) -> str:
        """The conversation: the graph's thread, else `use_session`, else this tool object."""
        thread = (config.get("configurable") or {}).get("thread_id")
        return str(thread) if thread else current_key.get() or self._own_key

    def _dress(self, reply: tool.ToolReply) -> tuple[str | ToolMessage, Execution]:
        """Text and artifact; a failure as a message, the only way to keep both and a status."""
        call_id = _call_id.get()
        if not reply.failed or call_id is None:
            return reply.text, reply.execution
        message = ToolMessage(
            reply.text,
            artifact=reply.execution,
            name=self.name,
            status="error",
            tool_call_id=call_id,
        )
        return message, reply.execution


class _remembering:  # noqa: N801 - reads as a verb in a with statement
    """Keeps the id of the call for `_dress`; LangChain passes it no further than `run`."""

    def __init__(self, call_id: str | None) -> None:
        self._call_id = call_id

    def __enter__(self) -> None:
        self._token = _call_id.set(self._call_id)

    def __exit__(self, *_: object) -> None:
        _call_id.reset(self._token)


def _graph_stream(config: RunnableConfig) -> OutputHandler | None:
    """Where a graph listens, when the tool runs inside one: stream modes `custom` and `tools`."""
    if "langgraph" not in sys.modules:
        return None
    from langgraph.config import get_stream_writer

    try:
        write = get_stream_writer()
    except (KeyError, RuntimeError):
        return None
    emit_delta = _emit_delta(config, write)

    def tell(event: OutputEvent) -> None:
        if event.stream != "result":
            chunk = {"tool": tool.NAME, "stream": event.stream, "text": event.text}
            write(chunk)
            emit_delta(chunk)

    return tell


def _emit_delta(config: RunnableConfig, write: Callable[[Any], None]) -> Callable[[Any], None]:
    """The stream mode `tools`, which LangGraph has since 1.2; elsewhere nothing happens."""
    if "langgraph.prebuilt" not in sys.modules:
        return _ignore
    from langgraph.prebuilt import ToolRuntime

    if not hasattr(ToolRuntime, "emit_output_delta"):
        return _ignore
    call_id = _call_id.get()
    return ToolRuntime(None, None, config, write, call_id, None).emit_output_delta


def _ignore(_: object) -> None:
    """Take a chunk that nobody listens to."""


def __getattr__(name: str) -> Any:
    """The toolkit, which is made of this module's tool and more."""
    if name != "CodeInterpreterToolkit":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(".langchain_toolkit", __package__), name)

"""The toolkit for LangChain: `execute_code` and tools for the session's files."""

from __future__ import annotations

from typing import Any, Literal

from langchain_core.runnables import RunnableConfig
from langchain_core.tools import ArgsSchema, BaseTool, BaseToolkit, ToolException
from pydantic import BaseModel, ConfigDict, Field
from typing_extensions import override

from cci_plugins.common import event_loop
from cci_plugins.core.conversation import SessionKey
from cci_plugins.core.host_tools import ToolApprover
from cci_plugins.core.interpreter import AnyInterpreter
from cci_plugins.models import FileInfo
from cci_plugins.tools import execute_code, files
from cci_plugins.tools.options import ToolOptions

from .host_tools import HostTools, ToolNames
from .tool import CodeInterpreterTool, create_fallback_key, resolve_key

__all__ = ["CodeInterpreterToolkit", "ListFilesTool", "ReadFileTool"]

ToolOutput = tuple[str, tuple[FileInfo, ...]]


class ListInput(BaseModel):
    """The arguments of `list_files`: none."""

    model_config = ConfigDict(extra="forbid")


class ReadInput(BaseModel):
    """The arguments of `read_file`."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(description=files.FILE_DESCRIPTION)
    offset: int = Field(default=0, ge=0, description=files.OFFSET_DESCRIPTION)


class _FileTool(BaseTool):
    """The base of the tools for files.

    Attributes:
        interpreter: Holds the sessions. None means `CodeInterpreter.from_env()`.
        session_key: The conversation of calls that belong to no thread. Random by default.
    """

    response_format: Literal["content", "content_and_artifact"] = "content_and_artifact"
    handle_tool_error: Any = True
    interpreter: AnyInterpreter | None = Field(default=None, exclude=True, repr=False)
    session_key: SessionKey = Field(default_factory=create_fallback_key, exclude=True, repr=False)

    def _to_tool_output(self, reply: files.FilesReply) -> ToolOutput:
        if reply.failed:
            raise ToolException(reply.text)
        return reply.text, reply.files


class ListFilesTool(_FileTool):
    """Lists the session's files. The artifact is a tuple of `FileInfo`."""

    name: str = files.LIST_NAME
    description: str = files.LIST_DESCRIPTION
    args_schema: ArgsSchema | None = ListInput

    @override
    def _run(self, config: RunnableConfig) -> ToolOutput:
        return self._to_tool_output(event_loop.run_blocking(self._call, config))

    @override
    async def _arun(self, config: RunnableConfig) -> ToolOutput:
        return self._to_tool_output(await self._call(config))

    async def _call(self, config: RunnableConfig) -> files.FilesReply:
        return await files.list_files(
            self.interpreter, session_key=resolve_key(config, self.session_key)
        )


class ReadFileTool(_FileTool):
    """Reads a text file of the session within the budget. The artifact names the file."""

    name: str = files.READ_NAME
    description: str = files.READ_DESCRIPTION
    args_schema: ArgsSchema | None = ReadInput

    @override
    def _run(self, name: str, config: RunnableConfig, offset: int = 0) -> ToolOutput:
        return self._to_tool_output(event_loop.run_blocking(self._call, name, offset, config))

    @override
    async def _arun(self, name: str, config: RunnableConfig, offset: int = 0) -> ToolOutput:
        return self._to_tool_output(await self._call(name, offset, config))

    async def _call(self, name: str, offset: int, config: RunnableConfig) -> files.FilesReply:
        key = resolve_key(config, self.session_key)
        return await files.read_file(self.interpreter, name, offset=offset, session_key=key)


class CodeInterpreterToolkit(BaseToolkit):
    """The tools `execute_code`, `list_files` and `read_file`, all for the same session.

    With `ToolOptions.wait`, `check_run` is one of them, and so is `install_packages` with that
    option. The conversation is LangGraph's `thread_id`, as with `CodeInterpreterTool`. To upload
    and download, use `interpreter.session(thread_id).files`. No tool accepts a path of your
    machine.

    Attributes:
        interpreter: Where to run. None means `CodeInterpreter.from_env()`.
        images: As with `CodeInterpreterTool`.
        options: As with `CodeInterpreterTool`.
        session_key: The conversation of calls that belong to no thread. Random by default.
        tools: As with `CodeInterpreterTool`.
        needs_approval: As with `CodeInterpreterTool`.
        approve_tool: As with `CodeInterpreterTool`.

    Example:
        ```python
        tools = CodeInterpreterToolkit().get_tools()
        assert [tool.name for tool in tools] == ["execute_code", "list_files", "read_file"]
        ```
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    interpreter: AnyInterpreter | None = Field(default=None, exclude=True, repr=False)
    images: Literal["reference", "inline"] = "reference"
    options: ToolOptions = Field(default=execute_code.DEFAULT_OPTIONS, exclude=True, repr=False)
    session_key: SessionKey = Field(default_factory=create_fallback_key, exclude=True, repr=False)
    tools: HostTools = Field(default=(), exclude=True, repr=False)
    needs_approval: ToolNames = Field(default=(), exclude=True, repr=False)
    approve_tool: ToolApprover | None = Field(default=None, exclude=True, repr=False)

    @override
    def get_tools(self) -> list[BaseTool]:
        """Return the tools, for `create_agent`, `ToolNode` or `bind_tools`."""
        shared: dict[str, Any] = {
            "interpreter": self.interpreter,
            "session_key": self.session_key,
        }
        execute = CodeInterpreterTool(
            images=self.images,
            options=self.options,
            tools=self.tools,
            needs_approval=self.needs_approval,
            approve_tool=self.approve_tool,
            **shared,
        )
        checks = [] if self.options.wait is None else [execute.check_run_tool()]
        installs = [execute.install_packages_tool()] if self.options.install_packages else []
        return [execute, *checks, *installs, ListFilesTool(**shared), ReadFileTool(**shared)]

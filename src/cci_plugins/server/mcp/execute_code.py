"""The tool `execute_code` for MCP clients, in the session of their MCP session."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from cci_plugins.pools.base import OutputHandler
from cci_plugins.server.answers import find_images, sanitize_execution
from cci_plugins.tools import execute_code
from cci_plugins.tools.execute_code import ToolReply
from cci_plugins.tools.options import build_description

from .resources import to_resource_link
from .sessions import McpSessions, mcp_session_id
from .tools import LAUNCH, RUN_PYTHON, ToolCallResult

_MAX_LINKS = 20
_NO_SESSION = (
    f"{execute_code.NAME} keeps variables for an MCP session, and this request belongs to none. "
    "Either begin with initialize and send the header Mcp-Session-Id that it gives, or call "
    f"{LAUNCH} once and pass its environmentId to {RUN_PYTHON}."
)


class ToolProvider(Protocol):
    """The tools of an endpoint."""

    def list_tools(self) -> list[dict[str, Any]]:
        """Return the tools in the form of `tools/list`."""
        ...

    async def call(
        self,
        name: str,
        arguments: Mapping[str, Any],
        meta: Mapping[str, Any],
        on_output: OutputHandler | None = None,
    ) -> ToolCallResult | None:
        """Call a tool. Return None if no tool has this name."""
        ...


class ExecuteCodeTools:
    """`execute_code` in front of the platform's tools, for clients that keep an MCP session.

    Args:
        platform: The tools that take an environment id.
        mcp_sessions: The session of each MCP session.
        file_links: Whether an answer links the files that its run wrote. Clients without
            resources pass a link to the model as a file, which not every model's API accepts.
    """

    def __init__(
        self, platform: ToolProvider, mcp_sessions: McpSessions, *, file_links: bool
    ) -> None:
        self._platform = platform
        self._mcp_sessions = mcp_sessions
        self._file_links = file_links

    def list_tools(self) -> list[dict[str, Any]]:
        """Return the tools in the form of `tools/list`."""
        others = self._platform.list_tools()
        return others if mcp_session_id.get() is None else [self._describe_tool(), *others]

    async def call(
        self,
        name: str,
        arguments: Mapping[str, Any],
        meta: Mapping[str, Any],
        on_output: OutputHandler | None = None,
    ) -> ToolCallResult | None:
        """Call a tool. Return None if no tool has this name."""
        if name != execute_code.NAME:
            return await self._platform.call(name, arguments, meta, on_output)
        code = arguments.get("code")
        if not isinstance(code, str):
            return _build_failure("code must be the Python source, as text.")
        session = await self._mcp_sessions.get_current_session()
        if session is None:
            return _build_failure(_NO_SESSION)
        reply = await execute_code.call_in_session(
            session,
            code,
            output_characters=self._mcp_sessions.host.limits.output_characters,
            on_output=on_output,
            sanitize=sanitize_execution,
        )
        return self._build_result(reply)

    def _describe_tool(self) -> dict[str, Any]:
        pool = self._mcp_sessions.host.pool
        return {
            "name": execute_code.NAME,
            "title": "Run Python",
            "description": build_description(
                execute_code.DESCRIPTION,
                execute_code.DEFAULT_OPTIONS,
                pool.known_packages,
                capabilities=pool.capabilities,
            ),
            "inputSchema": execute_code.PARAMETERS,
            "annotations": {"readOnlyHint": False, "destructiveHint": True, "openWorldHint": False},
        }

    def _build_result(self, reply: ToolReply) -> ToolCallResult:
        """Build text within the budget, then images. Structured content would hide the images."""
        content: list[dict[str, Any]] = [{"type": "text", "text": reply.text}]
        content += [
            {"type": "image", "data": data, "mimeType": kind}
            for kind, data in find_images(reply.execution)
        ]
        if self._file_links:
            content += [to_resource_link(file) for file in reply.execution.files[:_MAX_LINKS]]
        return ToolCallResult(content, is_error=reply.failed)


def _build_failure(message: str) -> ToolCallResult:
    return ToolCallResult([{"type": "text", "text": message}], is_error=True)

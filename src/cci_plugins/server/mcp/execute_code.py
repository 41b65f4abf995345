"""`execute_code` for MCP clients: the tool of every door, in the session of the MCP session."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from cci_plugins.common.log import logger
from cci_plugins.core.rendering import render_text
from cci_plugins.core.session import Session
from cci_plugins.errors import CodeInterpreterError
from cci_plugins.models import Execution
from cci_plugins.pools.base import OutputHandler
from cci_plugins.server.answers import find_images, sanitize_execution
from cci_plugins.tools import execute_code
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
    """What an endpoint lists and calls."""

    def list_tools(self) -> list[dict[str, Any]]:
        """The tools as `tools/list` tells them."""
        ...

    async def call(
        self,
        name: str,
        arguments: Mapping[str, Any],
        meta: Mapping[str, Any],
        on_output: OutputHandler | None = None,
    ) -> ToolCallResult | None:
        """Call a tool; None when there is none of that name."""
        ...


class ExecuteCodeTools:
    """`execute_code` before the platform's tools, for clients that keep an MCP session.

    Args:
        platform: The tools that take an environment id.
        conversations: The session of each MCP session.
        links: Whether an answer links the files that its run wrote. Clients that know no
            resources hand a link to the model as a file, which not every model's API takes.
    """

    def __init__(
        self, platform: ToolProvider, mcp_sessions: McpSessions, *, file_links: bool
    ) -> None:
        self._platform = platform
        self._mcp_sessions = mcp_sessions
        self._file_links = file_links

    def list_tools(self) -> list[dict[str, Any]]:
        """The tools as `tools/list` tells them."""
        others = self._platform.list_tools()
        return others if mcp_session_id.get() is None else [self._describe_tool(), *others]

    async def call(
        self,
        name: str,
        arguments: Mapping[str, Any],
        meta: Mapping[str, Any],
        on_output: OutputHandler | None = None,
    ) -> ToolCallResult | None:
        """Call a tool; None when there is none of that name."""
        if name != execute_code.NAME:
            return await self._platform.call(name, arguments, meta, on_output)
        code = arguments.get("code")
        if not isinstance(code, str):
            return _build_failure("code must be the Python source, as text.")
        session = await self._mcp_sessions.get_current_session()
        if session is None:
            return _build_failure(_NO_SESSION)
        return await self._run(session, execute_code.strip_fence(code), on_output)

    async def _run(
        self, session: Session, code: str, on_output: OutputHandler | None
    ) -> ToolCallResult:
        try:
            execution = await session._run_on_loop(code, None, on_output)
        except CodeInterpreterError as error:
            logger.warning("execute_code failed: %s: %s", type(error).__name__, error)
            return _build_failure(execute_code.format_failure(error))
        except Exception as error:  # noqa: BLE001 - a fault of ours must not break the protocol
            logger.exception("execute_code failed unexpectedly")
            return _build_failure(execute_code.format_failure(error))
        return self._build_result(sanitize_execution(execution))

    def _describe_tool(self) -> dict[str, Any]:
        known = self._mcp_sessions.known_packages
        return {
            "name": execute_code.NAME,
            "title": "Run Python",
            "description": build_description(
                execute_code.DESCRIPTION,
                execute_code.DEFAULT_OPTIONS,
                known,
                capabilities=self._mcp_sessions.capabilities,
            ),
            "inputSchema": execute_code.PARAMETERS,
            "annotations": {"readOnlyHint": False, "destructiveHint": True, "openWorldHint": False},
        }

    def _build_result(self, execution: Execution) -> ToolCallResult:
        """Text within the model's budget, then images; nothing structured, see `mcp_tools`."""
        text = render_text(execution, self._mcp_sessions.limits.output_characters)
        content: list[dict[str, Any]] = [{"type": "text", "text": text}]
        content += [
            {"type": "image", "data": data, "mimeType": kind}
            for kind, data in find_images(execution)
        ]
        if self._file_links:
            content += [to_resource_link(file) for file in execution.files[:_MAX_LINKS]]
        return ToolCallResult(content, is_error=execution.error is not None)


def _build_failure(message: str) -> ToolCallResult:
    return ToolCallResult([{"type": "text", "text": message}], is_error=True)

"""The tool of a Foundry agent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from azure.ai.projects.models import MCPTool, MCPToolFilter, MCPToolRequireApproval

from cci_plugins.common.settings import Settings
from cci_plugins.errors import ConfigurationError

from .connections import Connection
from .tool_names import CHECK_RUN, INSTRUCTIONS, LABEL, TOOLS, add_launch_names, runs_no_code

# Foundry reads the address from the connection, but requires one here.
_PLACEHOLDER = "https://localhost"

__all__ = ["INSTRUCTIONS", "code_interpreter_tool"]


def code_interpreter_tool(
    connection: Connection | str | None = None,
    *,
    endpoint: str | None = None,
    label: str = LABEL,
    allowed_tools: Sequence[str] = TOOLS,
    check_runs: bool = False,
    require_approval: Literal["always", "never"] = "never",
) -> MCPTool:
    """Build the tool for an agent's definition, in the type of `azure-ai-projects`.

    Args:
        connection: The connection that `connect` returned, or its id. MCP_PROJECT_CONNECTION_ID
            when None.
        endpoint: The MCP endpoint. Foundry gets it in addition to the connection.
        label: Name of the server in the agent's replies.
        allowed_tools: Tools that the model may call. The shell tool must be named to be allowed.
            One name of the launch tool allows it under its other names too.
        check_runs: Allow `check_run` too, which a gateway offers with `cci serve --wait`. Foundry
            ends a call after 100 seconds, and the run then goes on.
        require_approval: `always` asks before code runs. Launching an environment and checking a
            run run no code, so they never need approval.

    Raises:
        ConfigurationError: No connection is named.

    Example:
        ```python
        tool = code_interpreter_tool("/subscriptions/.../connections/code-interpreter")
        assert "runPythonCodeInRemoteEnvironment" in tool.allowed_tools
        ```
    """
    if isinstance(connection, Connection):
        endpoint = endpoint or connection.endpoint
        connection_id: str | None = connection.id
    else:
        connection_id = connection or Settings.read(check=False).foundry_connection
    if connection_id is None:
        raise ConfigurationError(
            "MCP_PROJECT_CONNECTION_ID is not set", hint="run: cci foundry connect"
        )
    tools = add_launch_names([*allowed_tools, *([CHECK_RUN] if check_runs else [])])
    return MCPTool(
        server_label=label,
        server_url=endpoint or _PLACEHOLDER,
        project_connection_id=connection_id,
        allowed_tools=tools,
        require_approval=_build_approval(tools) if require_approval == "always" else "never",
    )


def _build_approval(tools: Sequence[str]) -> MCPToolRequireApproval:
    free_tools = [name for name in tools if runs_no_code(name)]
    return MCPToolRequireApproval(
        always=MCPToolFilter(tool_names=[name for name in tools if name not in free_tools]),
        never=MCPToolFilter(tool_names=free_tools),
    )

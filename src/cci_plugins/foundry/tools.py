"""The tool of a Foundry agent, and the instructions for its model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from azure.ai.projects.models import MCPTool, MCPToolFilter, MCPToolRequireApproval

from cci_plugins.common.settings import Settings
from cci_plugins.errors import ConfigurationError

from .connections import Connection

LABEL = "code_interpreter"
LAUNCH = "launchShell"
# Pools have called it by each of these names. A name that a pool does not have does no harm.
LAUNCH_NAMES = (LAUNCH, "launchShellEnvironment", "launchPythonEnvironment")
RUN_PYTHON = "runPythonCodeInRemoteEnvironment"
RUN_SHELL = "runShellCommandInRemoteEnvironment"
TOOLS = (LAUNCH, RUN_PYTHON)
# Foundry reads the address from the connection, but requires one here.
_PLACEHOLDER = "https://localhost"

INSTRUCTIONS = f"""\
You can run Python. Compute with it whatever can be computed; never guess a result.

1. Call {LAUNCH} once, before anything else, and keep the environmentId that it gives. If the \
user names an environmentId, use that one and do not call {LAUNCH}.
2. Run code with {RUN_PYTHON}, always with that same environmentId: variables, imports and files \
are kept between calls. Another id is another, empty environment.
3. pythonCode is plain Python source, without Markdown fences. Only what the code prints comes \
back, and long output is cut, so print() the few lines that you need.
4. Files of the user are in /mnt/data. Save every file for the user there, under a plain name: \
charts with matplotlib's savefig, since plt.show() shows nothing.
5. Never print files, images or base64. Tell the user the names of the files that you saved; \
their application fetches them. Give no sandbox: links.
6. A call must end within 100 seconds. Nobody can answer input().
7. If the code fails, read the traceback, correct the code and run it again. If an environment is \
no longer found, call {LAUNCH} again and repeat the earlier steps.
"""


def code_interpreter_tool(
    connection: Connection | str | None = None,
    *,
    endpoint: str | None = None,
    label: str = LABEL,
    allowed_tools: Sequence[str] = TOOLS,
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
        require_approval: `always` asks before code runs. Launching an environment runs no code,
            so it never needs approval.

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
    tools = _add_launch_names(allowed_tools)
    return MCPTool(
        server_label=label,
        server_url=endpoint or _PLACEHOLDER,
        project_connection_id=connection_id,
        allowed_tools=tools,
        require_approval=_build_approval(tools) if require_approval == "always" else "never",
    )


def _add_launch_names(tools: Sequence[str]) -> list[str]:
    launch = LAUNCH_NAMES if any(is_launch_tool(name) for name in tools) else ()
    return list(dict.fromkeys([*tools, *launch]))


def is_launch_tool(name: str) -> bool:
    """Return whether a tool only launches an environment. Its name has changed more than once."""
    return name.lower().startswith("launch")


def _build_approval(tools: Sequence[str]) -> MCPToolRequireApproval:
    launch_tools = [name for name in tools if is_launch_tool(name)]
    return MCPToolRequireApproval(
        always=MCPToolFilter(tool_names=[name for name in tools if name not in launch_tools]),
        never=MCPToolFilter(tool_names=launch_tools),
    )

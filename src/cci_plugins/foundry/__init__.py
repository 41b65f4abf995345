"""Microsoft Foundry: an agent in the cloud that runs Python in your session pool.

The agent calls the pool's MCP server itself, with the key that a connection of the Foundry
project stores. So call `connect` once, then create agents with `code_interpreter_tool()`.
"""

from cci_plugins.errors import ConfigurationError

try:
    from .agents import Agent, create_agent, delete_agent, run
    from .connections import Connection, connect, disconnect
    from .environments import Environment, open_environment
    from .project import Project
    from .replies import Annotation, DataFile, Reply, ToolCall
    from .toolboxes import Toolbox
    from .tools import INSTRUCTIONS, code_interpreter_tool
except ImportError as missing:  # missing, or too old
    if (missing.name or "").startswith("cci_plugins"):
        raise
    raise ConfigurationError(
        f"the Foundry agent needs {missing.name}", hint='pip install "cci-plugins[foundry]"'
    ) from missing

__all__ = [
    "INSTRUCTIONS",
    "Agent",
    "Annotation",
    "Connection",
    "DataFile",
    "Environment",
    "Project",
    "Reply",
    "ToolCall",
    "Toolbox",
    "code_interpreter_tool",
    "connect",
    "create_agent",
    "delete_agent",
    "disconnect",
    "open_environment",
    "run",
]

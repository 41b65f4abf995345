"""Adapter for Microsoft Agent Framework: a context provider for an agent, and the plain tool."""

from __future__ import annotations

from cci_plugins.errors import ConfigurationError

try:
    from .provider import (
        CodeInterpreterProvider,
        FileMount,
        code_interpreter_tool,
        code_interpreter_tools,
    )
except ModuleNotFoundError as missing:
    raise ConfigurationError(
        f"the Agent Framework tool needs {missing.name}",
        hint='pip install "cci-plugins[agent-framework]"',
    ) from missing

__all__ = [
    "CodeInterpreterProvider",
    "FileMount",
    "code_interpreter_tool",
    "code_interpreter_tools",
]

"""Adapter for the OpenAI Agents SDK: a function tool for an agent's `tools`."""

from __future__ import annotations

from cci_plugins.errors import ConfigurationError

try:
    from .tool import (
        ImageReply,
        TextReply,
        code_interpreter_tool,
        code_interpreter_tools,
        images_as_user_messages,
    )
except ModuleNotFoundError as missing:
    raise ConfigurationError(
        f"the OpenAI Agents tool needs {missing.name}",
        hint='pip install "cci-plugins[openai-agents]"',
    ) from missing

__all__ = [
    "ImageReply",
    "TextReply",
    "code_interpreter_tool",
    "code_interpreter_tools",
    "images_as_user_messages",
]

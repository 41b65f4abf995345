"""Adapter for Semantic Kernel: a plugin for a kernel or a `ChatCompletionAgent`."""

from __future__ import annotations

from cci_plugins.errors import ConfigurationError

try:
    from .plugin import CodeInterpreterPlugin, images_as_user_messages
except ModuleNotFoundError as missing:
    raise ConfigurationError(
        f"the Semantic Kernel plugin needs {missing.name}",
        hint='pip install "cci-plugins[semantic-kernel]"',
    ) from missing

__all__ = ["CodeInterpreterPlugin", "images_as_user_messages"]

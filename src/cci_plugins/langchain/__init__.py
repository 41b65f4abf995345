"""Adapter for LangChain and LangGraph: a tool, a toolkit and middleware."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from cci_plugins.errors import ConfigurationError

try:
    from .images import images_as_user_messages
    from .tool import CodeInterpreterTool
    from .toolkit import CodeInterpreterToolkit
except ModuleNotFoundError as missing:
    raise ConfigurationError(
        f"the LangChain tool needs {missing.name}", hint='pip install "cci-plugins[langchain]"'
    ) from missing

if TYPE_CHECKING:
    from .middleware import ImagesAsUserMessages

__all__ = [
    "CodeInterpreterTool",
    "CodeInterpreterToolkit",
    "ImagesAsUserMessages",
    "images_as_user_messages",
]


def __getattr__(name: str) -> Any:
    """Load the middleware on first use, since it needs `langchain` and not only its core."""
    if name != "ImagesAsUserMessages":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return import_module(".middleware", __name__).ImagesAsUserMessages

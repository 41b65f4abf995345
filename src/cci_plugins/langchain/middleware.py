"""Middleware for agents whose model accepts only text in tool messages."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from typing_extensions import override

from cci_plugins.errors import ConfigurationError

from .images import images_as_user_messages

try:
    from langchain.agents.middleware import AgentMiddleware, ModelRequest, ModelResponse
except ModuleNotFoundError as missing:
    raise ConfigurationError(
        f"middleware for LangChain's agents needs {missing.name}", hint="pip install langchain"
    ) from missing

__all__ = ["ImagesAsUserMessages"]


class ImagesAsUserMessages(AgentMiddleware[Any, Any, Any]):
    """Moves the images of `CodeInterpreterTool(images="inline")` into a message of the user.

    Chat Completions accept only text in tool messages. Only the request is changed. The history
    and its checkpoints stay as they are.

    Example:
        ```python
        from langchain.agents import create_agent

        from cci_plugins.langchain import CodeInterpreterTool

        agent = create_agent(
            model,
            tools=[CodeInterpreterTool(images="inline")],
            middleware=[ImagesAsUserMessages()],
        )
        ```
    """

    @override
    def wrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], ModelResponse[Any]]
    ) -> ModelResponse[Any]:
        """Move the images of one request, then call the model."""
        return handler(request.override(messages=images_as_user_messages(request.messages)))

    @override
    async def awrap_model_call(
        self,
        request: ModelRequest[Any],
        handler: Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]],
    ) -> ModelResponse[Any]:
        """Move the images of one request, then call the model."""
        return await handler(request.override(messages=images_as_user_messages(request.messages)))

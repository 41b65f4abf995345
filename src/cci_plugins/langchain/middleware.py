"""LangChain: middleware for agents whose model takes text only in tool messages."""

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
    """Shows the images of `CodeInterpreterTool(images="inline")` in a message of the user.

    Chat Completions take text only in tool messages. What is changed is the request; the history
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
        """Move the images of one request."""
        return handler(request.override(messages=images_as_user_messages(request.messages)))

    @override
    async def awrap_model_call(
        self,
        request: ModelRequest[Any],
        handler: Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]],
    ) -> ModelResponse[Any]:
        """Move the images of one request."""
        return await handler(request.override(messages=images_as_user_messages(request.messages)))

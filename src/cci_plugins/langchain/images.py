"""Images of tool messages as messages of the user, for APIs that accept only text in results."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from langchain_core.messages import AnyMessage, HumanMessage, ToolMessage

from cci_plugins.models import Execution
from cci_plugins.tools import execute_code
from cci_plugins.tools.images import INTRODUCTION, move_images_to_user

__all__ = ["images_as_user_messages"]


def images_as_user_messages(messages: Sequence[AnyMessage]) -> list[AnyMessage]:
    """Move the images of `execute_code` into a message of the user after each turn's results.

    Use it in graphs that call the model themselves. Agents have `ImagesAsUserMessages`.

    Args:
        messages: What the model is about to receive. It is not changed.
    """
    return list(
        move_images_to_user(
            messages,
            is_result=lambda message: isinstance(message, ToolMessage),
            split_images=_split_images,
            build_message=lambda images: HumanMessage(
                [{"type": "text", "text": INTRODUCTION}, *images]
            ),
        )
    )


def _split_images(message: AnyMessage) -> tuple[AnyMessage, list[Any]]:
    if not _is_own_result(message) or not isinstance(message.content, list):
        return message, []
    images = [block for block in message.content if _is_image(block)]
    rest = [block for block in message.content if not _is_image(block)]
    return message.model_copy(update={"content": rest}), images


def _is_own_result(message: AnyMessage) -> bool:
    """Check the artifact too, because an application may rename the tool."""
    return isinstance(message, ToolMessage) and (
        message.name == execute_code.NAME or isinstance(message.artifact, Execution)
    )


def _is_image(block: object) -> bool:
    return isinstance(block, dict) and block.get("type") == "image"

"""LangChain: images of tool messages as a message of the user, for APIs whose results are text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from langchain_core.messages import AnyMessage, HumanMessage, ToolMessage

from cci_plugins.models import Execution
from cci_plugins.tools import execute_code

__all__ = ["images_as_user_messages"]

_INTRODUCTION = f"[images that {execute_code.NAME} displayed]"


def images_as_user_messages(messages: Sequence[AnyMessage]) -> list[AnyMessage]:
    """Messages with the images of our tool's results behind the last result of each turn.

    For graphs that call the model themselves; agents have `ImagesAsUserMessages`.

    Args:
        messages: What the model is to be sent; it is not changed.
    """
    return list(_move_images_to_user(messages))


def _move_images_to_user(messages: Sequence[AnyMessage]) -> Iterator[AnyMessage]:
    images: list[Any] = []
    for message in messages:
        is_result = isinstance(message, ToolMessage)
        if images and not is_result:
            yield _build_image_message(images)
            images = []
        if is_result and _is_own_result(message) and isinstance(message.content, list):
            images += [block for block in message.content if _is_image(block)]
            text = [block for block in message.content if not _is_image(block)]
            yield message.model_copy(update={"content": text})
        else:
            yield message
    if images:
        yield _build_image_message(images)


def _build_image_message(images: list[Any]) -> HumanMessage:
    return HumanMessage([{"type": "text", "text": _INTRODUCTION}, *images])


def _is_own_result(message: AnyMessage) -> bool:
    """Whether our tool made it; a host may have given the tool another name."""
    artifact = getattr(message, "artifact", None)
    return message.name == execute_code.NAME or isinstance(artifact, Execution)


def _is_image(block: object) -> bool:
    return isinstance(block, dict) and block.get("type") == "image"

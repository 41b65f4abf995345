"""Images of an execution for a model: which ones may be attached, and where they go in a request.

A model sees an image in one of the ways of `ImagePolicy`. Many APIs accept only text in tool
results, so `move_images_to_user` moves images into a message of the user. It changes a request,
never the stored history. A message of the user may only follow the last result of a turn, because
the APIs require each tool call to be followed by all of its results.

The adapters convert types. Everything that they share is decided here.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, TypeVar

from cci_plugins.common.image_data import decode_image
from cci_plugins.common.limits import MIB
from cci_plugins.models import Execution, Result

from .execute_code import NAME

ImagePolicy = Literal["reference", "inline", "user_message"]
"""How a model sees a chart: named in the text, as part of the tool's result, or in a message of
the user after it, for APIs that accept only text in tool results."""

INTRODUCTION = f"[images that {NAME} displayed]"
"""The text in front of images in a message of the user."""

M = TypeVar("M")
I = TypeVar("I")  # noqa: E741 - an image part, of the framework's type


@dataclass(frozen=True, slots=True)
class Image:
    """A PNG or JPEG image that code displayed."""

    media_type: str
    data: bytes

    @property
    def base64(self) -> str:
        """The bytes as Base64."""
        return b64encode(self.data).decode()

    @property
    def data_uri(self) -> str:
        """The image as a `data:` URI."""
        return f"data:{self.media_type};base64,{self.base64}"


@dataclass(frozen=True, slots=True)
class ImageLimits:
    """Bounds of the images attached to one result.

    Attributes:
        count: Most images.
        image_bytes: Most bytes of one image.
        total_bytes: Most bytes of all images.
    """

    count: int = 20
    image_bytes: int = 5 * MIB
    total_bytes: int = 20 * MIB


DEFAULT_LIMITS = ImageLimits()


def select_images(
    execution: Execution, limits: ImageLimits = DEFAULT_LIMITS
) -> tuple[list[Image], str]:
    """Select the images to attach to a result.

    Where there are too many, the last ones are kept. Data that only claims to be an image is
    skipped, because an API would refuse the whole request, and every later one that repeats it.
    The text of the result names it.

    Args:
        execution: The run.
        limits: Bounds of the images.

    Returns:
        The images in order, and a note for the model about omitted ones, or an empty string.
    """
    found = [image for image in map(_extract_image, execution.results) if image is not None]
    chosen: list[Image] = []
    remaining_bytes = limits.total_bytes
    for image in reversed(found[-limits.count :] if limits.count else ()):
        if len(image.data) <= min(limits.image_bytes, remaining_bytes):
            chosen.append(image)
            remaining_bytes -= len(image.data)
    chosen.reverse()
    omitted = len(found) - len(chosen)
    return chosen, f"[images not attached, for their number or size: {omitted}]" if omitted else ""


def move_images_to_user(
    messages: Iterable[M],
    *,
    is_result: Callable[[M], bool],
    split_images: Callable[[M], tuple[M, list[I]]],
    build_message: Callable[[list[I]], M],
) -> Iterator[M]:
    """Yield messages with the images of tool results in a message of the user after them.

    Args:
        messages: What a model is about to receive. It is not changed.
        is_result: Returns whether a message is a tool result.
        split_images: Returns a message without its images, and these images.
        build_message: Builds a message of the user from images, after `INTRODUCTION`.
    """
    images: list[I] = []
    for message in messages:
        if images and not is_result(message):
            yield build_message(images)
            images = []
        rest, found = split_images(message)
        images += found
        yield rest
    if images:
        yield build_message(images)


def _extract_image(result: Result) -> Image | None:
    """Return the first form of a result whose bytes have the right signature."""
    for media_type in ("image/png", "image/jpeg"):
        data = decode_image(media_type, result.data.get(media_type))
        if data is not None:
            return Image(media_type, data)
    return None

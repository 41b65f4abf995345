"""The pictures of an execution that a model may be shown, bounded and checked."""

from __future__ import annotations

from base64 import b64encode
from dataclasses import dataclass
from typing import Literal

from cci_plugins.common.limits import MIB
from cci_plugins.models import Execution, Result

ImagePolicy = Literal["reference", "inline", "user_message"]
"""How a model meets a chart: named in the text, as part of the tool's result, or as a message of
the user after it, for APIs whose tool results are text only."""

_SIGNATURES = (("image/png", b"\x89PNG\r\n\x1a\n"), ("image/jpeg", b"\xff\xd8\xff"))


@dataclass(frozen=True, slots=True)
class Image:
    """A PNG or JPEG image that code displayed."""

    media_type: str
    data: bytes

    @property
    def base64(self) -> str:
        """Its bytes as Base64."""
        return b64encode(self.data).decode()

    @property
    def data_uri(self) -> str:
        """The image as a `data:` URI."""
        return f"data:{self.media_type};base64,{self.base64}"


@dataclass(frozen=True, slots=True)
class ImageLimits:
    """What may be attached to one result.

    Attributes:
        count: Images.
        image_bytes: Bytes of one image.
        total_bytes: Bytes of all of them.
    """

    count: int = 20
    image_bytes: int = 5 * MIB
    total_bytes: int = 20 * MIB


def select_images(execution: Execution, limits: ImageLimits) -> tuple[list[Image], int]:
    """The images to attach, in order, and how many had to be left out.

    What only claims to be an image is left out silently: an API would refuse the whole request,
    and every later one that repeats it.
    """
    found = [image for image in map(_extract_image, execution.results) if image is not None]
    chosen: list[Image] = []
    remaining_bytes = limits.total_bytes
    for image in found[: limits.count]:
        if len(image.data) <= min(limits.image_bytes, remaining_bytes):
            chosen.append(image)
            remaining_bytes -= len(image.data)
    return chosen, len(found) - len(chosen)


def format_omitted(count: int) -> str:
    """What a model is told of images that were not attached."""
    return f"[images not attached, for their number or size: {count}]"


def _extract_image(result: Result) -> Image | None:
    """The first form of a result that is what it says."""
    for (media_type, signature), data in zip(_SIGNATURES, (result.png, result.jpeg), strict=True):
        if data is not None and data.startswith(signature):
            return Image(media_type, data)
    return None

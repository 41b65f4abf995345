"""How images of tool results move into a message of the user, whatever the framework."""

from __future__ import annotations

from base64 import b64encode

import pytest

from cci_plugins.models import Execution, Result
from cci_plugins.tools.images import ImageLimits, move_images_to_user, select_images

PNG = b"\x89PNG\r\n\x1a\n"


def split(message: str) -> tuple[str, list[str]]:
    """Take upper-case letters for images."""
    return "".join(c for c in message if not c.isupper()), [c for c in message if c.isupper()]


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        ([], []),
        (["user", "t1"], ["user", "t1"]),
        (["user", "t1A"], ["user", "t1", "[A]"]),
        (["t1A", "t2BC", "ai"], ["t1", "t2", "[ABC]", "ai"]),
        (["t1A", "ai", "t2B"], ["t1", "[A]", "ai", "t2", "[B]"]),
        (["t1A", "t2", "ai"], ["t1", "t2", "[A]", "ai"]),
    ],
)
def test_images_follow_the_last_result_of_their_turn(
    messages: list[str], expected: list[str]
) -> None:
    moved = move_images_to_user(
        messages,
        is_result=lambda message: message.startswith("t"),
        split_images=split,
        build_message=lambda images: f"[{''.join(images)}]",
    )
    assert list(moved) == expected


@pytest.mark.parametrize(
    ("limits", "count", "omitted"),
    [
        (ImageLimits(), 3, 0),
        (ImageLimits(count=2), 2, 1),
        (ImageLimits(image_bytes=7), 0, 3),
        (ImageLimits(total_bytes=17), 2, 1),
    ],
)
def test_limits_bound_the_images_and_a_note_counts_the_omitted_ones(
    limits: ImageLimits, count: int, omitted: int
) -> None:
    png = Result({"image/png": b64encode(PNG).decode()})
    fake = Result({"image/png": b64encode(b"no image").decode()})
    images, note = select_images(Execution(results=(png, fake, png, png)), limits)
    assert [image.data for image in images] == [PNG] * count
    expected = f"[images not attached, for their number or size: {omitted}]" if omitted else ""
    assert note == expected


def test_the_last_images_are_kept() -> None:
    images = [PNG + bytes([number]) for number in range(30)]
    results = tuple(Result({"image/png": b64encode(image).decode()}) for image in images)
    chosen, note = select_images(Execution(results=results))
    assert [image.data for image in chosen] == images[-20:]
    assert note == "[images not attached, for their number or size: 10]"

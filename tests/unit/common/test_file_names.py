"""Names that stay below the session's folder, and names that do not."""

from __future__ import annotations

import pytest

from cci_plugins.common.file_names import guess_media_type, validate_name
from cci_plugins.errors import UnsafeNameError


@pytest.mark.parametrize(
    "name", ["a", "a b.csv", "sub/dir/x.png", ".hidden", "\N{SNAKE}.py", "..."]
)
def test_a_safe_name_is_unchanged(name: str) -> None:
    assert validate_name(name) == name


UNSAFE = ["", ".", "..", "/etc/passwd", "a/../b", "a//b", "a/", "a\\b", "a\0b", "a\nb", "\x7f"]
UNSAFE += ["\ud800", "x" * 256, "/".join(["x" * 200] * 6)]


@pytest.mark.parametrize("name", UNSAFE, ids=ascii)
def test_an_unsafe_name_is_refused(name: str) -> None:
    with pytest.raises(UnsafeNameError):
        validate_name(name)


def test_media_types_are_guessed_from_the_name() -> None:
    assert guess_media_type("a.png") == "image/png"
    assert guess_media_type("a") == "application/octet-stream"

"""Code of the documentation fits a narrow column, without a bar to scroll."""

from __future__ import annotations

import pytest

from .blocks import Block, blocks

WIDTH = 80


@pytest.mark.parametrize(
    "block", blocks("console", "dockerfile", "python", "sh"), ids=lambda block: block.place
)
def test_a_line_of_code_has_at_most_80_characters(block: Block) -> None:
    # What a program prints is as wide as it is.
    lines = [line for line in block.text.splitlines() if not line.lstrip().startswith("# -> ")]
    if block.kind == "console":
        lines = [line for line in lines if line.startswith("$ ")]
    assert [line for line in lines if len(line) > WIDTH] == []

"""Fenced blocks of the documentation."""

from __future__ import annotations

import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "SECURITY.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]
_BLOCK = re.compile(
    r"^(?P<indent> *)```(?P<kind>\w*)\n(?P<text>.*?)^ *```$", re.DOTALL | re.MULTILINE
)


@dataclass(frozen=True)
class Block:
    """One block: its language, its text, and its page and line."""

    kind: str
    text: str
    place: str


def blocks(*kinds: str) -> list[Block]:
    """Return every block of these languages, or of all languages."""
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for match in _BLOCK.finditer(text):
            if not kinds or match["kind"] in kinds:
                line = text.count("\n", 0, match.start()) + 1
                place = f"{page.relative_to(ROOT)}:{line}"
                found.append(Block(match["kind"], match["text"], place))
    return found


def first_of_each_page(kind: str, *whole: str) -> list[Any]:
    """Return the blocks of a language as parameters: `make test` has the first of each page.

    Args:
        kind: The language.
        *whole: Pages of which it has every block.
    """
    found, pages = [], set[str]()
    for block in blocks(kind):
        page = block.place.rpartition(":")[0]
        marks = [pytest.mark.full] if page in pages.difference(whole) else []
        found.append(pytest.param(block, id=block.place, marks=marks))
        pages.add(page)
    return found


def load_script(name: str) -> ModuleType:
    """Load a script of `docs/` as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module

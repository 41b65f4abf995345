"""The site reads well on a phone and offline: own pictures, described, from no other host."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from .blocks import PAGES, ROOT, load_script

ASSETS = ROOT / "docs" / "assets"
_PICTURE = re.compile(r"!\[([^\]]*)\]\(([^)\s]+)\)|<img[^>]*?src=\"([^\"]+)\"")


def test_the_diagrams_are_what_their_generator_draws() -> None:
    assert load_script("pictures").stale() == [], "run: python docs/pictures.py"


def test_pictures_load_nothing_from_elsewhere_and_each_has_a_licence_line() -> None:
    listed = (ASSETS / "README.md").read_text(encoding="utf-8")
    assert "MIT" in listed
    for picture in [path for path in ASSETS.iterdir() if path.suffix in {".svg", ".png"}]:
        assert f"`{picture.name}`" in listed, picture.name
        if picture.suffix == ".svg":
            text = picture.read_text(encoding="utf-8")
            ET.fromstring(text)
            assert not re.search(r"url\(\s*[\"']?http|href=\"http", text), picture.name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_each_picture_of_a_page_exists_and_has_a_description(page: Path) -> None:
    for alternative, target, raw in _PICTURE.findall(page.read_text(encoding="utf-8")):
        assert raw or alternative, target
        path = re.sub(r"^https://raw\.githubusercontent\.com/[^/]+/[^/]+/main/", "", target or raw)
        base = page.parent if path == (target or raw) else ROOT
        assert (base / path).is_file(), target


def test_every_diagram_is_shown_on_a_page() -> None:
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    assert [path.name for path in ASSETS.glob("*.svg") if path.name not in text] == []

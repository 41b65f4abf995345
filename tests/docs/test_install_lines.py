"""Install lines name a checkout, and the command line where a page types it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from .blocks import PAGES, ROOT, blocks

INSTALL = re.compile(r"^pip install .*$", re.MULTILINE)
COMMAND = re.compile(r"^(\$ )?cci ", re.MULTILINE)
TYPED = {
    block.place.rpartition(":")[0]
    for block in blocks("sh", "console")
    if COMMAND.search(block.text)
}


@pytest.mark.parametrize("page", sorted(TYPED))
def test_a_page_that_types_cci_installs_the_command_line(page: str) -> None:
    lines = INSTALL.findall((ROOT / page).read_text(encoding="utf-8"))
    assert any(re.search(r"\bcli\b|\ball\b", line) for line in lines), page


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_an_install_line_does_not_need_an_index_that_has_the_package(page: Path) -> None:
    lines = INSTALL.findall(page.read_text(encoding="utf-8"))
    assert [line for line in lines if "cci-plugins" in line] == []

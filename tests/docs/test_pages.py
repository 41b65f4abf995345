"""Links, lists and generated parts of the pages agree with the code."""

from __future__ import annotations

import json
import re
from typing import get_args

import pytest

from cci_plugins.cli.client_install import ClientName
from cci_plugins.cli.client_setup import (
    Endpoint,
    build_stdio_server,
    format_stdio_config,
    format_vscode_config,
)
from cci_plugins.doctor import CHECKS

from .blocks import PAGES, ROOT, load_script

README = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
_LINK = re.compile(r"\]\((?!https?:|#)([^)#]+)(#[^)]*)?\)")


def test_generated_pages_are_fresh() -> None:
    assert load_script("generate").stale() == [], "run: python docs/generate.py"


def test_the_readme_installs_by_line_12_and_shows_a_result_by_line_20() -> None:
    assert any("pip install" in line for line in README[:12])
    assert any(line.strip().startswith("# -> ") for line in README[:20])
    assert len(README) < 150


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_pages_point_to_existing_files(page: object) -> None:
    for target, _ in _LINK.findall(page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


def test_the_vscode_setup_in_the_guide_is_what_serve_prints() -> None:
    guide = (ROOT / "docs" / "guides" / "mcp.md").read_text(encoding="utf-8")
    block = guide.split("```json\n")[2].split("```")[0]
    printed = format_vscode_config(Endpoint("http://127.0.0.1:8765/mcp", "key", "bwrap"))
    assert json.loads(block) == json.loads(printed)


def test_the_claude_setup_in_the_guide_is_what_mcp_prints(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", "/path/to/python")
    guide = (ROOT / "docs" / "guides" / "mcp.md").read_text(encoding="utf-8")
    block = guide.split("```json\n")[1].split("```")[0]
    server = build_stdio_server("claude", isolation=None, file_links=False)
    printed = format_stdio_config("claude", server)
    assert json.loads(block) == json.loads(printed)


@pytest.mark.parametrize("client", get_args(ClientName))
def test_the_page_of_each_client_shows_its_configuration(
    monkeypatch: pytest.MonkeyPatch, client: ClientName
) -> None:
    monkeypatch.setattr("sys.executable", "/path/to/python")
    page = (ROOT / "docs" / "guides" / f"mcp-{client}.md").read_text(encoding="utf-8")
    block = page.split("```json\n")[1].split("```")[0]
    server = build_stdio_server(client, isolation=None, file_links=False)
    assert json.loads(block) == json.loads(format_stdio_config(client, server))
    assert f"cci mcp --install {client}" in page


def test_the_guide_of_the_doctor_names_every_check_in_order() -> None:
    text = (ROOT / "docs/guides/doctor.md").read_text(encoding="utf-8")
    assert tuple(re.findall(r"^\| `([\w.-]+\.[\w.-]+)` \|", text, re.MULTILINE)) == CHECKS


def test_every_page_is_in_the_navigation() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    pages = (ROOT / "docs").rglob("*.md")
    missing = [str(page.relative_to(ROOT / "docs")) for page in pages]
    assert [name for name in missing if name not in navigation] == []

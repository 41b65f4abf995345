"""Tests of the options that `cci serve` passes to the server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("cci_plugins.server")

from cci_plugins.cli import app as cli
from cci_plugins.cli import serve as serve_command

KEY = "a-key-of-the-server"


@pytest.fixture
def options(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Any]:
    """Record the options of the server instead of starting it."""
    recorded: dict[str, Any] = {}
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CCI_SERVE_KEY", KEY)
    monkeypatch.setattr(
        serve_command, "_serve_pool", lambda _, listener, **more: recorded.update(more)
    )
    return recorded


@pytest.fixture
def gateway_options(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setenv("AZURE_SESSION_POOL_ENDPOINT", "https://pool.example.com")
    monkeypatch.setenv("CCI_ACCESS_TOKEN", "token")
    return options


@pytest.mark.parametrize(
    ("arguments", "rate", "runs"),
    [((), 6_000, 600), (("--requests-per-minute", "5", "--runs-per-minute", "2"), 5, 2)],
)
def test_a_gateway_accepts_only_its_own_ids_at_any_rate(
    gateway_options: dict[str, Any], arguments: tuple[str, ...], rate: int, runs: int
) -> None:
    assert cli.start(["serve", "--pool", "custom", *arguments]) == 0
    assert not gateway_options.pop("environments").accepts_any_id
    assert gateway_options == {
        "rest": False,
        "env": {},
        "requests_per_minute": rate,
        "runs_per_minute": runs,
    }


def test_the_embedded_pool_is_served_with_every_tool(options: dict[str, Any]) -> None:
    assert cli.start(["serve", "--file-links"]) == 0
    assert options == {
        "execute_code": True,
        "file_links": True,
        "requests_per_minute": None,
        "runs_per_minute": None,
    }


def test_without_a_key_execute_code_is_off(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CCI_SERVE_KEY")
    assert cli.start(["serve", "--no-key"]) == 0
    assert options["execute_code"] is False

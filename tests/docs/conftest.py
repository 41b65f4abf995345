"""Documentation runs in an empty folder, without settings of this machine."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.startswith(("AZURE_", "MCP_")) or (
            name.startswith("CCI_") and name != "CCI_ISOLATION"
        ):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)

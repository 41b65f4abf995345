"""Fixtures that run documentation in an empty folder, without settings of this machine."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.integration._wheels import find_installers, write_wheel

from .blocks import Block

ROOT = Path(__file__).parents[2]
_TOMLI_W = """
def dumps(values):
    return "".join(f"{name} = {value}\\n" for name, value in values.items())
"""


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.startswith(("AZURE_", "MCP_", "FOUNDRY_")) or (
            name.startswith("CCI_") and name != "CCI_ISOLATION"
        ):
            monkeypatch.delenv(name)
    monkeypatch.setenv("CCI_READY_SESSIONS", "0")  # a second kernel for each block would be unused
    monkeypatch.chdir(tmp_path)


@pytest.fixture(autouse=True)
def _foundry(
    _clean: None,
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[None]:
    """Serve a fake Microsoft Foundry for the blocks that use it."""
    spec = getattr(request.node, "callspec", None)
    block = None if spec is None else spec.params.get("block")
    if isinstance(block, Block) and block.kind == "python" and "foundry" in block.text:
        from .foundry_project import foundry_project

        with foundry_project(tmp_path_factory.mktemp("foundry"), monkeypatch):
            yield
    else:
        yield


@pytest.fixture(autouse=True)
def _packages(
    _clean: None, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Let blocks that install packages take them from a folder, in place of an index."""
    spec = getattr(request.node, "callspec", None)
    block = None if spec is None else spec.params.get("block")
    if not isinstance(block, Block) or ".install(" not in block.text:
        return
    from cci_plugins.pools.local import pool

    build_source = pool.build_source
    folder = tmp_path / "index-of-the-test"
    folder.mkdir()
    write_wheel(folder, "tomli_w", "1.2.0", source=_TOMLI_W)
    monkeypatch.setattr(
        pool, "build_source", lambda python, _, *rest: build_source(python, folder, *rest)
    )
    find_installers()  # skips the block if there are none

"""Packages whose installation or removal is cancelled halfway."""

from __future__ import annotations

import asyncio
import shutil
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from cci_plugins.pools.local.packages import session_packages
from cci_plugins.pools.local.packages.folder import PackageFolder, PackageRoot
from cci_plugins.pools.local.packages.session_packages import SessionPackages

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(sys.platform == "win32", reason="there is no supervisor"),
]


class Source:
    python = Path(sys.executable)

    def check(self, specifications: object) -> object:
        return specifications


async def test_an_installation_that_is_cancelled_while_it_is_stored_is_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    root, begun, may_end = PackageRoot(), threading.Event(), threading.Event()
    add = PackageFolder.add

    async def download(*args: Any) -> Path:
        info = args[3] / "tiny-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n")
        return Path(args[3])

    async def list_installed(_: Path) -> Mapping[str, str]:
        return {}

    def add_slowly(folder: PackageFolder, source: Path) -> None:
        begun.set()
        may_end.wait(20)
        add(folder, source)

    monkeypatch.setattr(session_packages, "download", download)
    monkeypatch.setattr(session_packages, "list_installed", list_installed)
    monkeypatch.setattr(session_packages, "select_missing", lambda asked, _: asked)
    monkeypatch.setattr(PackageFolder, "add", add_slowly)
    source: Any = Source()
    await root.start(sys.executable)
    packages = SessionPackages(source, root)
    task = asyncio.create_task(packages.install(["tiny"]))
    while not begun.is_set():
        await asyncio.sleep(0.001)
    for _ in range(2):
        task.cancel()
        await asyncio.sleep(0.01)
    may_end.set()
    await asyncio.wait((task,))
    assert task.cancelled()
    assert packages.list_versions() == {"tiny": "1.0"}
    assert packages.version == 1
    await root.close()


async def test_a_root_whose_end_is_cancelled_again_and_again_is_removed() -> None:
    root = PackageRoot()
    await root.start(sys.executable)
    folder = root.create()
    guard = root._guard
    assert guard is not None
    child = await guard.get_child()
    task = asyncio.create_task(root.close())
    for _ in range(3):
        await asyncio.sleep(0)
        task.cancel()
    await asyncio.wait((task,))
    ended = child.has_ended and not folder.parent.exists()
    child.kill()
    shutil.rmtree(folder.parent, ignore_errors=True)
    assert ended

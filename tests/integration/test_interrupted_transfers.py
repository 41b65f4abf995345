"""Transfers by Blob Storage that are cancelled while the session goes on, with a real Azurite."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest

pytest.importorskip("jupyter_client")
pytest.importorskip("azure.storage.blob")
pytest.importorskip("trustme")
pytest.importorskip("mcp")

from cci_plugins import CodeInterpreter
from cci_plugins.files.file_transfer import FileOptions, transfer_locally
from cci_plugins.pools.local.pool import LocalSessionPool
from cci_plugins.server.requests import read_body, replay_body

from ._azurite import Azurite, running_azurite
from ._emulated import emulated

pytestmark = [pytest.mark.anyio, pytest.mark.slow]


@pytest.fixture(scope="module")
def azurite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Azurite]:
    with running_azurite(tmp_path_factory.mktemp("azurite")) as running:
        yield running


def measure_files(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in folder.iterdir()}


class Gate:
    """Proxy that holds the run which moves a file. Its client may leave meanwhile."""

    def __init__(self, app: Any, azurite: Azurite) -> None:
        self._app, self._azurite, self._runs = app, azurite, 0
        self.is_held, self.may_pass, self.has_ended = (asyncio.Event() for _ in range(3))

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http" or scope["path"] != "/mcp" or self.may_pass.is_set():
            await self._app(scope, receive, send)
            return
        body = await read_body(receive, 10**8) or b""
        if b'"tools/call"' in body and await anyio.to_thread.run_sync(self._azurite.blobs):
            self._runs += 1
        if self._runs != 2:  # the first one starts the child process that will move it
            await self._app(scope, replay_body(body, receive), send)
            return
        self.is_held.set()
        await self.may_pass.wait()
        await self._app(scope, replay_body(body, receive), send)
        self.has_ended.set()


async def test_a_session_that_goes_on_after_a_cancelled_download_leaves_no_blob(
    azurite: Azurite, tmp_path: Path
) -> None:
    local = LocalSessionPool(preload=(), ready_sessions=0, isolation="process")
    gates: list[Gate] = []

    def around(app: Any) -> Gate:
        gates.append(Gate(app, azurite))
        return gates[0]

    files = FileOptions(azurite.storage(), stage_from=0)
    async with (
        emulated(local, around, kind="platform") as there,
        CodeInterpreter(there.client(), files=files) as interpreter,
    ):
        session, gate = interpreter.session("a"), gates[0]
        await session.run_code("open('a.bin', 'wb').write(b'a' * 1_000_000)")
        download = asyncio.create_task(session.files.download("a.bin", to=tmp_path / "a.bin"))
        with anyio.fail_after(60):
            await gate.is_held.wait()
            assert len(azurite.blobs()) == 1
            download.cancel()
            await asyncio.wait((download,))
            while azurite.blobs():
                await anyio.sleep(0.02)
            gate.may_pass.set()
            await gate.has_ended.wait()  # the session has moved the file by then
        assert azurite.blobs() == []
        assert measure_files(tmp_path) == {}
        await session.files.download("a.bin", to=tmp_path / "a.bin")
        assert measure_files(tmp_path) == {"a.bin": 1_000_000}
    assert azurite.blobs() == []


@pytest.mark.parametrize("size", [10, 3 << 20], ids=["whole", "blocks"])
async def test_a_request_that_outlives_the_blob_does_not_create_it(
    size: int, azurite: Azurite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cci_plugins.in_session import transfer

    if size > 10:
        monkeypatch.setattr(transfer, "MAX_SINGLE_PUT", 10)
        monkeypatch.setattr(transfer, "BLOCK", 1 << 20)
    (tmp_path / "a.bin").write_bytes(b"a" * size)
    storage = azurite.storage()
    async with storage.staged(size, creates=True) as blob:
        assert blob.is_created
        link = await blob.link("cw")
        job = {
            "verb": "put",
            "url": link.reveal(),
            "ca": storage.ca,
            "path": str(tmp_path / "a.bin"),
            "replaces": True,
        }
        assert (await transfer_locally(job, lambda _: None))["size"] == size
    report = await transfer_locally(job, lambda _: None)
    assert report["kind"] == "changed"
    assert azurite.blobs() == []
    await storage.aclose()


async def test_a_cancelled_start_of_a_transfer_leaves_no_blob(azurite: Azurite) -> None:
    storage = azurite.storage()

    async def stage() -> None:
        async with storage.staged(1, creates=True):
            pass

    await stage()  # from now on the storage is connected
    for steps in (1, 2, 3, 5, 8, 13):
        task = asyncio.create_task(stage())
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait((task,))
        assert azurite.blobs() == []
    await storage.aclose()

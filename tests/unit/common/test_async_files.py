"""Files in worker threads, whose callers are cancelled."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import anyio
import pytest

from cci_plugins.common.async_files import open_file

pytestmark = pytest.mark.anyio


async def test_a_file_is_written_and_read(tmp_path: Path) -> None:
    path = tmp_path / "a"
    async with open_file(path, "xb") as file:
        await file.write(b"one ")
        await file.write(memoryview(b"two"))
    async with open_file(path, "rb") as file:
        assert [await file.read(4), await file.read(4), await file.read(4)] == [
            b"one ",
            b"two",
            b"",
        ]
    with pytest.raises(FileExistsError):
        async with open_file(path, "xb"):
            pass


async def test_a_file_of_a_cancelled_scope_is_closed(tmp_path: Path) -> None:
    with anyio.CancelScope() as scope:
        async with open_file(tmp_path / "a", "wb") as file:
            scope.cancel()
            await anyio.sleep(60)
    assert file._file.closed


async def test_a_cancelled_task_ends_after_what_its_thread_writes(
    tmp_path: Path,
) -> None:
    begun, may_end = asyncio.Event(), threading.Event()
    loop, files = asyncio.get_running_loop(), list[Any]()

    async def write() -> None:
        async with open_file(tmp_path / "a", "wb") as file:
            files.append(file._file)

            class Slow:
                def write(self, data: bytes) -> None:
                    loop.call_soon_threadsafe(begun.set)
                    may_end.wait(20)
                    files[0].write(data)

            file._file = Slow()  # type: ignore[assignment]
            await file.write(b"late")

    task = asyncio.create_task(write())
    await begun.wait()
    task.cancel()
    await asyncio.sleep(0.01)
    assert not task.done()
    may_end.set()
    await asyncio.wait((task,))
    assert task.cancelled()
    assert files[0].closed
    assert (tmp_path / "a").read_bytes() == b"late"


async def test_a_file_whose_opening_is_cancelled_is_closed(tmp_path: Path) -> None:
    opened = list[Any]()

    class Slow(type(tmp_path)):  # type: ignore[misc]
        def open(self, mode: str) -> Any:
            opened.append(super().open(mode))
            return opened[0]

    with anyio.CancelScope() as scope:
        scope.cancel()
        async with open_file(Slow(tmp_path / "a"), "wb"):
            await anyio.sleep(60)
    assert opened[0].closed

"""Saving a session and restoring it, with files in memory."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from typing_extensions import override

from cci_plugins import Checkpoint, CodeInterpreter, Execution, FileInfo, Limits
from cci_plugins.errors import (
    CheckpointError,
    CodeInterpreterError,
    ConfigurationError,
    FileTooLargeError,
    FileTransferError,
    SessionLostError,
    UnsafeNameError,
)
from cci_plugins.sync import CodeInterpreter as SyncCodeInterpreter
from cci_plugins.testing import FakeSessionPool

pytestmark = pytest.mark.anyio
FILES = {"a.csv": b"a,b\n1,2\n", "d/.hidden": b"\0\xff", "ü mit -rf $x": b"", "NUL.txt": b"1"}


async def save(interpreter: CodeInterpreter, folder: Path, key: str = "alice") -> Checkpoint:
    session = interpreter.session(key)
    for name, content in FILES.items():
        if name == "NUL.txt":  # only code can make it
            await interpreter._host.pool.upload(session.id, name, chunks(content))
        else:
            await session.files.upload(content, name=name)
    await session.run_code("x = 1")
    return await session.save(folder)


def list_names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


async def chunks(content: bytes) -> AsyncIterator[bytes]:
    yield content


async def read_all(interpreter: CodeInterpreter, key: str) -> dict[str, bytes]:
    files = interpreter.session(key).files
    return {info.name: await files.download(info.name) for info in await files.list()}


async def test_files_and_history_come_back_in_another_process_and_odd_names_are_safe(
    tmp_path: Path,
) -> None:
    async with CodeInterpreter(FakeSessionPool(Execution(stdout="one"))) as interpreter:
        checkpoint = await save(interpreter, tmp_path)
    assert [info.name for info in checkpoint.files] == sorted(FILES)
    assert checkpoint.expires_at is None
    assert list_names(tmp_path) == [checkpoint.name]
    members = {*list_names(tmp_path / checkpoint.name)}
    assert members == {
        "manifest.json",
        "notebook.ipynb",
        *(f"file-{index:06}" for index in range(len(FILES))),
    }
    manifest = json.loads((tmp_path / checkpoint.name / "manifest.json").read_text())
    assert {"format", "version", "created_at", "files", "notebook"} <= set(manifest)
    assert all({"name", "size", "sha256"} == set(row) for row in manifest["files"])
    async with CodeInterpreter(FakeSessionPool(Execution(stdout="two"))) as interpreter:
        session = interpreter.session("bob")
        await session.restore(tmp_path / checkpoint.name)
        assert await read_all(interpreter, "bob") == FILES
        execution = await session.run_code("y = 2")
        assert "restored files: NUL.txt, a.csv, d/.hidden" in execution.notes[0]
        assert "variables of earlier calls are gone" in execution.notes[0]
        cells = json.loads(session.notebook())["cells"]
        assert [cell["source"] for cell in cells] == ["x = 1", "y = 2"]
        assert [cell["id"] for cell in cells] == ["run-1", "run-2"]
        assert not (await session.run_code("z")).notes


async def test_restored_files_are_put_back_when_the_pool_loses_the_session(tmp_path: Path) -> None:
    class LosingPool(FakeSessionPool):
        @override
        async def execute(self, session_id: str, code: str, **options: object) -> Execution:  # type: ignore[override]
            if options.get("instance") == "gone":
                self._files.pop(session_id, None)
                raise SessionLostError("replaced", retryable=True)
            return await super().execute(session_id, code, **options)  # type: ignore[arg-type]

    pool = LosingPool(Execution(instance="gone"), Execution())
    async with CodeInterpreter(pool) as interpreter:
        session = interpreter.session("alice")
        await session.run_code("1")
        with pytest.raises(SessionLostError, match="the files of its code are gone"):
            await session.save(tmp_path)
        assert "replaced the session" in str((await session.run_code("2")).notes)
        checkpoint = await save(interpreter, tmp_path)
    pool = LosingPool(Execution(instance="gone"), Execution())
    async with CodeInterpreter(pool) as interpreter:
        session = interpreter.session("alice")
        await session.restore(checkpoint)
        await session.run_code("1")
        execution = await session.run_code("2")
        assert execution.state == "lost"
        assert any("uploaded again: NUL.txt, a.csv" in note for note in execution.notes)
        assert await read_all(interpreter, "alice") == FILES


async def test_a_damaged_checkpoint_is_refused_before_the_session_is_touched(
    tmp_path: Path,
) -> None:
    pool = FakeSessionPool()
    async with CodeInterpreter(pool) as interpreter:
        checkpoint = await save(interpreter, tmp_path)
        folder = tmp_path / checkpoint.name
        manifest = (folder / "manifest.json").read_text()
        changes = {
            "file-000000": [b"", b"2", b"more than it was"],
            "notebook.ipynb": [b"{}"],
            "manifest.json": [
                b"{",
                b"[]",
                manifest.replace("a.csv", "../a.csv").encode(),
                manifest.replace('"format": 1', '"format": 2').encode(),
                manifest.replace("a.csv", "NUL.txt").encode(),
                manifest.replace('"size": 8', '"size": -8').encode(),
                manifest.replace("a.csv", "other.csv").encode(),
            ],
        }
        session = interpreter.session("bob")
        for member, contents in changes.items():
            before = (folder / member).read_bytes()
            for content in contents:
                (folder / member).write_bytes(content)
                with pytest.raises(CheckpointError):
                    await session.restore(checkpoint)
            (folder / member).unlink()
            with pytest.raises(CheckpointError, match="is missing or incomplete"):
                await session.restore(folder)
            (folder / member).symlink_to(tmp_path / "outside")
            (tmp_path / "outside").write_bytes(before)
            with pytest.raises(CheckpointError, match="cannot be read"):
                await session.restore(folder)
            (folder / member).unlink()
            os.mkfifo(folder / member)
            with pytest.raises(CheckpointError, match="is not a file"):
                await session.restore(folder)
            (folder / member).unlink()
            (folder / member).write_bytes(before)
        link = tmp_path / checkpoint.name[:-1].__add__("0" if checkpoint.name[-1] != "0" else "1")
        link.symlink_to(folder)
        with pytest.raises(CheckpointError, match="is a link"):
            await session.restore(link)
        with pytest.raises(CheckpointError, match="is not the name of a checkpoint"):
            await session.restore(tmp_path)
        assert await session.files.list() == []
        await session.restore(str(folder))
        assert await read_all(interpreter, "bob") == FILES


class FailingPool(FakeSessionPool):
    """A pool that refuses one file once."""

    refused = ""

    @override
    async def upload(self, session_id: str, name: str, content: AsyncIterator[bytes]) -> FileInfo:
        if name == self.refused:
            self.refused = ""
            raise FileTransferError(f"no room for {name}")
        return await super().upload(session_id, name, content)


async def test_a_restore_that_fails_half_way_leaves_the_session_as_it_was(tmp_path: Path) -> None:
    pool = FailingPool()
    async with CodeInterpreter(pool) as interpreter:
        checkpoint = await save(interpreter, tmp_path)
        session = interpreter.session("bob")
        await session.files.upload(b"mine", name="a.csv")
        await session.files.upload(b"other", name="other")
        await session.run_code("mine")
        pool.refused = "ü mit -rf $x"
        with pytest.raises(FileTransferError, match="no room"):
            await session.restore(checkpoint)
        assert await read_all(interpreter, "bob") == {"a.csv": b"mine", "other": b"other"}
        assert "x = 1" not in session.notebook()
        assert not (await session.run_code("1")).notes
        await session.restore(checkpoint)
        assert await read_all(interpreter, "bob") == {**FILES, "other": b"other"}


async def test_a_save_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    class BrokenPool(FakeSessionPool):
        @override
        async def download(self, session_id: str, name: str) -> AsyncIterator[bytes]:
            if name == "NUL.txt":
                yield b"1"
            else:
                raise FileTransferError("the session is gone")

    async with CodeInterpreter(BrokenPool()) as interpreter:
        with pytest.raises(FileTransferError, match="is gone"):
            await save(interpreter, tmp_path / "new")
    assert list_names(tmp_path / "new") == []
    (tmp_path / "file").write_text("1")
    async with CodeInterpreter(FakeSessionPool()) as interpreter:
        session = interpreter.session("alice")
        with pytest.raises(FileTransferError, match="cannot write a checkpoint"):
            await session.save(tmp_path / "file")
        for wrong in ("", 7):
            with pytest.raises(ConfigurationError, match="a checkpoint cannot be saved to"):
                await session.save(wrong)  # type: ignore[arg-type] # the error is the point
        with pytest.raises(ConfigurationError, match="cannot restore a int"):
            await session.restore(7)  # type: ignore[arg-type] # the error is the point


async def test_checkpoints_keep_the_bounds_of_files(tmp_path: Path) -> None:
    for limits in (Limits(file_bytes=7), Limits(staged_bytes=9)):
        async with CodeInterpreter(FakeSessionPool(), limits=limits) as interpreter:
            files = interpreter.session("alice").files
            pool = interpreter._host.pool
            for name in ("a", "b"):
                await pool.upload(interpreter.session("alice").id, name, chunks(b"12345678"))
            with pytest.raises(FileTooLargeError):
                await interpreter.session("alice").save(tmp_path)
            await files.remove("a")
    assert list_names(tmp_path) == []
    async with CodeInterpreter(FakeSessionPool()) as interpreter:
        checkpoint = await save(interpreter, tmp_path)
    async with CodeInterpreter(FakeSessionPool(), limits=Limits(file_bytes=7)) as interpreter:
        with pytest.raises(FileTooLargeError):
            await interpreter.session("alice").restore(checkpoint)
        assert await interpreter.session("alice").files.list() == []


async def test_names_that_no_route_can_read_are_left_out_by_name(tmp_path: Path) -> None:
    class OddPool(FakeSessionPool):
        @override
        async def list_files(self, session_id: str) -> list[FileInfo]:
            return [*await super().list_files(session_id), FileInfo("bad\\x0a", 1)]

    async with CodeInterpreter(OddPool()) as interpreter:
        session = interpreter.session("alice")
        with pytest.raises(UnsafeNameError, match="leaves out"):
            await session.save(tmp_path)
        checkpoint = await save(interpreter, tmp_path)
        assert checkpoint.skipped == ("bad\\x0a",)
        await session.restore(checkpoint)
        assert "not saved: bad\\x0a" in (await session.run_code("1")).notes[0]


async def test_two_writers_never_share_a_checkpoint(tmp_path: Path) -> None:
    import anyio

    saved: list[Checkpoint] = []
    async with CodeInterpreter(FakeSessionPool()) as interpreter:

        async def write(key: str) -> None:
            await interpreter.session(key).files.upload(key.encode(), name="who")
            saved.append(await interpreter.session(key).save(tmp_path))

        async with anyio.create_task_group() as tasks:
            for index in range(8):
                tasks.start_soon(write, f"key-{index}")
        assert len({one.name for one in saved}) == 8
        contents = set()
        for one in saved:
            await interpreter.session("reader").restore(one)
            contents.add(await interpreter.session("reader").files.download("who"))
    assert contents == {f"key-{index}".encode() for index in range(8)}


def test_the_blocking_session_saves_and_restores(tmp_path: Path) -> None:
    with SyncCodeInterpreter(FakeSessionPool()) as interpreter:
        interpreter.session("alice").files.upload(b"1", name="a")
        checkpoint = interpreter.session("alice").save(to=tmp_path)
        interpreter.session("bob").restore(checkpoint)
        assert interpreter.session("bob").files.download("a") == b"1"


async def test_an_error_of_the_pool_while_saving_is_one_of_this_package(tmp_path: Path) -> None:
    class DeadPool(FakeSessionPool):
        @override
        async def list_files(self, session_id: str) -> list[FileInfo]:
            raise FileTransferError("dead")

    async with CodeInterpreter(DeadPool()) as interpreter:
        with pytest.raises(CodeInterpreterError, match="dead"):
            await interpreter.session("alice").save(tmp_path)
    assert list_names(tmp_path) == []

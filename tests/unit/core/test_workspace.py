"""The workspace of an interpreter keeps a session's files after each run."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from typing_extensions import override

from cci_plugins import CodeInterpreter, Execution, FileInfo, Limits, LocalSessionPool
from cci_plugins.core.workspace import _remove_own
from cci_plugins.errors import ConfigurationError, SessionLostError
from cci_plugins.testing import FakeSessionPool

pytestmark = pytest.mark.anyio


class WritingPool(FakeSessionPool):
    """A pool whose code writes a file, and which can lose its sessions."""

    is_lost = False

    @override
    async def execute(self, session_id: str, code: str, **options: object) -> Execution:  # type: ignore[override]
        files = self._files.setdefault(session_id, {})
        if self.is_lost and options.get("instance"):
            files.clear()
            self.is_lost = False
            raise SessionLostError("replaced", retryable=True)
        self.calls.append((session_id, code))
        name, _, text = code.partition("=")
        if text:
            files[name] = text.encode()
        else:
            files.pop(name, None)
        changed = (FileInfo(name, len(text)),) if text else ()
        return Execution(files=changed, instance="one", stdout=",".join(sorted(files)))


def find_one(folder: Path, pattern: str) -> Path:
    (path,) = folder.glob(pattern)
    return path


async def test_inputs_and_outputs_come_back_after_a_loss_and_in_another_process(
    tmp_path: Path,
) -> None:
    pool = WritingPool()
    async with CodeInterpreter(pool, workspace=tmp_path) as interpreter:
        session = interpreter.session("alice")
        await session.files.upload(b"in", name="in.csv")
        await session.run_code("out=1")
        await session.run_code("gone=1")
        await session.run_code("gone")
        await session.run_code("out=22")
        pool.is_lost = True
        execution = await session.run_code("more=3")
        assert execution.stdout == "in.csv,more,out"
        assert any("uploaded again: in.csv, out" in note for note in execution.notes)
        assert await session.files.download("out") == b"22"
    async with CodeInterpreter(WritingPool(), workspace=str(tmp_path)) as interpreter:
        session = interpreter.session("alice")
        execution = await session.run_code("last=4")
        assert execution.stdout == "in.csv,last,more,out"
        assert any("uploaded again: in.csv, more, out" in note for note in execution.notes)
        assert await session.files.download("out") == b"22"
        assert (await interpreter.session("bob").run_code("x=1")).stdout == "x"


async def test_what_cannot_be_kept_is_named_and_damage_is_not_put_back(tmp_path: Path) -> None:
    limits = Limits(file_bytes=5)
    async with CodeInterpreter(WritingPool(), workspace=tmp_path, limits=limits) as interpreter:
        session = interpreter.session("alice")
        execution = await session.run_code("big=123456")
        assert "not kept outside the session: big" in execution.notes
        await session.run_code("small=1")
    folder = find_one(tmp_path, "*")
    copy = find_one(folder, "copy-*")
    copy.write_bytes(b"2")
    async with CodeInterpreter(WritingPool(), workspace=tmp_path) as interpreter:
        execution = await interpreter.session("alice").run_code("x=1")
        assert execution.stdout == "x"
        assert any("uploaded files are gone: small" in note for note in execution.notes)
    (folder / "manifest.json").write_text("{")
    async with CodeInterpreter(WritingPool(), workspace=tmp_path) as interpreter:
        assert (await interpreter.session("alice").run_code("x=1")).stdout == "x"
    for wrong in ("", 7):
        with pytest.raises(ConfigurationError, match="must be a folder or a BlobStorage"):
            CodeInterpreter(WritingPool(), workspace=wrong)  # type: ignore[arg-type] # the error is the point


def test_a_forked_process_leaves_the_files_of_its_parent(tmp_path: Path) -> None:
    _remove_own(str(tmp_path), os.getpid() + 1)
    assert tmp_path.exists()
    _remove_own(str(tmp_path), os.getpid())
    assert not tmp_path.exists()


@pytest.mark.slow
async def test_files_of_a_real_session_come_back_in_the_next_one(tmp_path: Path) -> None:
    for code in (
        "open('made', 'wb').write(bytes(10)); 0",
        "open('made', 'rb').read() == bytes(10)",
    ):
        pool = LocalSessionPool(isolation="process", ready_sessions=0, preload=())
        async with CodeInterpreter(pool, workspace=tmp_path) as interpreter:
            execution = await interpreter.session("alice").run_code(code)
    assert execution.text == "True"

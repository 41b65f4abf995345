"""What a cancelled call leaves behind: nothing that runs, and nothing that nobody is told."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from concurrent.futures import Future
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import anyio
import pytest
from typing_extensions import override

from cci_plugins import CodeInterpreter, sync
from cci_plugins.common import event_loop
from cci_plugins.core import session_saving
from cci_plugins.core.long_runs import LongRun
from cci_plugins.core.session import RESTARTED_NOTE
from cci_plugins.errors import SessionLostError
from cci_plugins.models import Execution, FileInfo
from cci_plugins.testing import FakeSessionPool, FakeTools

pytestmark = pytest.mark.anyio


class Gate:
    """Where a call on the package's loop waits while it is closed."""

    def __init__(self) -> None:
        self.is_closed = False
        self.waiting = threading.Event()

    async def pass_through(self) -> None:
        while self.is_closed:
            self.waiting.set()
            await anyio.sleep(0.002)

    async def cancel_there(self, call: Coroutine[Any, Any, object]) -> None:
        """Start a call, cancel it at the gate, and open that."""
        self.is_closed = True
        task = asyncio.create_task(call)
        await wait_until(self.waiting.is_set)
        task.cancel()
        await asyncio.wait((task,))
        assert task.cancelled()
        self.is_closed = False


class GatedPool(FakeSessionPool):
    """A pool with a gate in most of its calls."""

    capabilities = replace(FakeSessionPool.capabilities, packages=True)

    def __init__(self, *executions: Any) -> None:
        super().__init__(*executions)
        self.gate = Gate()
        self.deleted: list[str] = []
        self.has_closed = threading.Event()

    @override
    async def list_files(self, session_id: str) -> list[FileInfo]:
        await self.gate.pass_through()
        return await super().list_files(session_id)

    @override
    async def restart_session(self, session_id: str) -> bool:
        await super().restart_session(session_id)
        await self.gate.pass_through()
        return True

    @override
    async def install_packages(self, session_id: str, packages: Sequence[str]) -> dict[str, str]:
        await self.gate.pass_through()
        return {}

    @override
    async def get_instance(self, session_id: str) -> str | None:
        return None

    @override
    async def delete_session(self, session_id: str) -> None:
        self.deleted.append(session_id)
        await super().delete_session(session_id)

    @override
    async def aclose(self) -> None:
        self.has_closed.set()


async def wait_until(condition: Callable[[], object]) -> None:
    with anyio.fail_after(20):
        while not condition():
            await anyio.sleep(0.002)


async def test_a_loss_is_reported_by_the_next_run_if_the_one_that_noticed_it_is_cancelled(
    tmp_path: Path,
) -> None:
    pool = GatedPool(
        Execution(instance="a"),
        Execution(instance="b", state="lost", notes=("gone",)),
        Execution(instance="b"),
    )
    async with CodeInterpreter(pool, workspace=tmp_path) as interpreter:
        session = interpreter.session("alice")
        await session.run_code("x = 1")
        await pool.gate.cancel_there(session.run_code("x"))
        third, fourth = await session.run_code("x"), await session.run_code("x")
    assert (third.state, len(third.notes)) == ("lost", 1)
    assert "variables and files of earlier calls are gone" in third.notes[0]
    assert (fourth.state, fourth.notes) == ("kept", ())


def read_copies(workspace: Path) -> list[bytes]:
    return [path.read_bytes() for path in workspace.glob("*/copy-*")]


async def test_a_workspace_keeps_what_a_cancelled_run_changed(tmp_path: Path) -> None:
    async def write(code: str, tools: FakeTools) -> Execution:
        del tools
        if code:
            pool._files[session.id] = {"a.txt": code.encode()}
        files = (FileInfo("a.txt", 1),) if code else ()
        return Execution(instance="a", files=files)

    pool = GatedPool(write)
    async with CodeInterpreter(pool, workspace=tmp_path) as interpreter:
        session = interpreter.session("alice")
        await session.run_code("1")
        await pool.gate.cancel_there(session.run_code("2"))
        await session.run_code("")
    assert read_copies(tmp_path) == [b"2"]


async def test_a_restart_whose_caller_is_cancelled_is_noted_as_one() -> None:
    pool = GatedPool(Execution(instance="a"))
    async with CodeInterpreter(pool) as interpreter:
        session = interpreter.session("alice")
        await session.run_code("x = 1")
        await pool.gate.cancel_there(session.restart())
        assert RESTARTED_NOTE in (await session.run_code("x")).notes


async def test_files_that_are_gone_are_named_after_a_cancelled_attempt_to_restore(
    tmp_path: Path,
) -> None:
    async def lose(code: str, tools: FakeTools) -> Execution:
        raise SessionLostError("replaced", retryable=True)

    pool = GatedPool(Execution(instance="a"), lose, Execution(instance="b"))
    async with CodeInterpreter(pool) as interpreter:
        session, path = interpreter.session("alice"), tmp_path / "a.csv"
        path.write_text("1")
        await session.files.upload(path)
        await session.install("tomli-w")
        await session.run_code("x = 1")
        path.write_text("changed")
        await pool.gate.cancel_there(session.run_code("x"))
        notes = (await session.run_code("x")).notes
    assert "uploaded files are gone: a.csv; upload them again" in notes


async def test_a_restore_brings_files_and_history_or_neither(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = GatedPool(Execution(instance="a"))
    restore_files = session_saving.restore_files

    async def restore_slowly(*args: Any) -> None:
        await restore_files(*args)
        with anyio.CancelScope(shield=True):
            pool.gate.is_closed = True
            await pool.gate.pass_through()

    monkeypatch.setattr(session_saving, "restore_files", restore_slowly)
    async with CodeInterpreter(pool) as interpreter:
        first, second = interpreter.session("first"), interpreter.session("second")
        await first.files.upload(b"1", name="a.txt")
        await first.run_code("print('in the history')")
        checkpoint = await first.save(tmp_path)
        task = asyncio.create_task(second.restore(checkpoint))
        await wait_until(pool.gate.waiting.is_set)
        task.cancel()
        await asyncio.wait((task,))
        pool.gate.is_closed = False
        await wait_until(lambda: not second.busy)
        assert await second.files.download("a.txt") == b"1"
        assert "in the history" in second.notebook()


class EndlessCode:
    """Code of a pool that goes on until it is cancelled."""

    def __init__(self) -> None:
        self.begun, self.cancelled = threading.Event(), threading.Event()

    async def run(self, code: str, tools: FakeTools) -> Execution:
        self.begun.set()
        try:
            await anyio.sleep(60)
        finally:
            self.cancelled.set()
        return Execution()


async def test_a_background_run_that_nobody_gets_is_cancelled() -> None:
    code = EndlessCode()
    async with CodeInterpreter(FakeSessionPool(code.run)) as interpreter:
        await interpreter.start()
        session = interpreter.session("alice")
        task = asyncio.create_task(session.start_code("endless"))
        await asyncio.sleep(0)
        code.begun.wait(20)  # the run has started, and this loop has not heard of it
        task.cancel()
        await asyncio.wait((task,))
        assert task.cancelled()
        await wait_until(code.cancelled.is_set)
        await wait_until(lambda: not session.busy)


async def test_a_run_that_a_tool_waits_for_ends_if_the_tool_is_cancelled_twice() -> None:
    code = EndlessCode()
    async with CodeInterpreter(FakeSessionPool(code.run)) as interpreter:
        session = interpreter.session("alice")
        wait = LongRun().run(lambda: session.start_code("endless"), timedelta(minutes=1))
        task = asyncio.create_task(wait)
        await wait_until(code.begun.is_set)
        occupy_loop()
        for _ in range(2):
            task.cancel()
            await asyncio.sleep(0)
        await asyncio.wait((task,))
        await wait_until(code.cancelled.is_set)


def occupy_loop() -> None:
    """Keep the package's loop from beginning anything for a moment."""
    is_occupied = threading.Event()

    async def occupy() -> None:
        is_occupied.set()
        time.sleep(0.2)  # noqa: ASYNC251

    event_loop.submit(occupy)
    is_occupied.wait()


async def test_a_close_that_is_cancelled_before_it_begins_closes_the_pool() -> None:
    pool = GatedPool()
    interpreter = CodeInterpreter(pool)
    await interpreter.start()
    occupy_loop()
    with anyio.CancelScope() as scope:
        scope.cancel()
        await interpreter.aclose()
    await wait_until(pool.has_closed.is_set)


def test_a_close_that_is_interrupted_before_it_begins_closes_the_pool(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupt(_: object) -> None:
        raise KeyboardInterrupt

    pool = GatedPool()
    interpreter = sync.CodeInterpreter(pool)
    interpreter.start()
    occupy_loop()
    with monkeypatch.context() as patch:
        patch.setattr(Future, "result", interrupt)
        with pytest.raises(KeyboardInterrupt):
            interpreter.close()
    assert pool.has_closed.wait(20)


async def test_a_cancelled_list_of_packages_leaves_no_session() -> None:
    begun = threading.Event()

    async def run_long(code: str, tools: FakeTools) -> Execution:
        begun.set()
        try:
            await anyio.sleep(60)
        finally:
            time.sleep(0.2)  # noqa: ASYNC251 - the loop cannot begin the deletion meanwhile
        return Execution()

    pool = GatedPool(run_long)
    async with CodeInterpreter(pool) as interpreter, anyio.create_task_group() as tasks:
        tasks.start_soon(interpreter.packages)
        await wait_until(begun.is_set)
        tasks.cancel_scope.cancel()
    assert len(pool.deleted) == 1


@pytest.mark.parametrize("target", [None, "a.txt"])
async def test_a_cancelled_download_writes_nothing_after_its_return(
    target: str | None, tmp_path: Path
) -> None:
    class SlowPool(FakeSessionPool):
        begun, ended = threading.Event(), threading.Event()

        @override
        async def download(self, session_id: str, name: str) -> AsyncIterator[bytes]:
            self.begun.set()
            try:
                await anyio.sleep(60)
                yield b""
            finally:
                with anyio.CancelScope(shield=True):
                    await anyio.sleep(0.1)
                self.ended.set()

    pool = SlowPool()
    async with CodeInterpreter(pool) as interpreter:
        files = interpreter.session("alice").files
        await files.upload(b"1", name="a.txt")
        call = files.download("a.txt", to=tmp_path / target) if target else files.download("a.txt")
        task = asyncio.create_task(call)
        await wait_until(pool.begun.is_set)
        task.cancel()
        await asyncio.wait((task,))
        assert pool.ended.is_set()
    assert task.cancelled()
    assert list_names(tmp_path) == []


def list_names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]

"""Conversations, their sessions, and calls from anywhere."""

from __future__ import annotations

import asyncio
import gc
import re
import threading
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from typing_extensions import override

from cci_plugins import CodeInterpreter, Execution, Limits
from cci_plugins.common import event_loop
from cci_plugins.core import session_handle
from cci_plugins.core.session import REPLACED_NOTE
from cci_plugins.errors import (
    CodeInterpreterError,
    ConfigurationError,
    FileTooLargeError,
    FileTransferError,
    PoolUnavailableError,
    SessionFileNotFoundError,
    SessionLostError,
    UnsafeNameError,
)
from cci_plugins.models import FileInfo, OutputEvent
from cci_plugins.sync import CodeInterpreter as SyncCodeInterpreter
from cci_plugins.testing import FakeSessionPool

pytestmark = pytest.mark.anyio


async def test_a_key_has_one_session_and_another_key_another() -> None:
    pool = FakeSessionPool()
    async with CodeInterpreter(pool) as interpreter:
        for key in ("alice", "bob", "alice"):
            await interpreter.session(key).run_code("1")
    first, second, third = (session_id for session_id, _ in pool.calls)
    assert first == third != second


async def test_identifiers_are_derived_and_do_not_reveal_the_key() -> None:
    async with CodeInterpreter(FakeSessionPool()) as interpreter:
        session = interpreter.session("alice@example.com&identifier=victim")
    assert re.fullmatch(r"cci-[0-9a-f]{64}", session.id)
    assert "alice" not in repr(session)


async def test_a_shared_secret_gives_the_same_identifiers_in_every_process() -> None:
    secret = b"shared"
    one = CodeInterpreter(FakeSessionPool(), session_secret=secret)
    two = CodeInterpreter(FakeSessionPool(), session_secret=secret)
    other = CodeInterpreter(FakeSessionPool())
    assert one.session("a").id == two.session("a").id != other.session("a").id


async def test_use_session_names_the_current_session() -> None:
    pool = FakeSessionPool()
    async with CodeInterpreter(pool) as interpreter:
        with interpreter.use_session("alice") as session:
            await interpreter.run_code("1")
        await interpreter.run_code("2")
    assert pool.calls[0][0] == session.id != pool.calls[1][0]


async def test_the_least_recently_used_session_is_evicted_beyond_the_bound() -> None:
    deleted: list[str] = []

    class Pool(FakeSessionPool):
        async def delete_session(self, session_id: str) -> None:
            deleted.append(session_id)

    async with CodeInterpreter(Pool(), limits=Limits(live_sessions=2)) as interpreter:
        sessions = [interpreter.session(key) for key in "abc"]
        await interpreter.session("c").run_code("1")
        with anyio.fail_after(5):
            while not deleted:
                await anyio.lowlevel.checkpoint()
    assert deleted == [sessions[0].id]


async def test_runs_of_one_session_wait_for_each_other_and_sessions_do_not() -> None:
    running: dict[str, int] = {}
    most_at_once: dict[str, int] = {}
    all_here = anyio.Event()

    class Pool(FakeSessionPool):
        async def execute(self, session_id: str, *_: object, **__: object) -> Execution:  # type: ignore[override]
            running[session_id] = running.get(session_id, 0) + 1
            most_at_once[session_id] = max(most_at_once.get(session_id, 0), running[session_id])
            if len(running) == 2:
                all_here.set()
            await all_here.wait()
            running[session_id] -= 1
            return Execution()

    async with CodeInterpreter(Pool()) as interpreter:
        with anyio.fail_after(5):
            await asyncio.gather(
                *(interpreter.session(key).run_code("1") for key in ("a", "a", "b", "b"))
            )
    assert set(most_at_once.values()) == {1}


class ForgetfulPool(FakeSessionPool):
    """A pool with instances. A test can replace its session."""

    def __init__(self) -> None:
        super().__init__()
        self.number = 1
        self.story: list[str] = []

    @override
    async def upload(self, session_id: str, name: str, content: AsyncIterator[bytes]) -> FileInfo:
        self.story.append(f"upload {name}")
        return await super().upload(session_id, name, content)

    @override
    async def execute(
        self, session_id: str, code: str, *, instance: str | None = None, **_: Any
    ) -> Execution:
        if instance not in {None, str(self.number)}:
            raise SessionLostError("replaced", retryable=True)
        self.story.append(code)
        return Execution(instance=str(self.number))


async def test_a_replaced_session_gets_its_uploads_back_before_the_code_runs_once(
    tmp_path: Path,
) -> None:
    pool = ForgetfulPool()
    kept, changed = tmp_path / "kept.csv", tmp_path / "changed.csv"
    kept.write_text("1")
    changed.write_text("1")
    async with CodeInterpreter(pool) as interpreter:
        session = interpreter.session("a")
        for source in (kept, changed):
            await session.files.upload(source)
        await session.files.upload(b"1", name="bytes.csv")
        assert (await session.run_code("first")).state == "kept"
        changed.write_text("other")
        pool.number += 1
        pool.story.clear()
        execution = await session.run_code("second")
        assert (await session.run_code("third")).notes == ()
    assert execution.state == "lost"
    assert execution.notes == (
        REPLACED_NOTE,
        "uploaded again: bytes.csv, kept.csv",
        "uploaded files are gone: changed.csv; upload them again",
    )
    assert pool.story == ["upload bytes.csv", "upload kept.csv", "second", "third"]


async def test_a_session_that_ended_gets_its_uploads_back_with_the_next_run() -> None:
    pool = FakeSessionPool(Execution(state="lost", status="died"), Execution())
    async with CodeInterpreter(pool) as interpreter:
        session = interpreter.session("a")
        await session.files.upload(b"1", name="sales.csv")
        assert (await session.run_code("1")).notes == ()
        await pool.delete_session(session.id)
        assert (await session.run_code("1")).notes == ("uploaded again: sales.csv",)
        assert [file.name for file in await session.files.list()] == ["sales.csv"]


async def test_uploads_beyond_the_kept_bytes_are_named_as_gone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(session_handle, "MAX_KEPT_UPLOAD_BYTES", 3)
    pool = FakeSessionPool(Execution(state="lost"), Execution())
    async with CodeInterpreter(pool) as interpreter:
        session = interpreter.session("a")
        await session.files.upload(b"12", name="a.csv")
        await session.files.upload(b"12", name="b.csv")
        await session.run_code("1")
        notes = (await session.run_code("1")).notes
    assert notes == ("uploaded again: a.csv", "uploaded files are gone: b.csv; upload them again")


async def test_a_loss_is_reported_also_if_the_first_attempt_after_it_fails() -> None:
    pool = ForgetfulPool()
    async with CodeInterpreter(pool) as interpreter:
        session = interpreter.session("a")
        await session.run_code("first")
        pool.number += 1
        real, calls = pool.execute, []

        async def failing(*args: Any, **options: Any) -> Execution:
            calls.append(options)
            if len(calls) == 2:
                raise PoolUnavailableError("not now")
            return await real(*args, **options)

        pool.execute = failing  # type: ignore[method-assign]
        with pytest.raises(PoolUnavailableError):
            await session.run_code("second")
        execution = await session.run_code("second")
    assert (execution.state, execution.notes) == ("lost", (REPLACED_NOTE,))
    assert pool.story == ["first", "second"]


async def test_files_are_uploaded_and_downloaded(tmp_path: Path) -> None:
    source = tmp_path / "data.csv"
    source.write_bytes(b"a,b\n" * 100_000)
    async with CodeInterpreter(FakeSessionPool()) as interpreter:
        files = interpreter.session("a").files
        assert (await files.upload(source)).name == "data.csv"
        assert await files.download("data.csv", to=tmp_path / "new" / "copy.csv")
        assert (tmp_path / "new" / "copy.csv").read_bytes() == source.read_bytes()
        assert [file.name for file in await files.list()] == ["data.csv"]
        await files.remove("data.csv")
        with pytest.raises(SessionFileNotFoundError):
            await files.download("data.csv")


async def test_unsafe_large_and_unreadable_files_are_refused(tmp_path: Path) -> None:
    async with CodeInterpreter(
        FakeSessionPool(), limits=Limits(file_bytes=3, pieces_bytes=3)
    ) as interpreter:
        files = interpreter.session("a").files
        with pytest.raises(UnsafeNameError):
            await files.upload(b"1", name="../etc/passwd")
        with pytest.raises(FileTooLargeError) as caught:
            await files.upload(b"1234", name="a")
        assert (caught.value.size, caught.value.limit) == (4, 3)
        with pytest.raises(FileTransferError, match="the file needs a name"):
            await files.upload(b"1")
        with pytest.raises(FileTransferError, match="cannot read"):
            await files.upload(tmp_path / "missing.csv")


async def test_output_arrives_on_the_callers_loop() -> None:
    seen: list[tuple[str, threading.Thread]] = []

    def listen(event: OutputEvent) -> None:
        seen.append((event.text, threading.current_thread()))

    async with CodeInterpreter(FakeSessionPool(Execution(stdout="out"))) as interpreter:
        await interpreter.run_code("1", on_output=listen)
    assert "".join(text for text, _ in seen) == "out"
    assert {thread for _, thread in seen} == {threading.current_thread()}


def test_output_arrives_in_the_calling_thread_without_await() -> None:
    seen: list[threading.Thread] = []
    with SyncCodeInterpreter(FakeSessionPool(Execution(stdout="out"))) as interpreter:
        interpreter.run_code("1", on_output=lambda _: seen.append(threading.current_thread()))
    assert set(seen) == {threading.current_thread()}


def test_one_interpreter_serves_threads_and_many_loops() -> None:
    pool = FakeSessionPool(Execution(stdout="x"))
    interpreter = CodeInterpreter(pool)

    async def run() -> Execution:
        return await interpreter.session("a").run_code("1")

    threads = [threading.Thread(target=lambda: asyncio.run(run())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    asyncio.run(run())
    asyncio.run(run())
    asyncio.run(interpreter.aclose())
    gc.collect()
    assert len(pool.calls) == 6


async def test_cancelling_a_call_cancels_it_in_the_pool() -> None:
    started, cancelled = threading.Event(), threading.Event()

    class Pool(FakeSessionPool):
        async def execute(self, *_: object, **__: object) -> Execution:  # type: ignore[override]
            started.set()
            try:
                await anyio.sleep_forever()
            finally:
                cancelled.set()
            return Execution()

    async with CodeInterpreter(Pool()) as interpreter:
        task = asyncio.create_task(interpreter.run_code("1"))
        await asyncio.to_thread(started.wait, 5)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await asyncio.to_thread(cancelled.wait, 5)


async def test_a_closed_interpreter_raises() -> None:
    interpreter = CodeInterpreter(FakeSessionPool())
    session = interpreter.session("a")
    await interpreter.aclose()
    await interpreter.aclose()
    with pytest.raises(ConfigurationError, match="closed"):
        await session.run_code("1")
    with pytest.raises(ConfigurationError, match="closed"):
        interpreter.session("a")


async def test_the_timeout_reaches_the_pool() -> None:
    seen: list[object] = []

    class Pool(FakeSessionPool):
        async def execute(self, *_: object, timeout: timedelta, **__: object) -> Execution:  # type: ignore[override]
            seen.append(timeout)
            return Execution()

    limits = Limits(execution_timeout=timedelta(seconds=7))
    async with CodeInterpreter(Pool(), limits=limits) as interpreter:
        await interpreter.run_code("1")
        await interpreter.run_code("1", timeout=timedelta(seconds=3))
    assert seen == [timedelta(seconds=7), timedelta(seconds=3)]


async def test_a_failing_start_is_raised_and_tried_again() -> None:
    class Pool(FakeSessionPool):
        starts = 0

        async def start(self) -> None:
            self.starts += 1
            if self.starts == 1:
                raise CodeInterpreterError("not yet", retryable=True)

    pool = Pool()
    async with CodeInterpreter(pool) as interpreter:
        with pytest.raises(CodeInterpreterError, match="not yet"):
            await interpreter.run_code("1")
        await interpreter.run_code("1")
        await interpreter.run_code("1")
    assert pool.starts == 2


async def test_context_variables_reach_the_pool() -> None:
    from contextvars import ContextVar

    variable: ContextVar[str] = ContextVar("variable")
    variable.set("here")

    async def read() -> str:
        return variable.get()

    assert await event_loop.dispatch(read) == "here"


async def test_a_session_returns_its_history_and_can_be_deleted() -> None:
    deleted: list[str] = []

    class Pool(FakeSessionPool):
        async def delete_session(self, session_id: str) -> None:
            deleted.append(session_id)

    async with CodeInterpreter(Pool(Execution(stdout="x"))) as interpreter:
        session = interpreter.session("a")
        await session.run_code("print('x')")
        assert "print('x')" in session.notebook()
        await session.delete()
        assert deleted == [session.id]
        assert interpreter.session("a") is not session


def test_the_blocking_classes_do_all_of_it(tmp_path: Path) -> None:
    with SyncCodeInterpreter(FakeSessionPool(Execution(stdout="x"))) as interpreter:
        interpreter.start()
        assert interpreter.describe() == "fake"
        assert interpreter.limits == Limits()
        with interpreter.use_session("a") as session:
            assert interpreter.run_code("1").stdout == "x"
            assert (session.busy, repr(session)) == (False, f"Session(id={session.id!r})")
            session.files.upload(b"1", name="a.txt")
            assert session.files.download("a.txt", to=tmp_path / "a.txt") == tmp_path / "a.txt"
            assert session.files.download("a.txt") == b"1"
            assert b"".join(session.files.stream("a.txt")) == b"1"
            assert [file.name for file in session.files.list()] == ["a.txt"]
            session.files.remove("a.txt")
            assert "cells" in session.notebook()
            session.delete()


async def test_idle_sessions_are_forgotten() -> None:
    limits = Limits(idle_session=timedelta(0))
    async with CodeInterpreter(FakeSessionPool(), limits=limits) as interpreter:
        first = interpreter.session("a")
        await first.run_code("1")
        interpreter.session("b")
        again = interpreter.session("a")
        assert again is not first
        execution = await again.run_code("1")
        assert execution.state == "lost"
        assert "idle" in execution.notes[0]
        assert (await again.run_code("1")).state == "kept"


async def test_a_busy_session_is_not_evicted() -> None:
    release = anyio.Event()

    class Pool(FakeSessionPool):
        async def execute(self, *_: object, **__: object) -> Execution:  # type: ignore[override]
            await release.wait()
            return Execution()

    async with CodeInterpreter(Pool(), limits=Limits(live_sessions=1)) as interpreter:
        busy = interpreter.session("a")
        run = asyncio.create_task(busy.run_code("1"))
        with anyio.fail_after(5):
            while not busy.busy:
                await anyio.lowlevel.checkpoint()
            interpreter.session("b")
            assert interpreter.session("a") is busy
            await event_loop.dispatch(_set, release)
            await run


async def _set(event: anyio.Event) -> None:
    event.set()


async def test_a_target_that_cannot_be_written_is_a_transfer_error(tmp_path: Path) -> None:
    async with CodeInterpreter(FakeSessionPool()) as interpreter:
        files = interpreter.session("a").files
        await files.upload(b"1", name="a")
        (tmp_path / "file").write_text("")
        with pytest.raises(FileTransferError, match="cannot write"):
            await files.download("a", to=tmp_path / "file" / "a")

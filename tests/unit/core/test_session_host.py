"""A pool of the interpreter and a pool of a server behind the same sessions."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace

import anyio
import pytest
from typing_extensions import override

from cci_plugins import Execution, Limits
from cci_plugins.common import event_loop
from cci_plugins.core.interpreter import CodeInterpreter, get_session_host
from cci_plugins.core.session_directory import SessionDirectory
from cci_plugins.core.session_host import SessionHost
from cci_plugins.errors import ConfigurationError, PoolUnavailableError
from cci_plugins.models import OutputEvent
from cci_plugins.sync import CodeInterpreter as SyncCodeInterpreter
from cci_plugins.testing import FakeSessionPool

pytestmark = pytest.mark.anyio


class RecordingPool(FakeSessionPool):
    """Records where it is called, and emits output in several chunks."""

    def __init__(self) -> None:
        super().__init__(Execution())
        self.threads: list[threading.Thread] = []
        self.events: list[str] = []

    @override
    async def start(self) -> None:
        self.events.append("start")

    @override
    async def aclose(self) -> None:
        self.events.append("close")

    @override
    async def execute(self, session_id: str, code: str, **options: object) -> Execution:  # type: ignore[override]
        self.threads.append(threading.current_thread())
        on_output = options["on_output"]
        if callable(on_output):
            for text in "abc":
                on_output(OutputEvent("stdout", text))
        return Execution()


async def test_an_interpreter_starts_and_closes_its_pool_on_the_packages_loop() -> None:
    pool = RecordingPool()
    async with CodeInterpreter(pool) as interpreter:
        await interpreter.run_code("1")
        await interpreter.run_code("1")
        assert get_session_host(interpreter).pool is pool
    assert pool.events == ["start", "close"]
    assert threading.current_thread() not in pool.threads


async def test_calls_that_wait_for_a_start_share_its_failure() -> None:
    class Silent(RecordingPool):
        @override
        async def start(self) -> None:
            self.events.append("start")
            attempt = interpreter._host._start
            while attempt._lock.statistics().tasks_waiting < waiting:
                await anyio.sleep(0.01)
            raise PoolUnavailableError("the pool did not answer")

    pool, errors, waiting = Silent(), list[Exception](), 2
    interpreter = CodeInterpreter(pool)

    async def run(key: str) -> None:
        try:
            await interpreter.session(key).run_code("1")
        except PoolUnavailableError as error:
            errors.append(error)

    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            for key in "abc":
                tasks.start_soon(run, key)
    assert (pool.events, len(errors)) == (["start"], 3)
    waiting = 0
    await run("d")
    assert (pool.events, len(errors)) == (["start", "start"], 4)


async def test_a_server_leaves_its_pool_to_the_caller_and_runs_on_its_own_loop() -> None:
    pool = RecordingPool()
    directory = SessionDirectory(SessionHost(pool, owns_pool=False))
    session, evicted = directory.get_or_create("a")
    assert (directory.was_used("a"), evicted) == (False, [])
    await session.run_code("1")
    assert directory.was_used("a")
    await directory.aclose()
    assert pool.events == []
    assert pool.threads == [threading.current_thread()]
    with pytest.raises(ConfigurationError, match="closed"):
        await session.run_code("1")


async def test_all_output_arrives_before_the_run_returns_on_the_same_loop() -> None:
    directory = SessionDirectory(SessionHost(RecordingPool(), owns_pool=False))
    session, _ = directory.get_or_create("a")
    texts: list[str] = []
    await session.run_code("1", on_output=lambda event: texts.append(event.text))
    assert "".join(texts) == "abc"


def test_all_output_arrives_before_a_blocking_run_returns() -> None:
    with SyncCodeInterpreter(RecordingPool()) as interpreter:
        texts: list[str] = []
        for _ in range(20):
            interpreter.run_code("1", on_output=lambda event: texts.append(event.text))
    assert "".join(texts) == "abc" * 20


async def test_an_evicted_session_is_returned_to_the_caller_who_deletes_it() -> None:
    host = SessionHost(FakeSessionPool(), limits=Limits(live_sessions=1), owns_pool=False)
    directory = SessionDirectory(host)
    first, _ = directory.get_or_create("a")
    _, evicted = directory.get_or_create("b")
    assert [handle.id for handle in evicted] == [first.id]
    assert directory.remove("a") is None
    assert directory.remove("b") is not None
    await directory.aclose()


async def test_a_close_that_is_cancelled_while_the_packages_loop_is_busy_comes_to_its_end() -> None:
    pool, go_on = RecordingPool(), threading.Event()

    async def block() -> None:
        go_on.wait(20)

    interpreter = CodeInterpreter(pool)
    await interpreter.run_code("1")
    busy = event_loop.submit(block)
    with anyio.move_on_after(0):
        await interpreter.aclose()
    go_on.set()
    await asyncio.wrap_future(busy)
    with anyio.fail_after(20):
        while pool.events != ["start", "close"]:
            await anyio.sleep(0.01)
    await interpreter.aclose()


async def test_a_pool_is_started_once_for_calls_at_the_same_time() -> None:
    pool = RecordingPool()
    async with CodeInterpreter(pool) as interpreter:
        await asyncio.gather(*(interpreter.start() for _ in range(5)))
    assert pool.events == ["start", "close"]


async def test_a_session_that_cannot_be_deleted_keeps_nothing_else_of_an_abandoned_host() -> None:
    class FailingPool(RecordingPool):
        def __init__(self) -> None:
            super().__init__()
            self.capabilities = replace(self.capabilities, outlives_app=True)

        @override
        async def delete_session(self, session_id: str) -> None:
            self.events.append(session_id)
            raise PoolUnavailableError("no")

    pool = FailingPool()
    host = SessionHost(pool)
    host.note_use("a")
    host.note_use("b")
    leftovers = host._leftovers
    host.refuse_calls()
    await leftovers.aclose()
    assert sorted(pool.events) == ["a", "b", "close"]

"""Sessions that end: by `delete` while code runs, and by an eviction before an upload."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import anyio
import pytest
from typing_extensions import override

from cci_plugins import CodeInterpreter, Execution, Limits
from cci_plugins.core import active_run
from cci_plugins.errors import PoolUnavailableError, SessionLostError
from cci_plugins.testing import FakeSessionPool

pytestmark = pytest.mark.anyio


class BusyPool(FakeSessionPool):
    """Runs code until its session is deleted, or for ever if it is stubborn."""

    def __init__(self, *, is_stubborn: bool = False) -> None:
        super().__init__()
        self.started, self.deleted = anyio.Event(), anyio.Event()
        self.is_stubborn = is_stubborn
        self.fault: Exception | None = None

    @override
    async def execute(self, session_id: str, code: str, **_: Any) -> Execution:
        self.calls.append((session_id, code))
        if code != "endless":
            return Execution(stdout=code)
        self.started.set()
        await (anyio.sleep_forever() if self.is_stubborn else self.deleted.wait())
        if self.fault is not None:
            raise self.fault
        return Execution(stdout="so far", status="died", state="lost")

    @override
    async def delete_session(self, session_id: str) -> None:
        self.deleted.set()


async def delete_while_running(pool: BusyPool) -> tuple[Execution, list[BaseException]]:
    """Delete a session while code runs and another run waits. Return what both ended with."""
    ends: list[Execution] = []
    faults: list[BaseException] = []
    async with CodeInterpreter(pool) as interpreter:
        session = interpreter.session("alice")

        async def run() -> None:
            ends.append(await session.run_code("endless"))

        async def wait_for_turn() -> None:
            try:
                await session.run_code("waiting")
            except SessionLostError as error:
                faults.append(error)

        with anyio.fail_after(20):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(run)
                while not pool.calls:
                    await anyio.sleep(0.01)
                tasks.start_soon(wait_for_turn)
                await anyio.wait_all_tasks_blocked()
                await session.delete()
            assert (await interpreter.session("alice").run_code("1")).stdout == "1"
    return ends[0], faults


async def test_deleting_a_session_ends_its_run_and_refuses_the_one_that_waits() -> None:
    pool = BusyPool()
    execution, faults = await delete_while_running(pool)
    assert (execution.stdout, execution.status) == ("so far", "died")
    (fault,) = faults
    assert isinstance(fault, SessionLostError)
    assert fault.retryable
    assert [code for _, code in pool.calls] == ["endless", "1"]


@pytest.mark.parametrize("fault", [None, PoolUnavailableError("the connection broke")])
async def test_a_run_that_its_pool_does_not_end_is_cancelled(
    fault: Exception | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(active_run, "STOP_SECONDS", 0.05)
    pool = BusyPool(is_stubborn=fault is None)
    pool.fault = fault
    execution, _ = await delete_while_running(pool)
    assert (execution.status, execution.state) == ("died", "lost")
    assert execution.error is not None
    assert "it was deleted" in execution.error.message


EVICTIONS: dict[str, tuple[Limits, int]] = {
    "one of too many": (Limits(live_sessions=1), 1),
    "an idle one": (Limits(idle_session=timedelta(0)), 1),
}


@pytest.mark.parametrize(("limits", "others"), EVICTIONS.values(), ids=list(EVICTIONS))
async def test_a_file_uploaded_to_a_conversation_that_comes_back_stays(
    limits: Limits, others: int
) -> None:
    pool = FakeSessionPool()
    async with CodeInterpreter(pool, limits=limits) as interpreter:
        session = interpreter.session("alice")
        await session.files.upload(b"old", name="old.csv")
        await session.run_code("1")
        for number in range(others):
            interpreter.session(f"other {number}")
        back = interpreter.session("alice")
        assert back is not session
        await back.files.upload(b"new", name="new.csv")
        execution = await back.run_code("2")
        assert [file.name for file in await back.files.list()] == ["new.csv"]
    assert execution.state == "lost"
    assert "files of earlier calls are gone" in execution.notes[0]

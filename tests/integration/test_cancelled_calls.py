"""A call of the embedded pool that is cancelled halfway, by its task and at a chosen step."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Generator
from pathlib import Path
from typing import Any

import anyio
import pytest

from cci_plugins import HostTool, Limits, LocalSessionPool
from cci_plugins.core.host_calls import HostCalls
from cci_plugins.errors import PoolUnavailableError
from cci_plugins.models import Execution
from cci_plugins.pools.local.isolation import uids

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="lists descriptors of Linux"),
]


class CancelledAt:
    """Awaits a call, and cancels the task at its n-th step.

    Args:
        call: The call.
        steps: Steps at which the task is cancelled.
        late: Cancel when what the call waits for is there, else at once.
    """

    def __init__(self, call: Coroutine[Any, Any, object], *steps: int, late: bool = False) -> None:
        self.has_reached = False
        self._call, self._steps, self._late = call, steps, late

    def __await__(self) -> Generator[Any, Any, object]:
        task, loop = asyncio.current_task(), asyncio.get_running_loop()
        assert task is not None
        resume: Callable[[], Any] = lambda: self._call.send(None)  # noqa: E731
        step = -1
        while True:
            try:
                waiting = resume()
            except StopIteration as end:
                return end.value
            step += 1
            if step in self._steps:
                self.has_reached = True
                if self._late and waiting is not None:
                    waiting.add_done_callback(lambda _: task.cancel())
                else:
                    loop.call_soon(task.cancel)
            try:
                if waiting is not None:
                    waiting._asyncio_future_blocking = True
                yield waiting
                resume = lambda: self._call.send(None)  # noqa: E731
            except BaseException as error:  # noqa: BLE001 - the call's
                resume = lambda error=error: self._call.throw(error)  # type: ignore[misc] # noqa: E731


async def cancel_at(
    call: Callable[[], Coroutine[Any, Any, object]], *steps: int, late: bool = False
) -> bool:
    """Run a call and cancel it at some steps. Return whether it had so many."""
    cancelled = CancelledAt(call(), *steps, late=late)

    async def wait() -> None:
        await cancelled

    await asyncio.wait((asyncio.create_task(wait()),), timeout=60)
    return cancelled.has_reached


async def cancel_everywhere(
    call: Callable[[], Coroutine[Any, Any, object]], check: Callable[[], Awaitable[object]]
) -> None:
    """Cancel a call at each of its steps, and check the pool after each time."""
    step = 0
    while await cancel_at(call, step, late=True):
        await check()
        step += 1
    assert step


@pytest.fixture(scope="module")
async def pool() -> AsyncIterator[LocalSessionPool]:
    async with LocalSessionPool(ready_sessions=0, preload=(), isolation="process") as opened:
        yield opened


async def run(pool: LocalSessionPool, code: str, **options: Any) -> Execution:
    with anyio.fail_after(60):
        return await pool.execute("s", code, timeout=30, **options)


def list_open_files(folder: str) -> list[str]:
    """List the files below a folder that this process has open."""
    paths = [os.path.realpath(file) for file in Path("/proc/self/fd").iterdir()]
    return [path for path in paths if path.startswith(folder + "/")]


async def send_pieces() -> AsyncIterator[bytes]:
    for _ in range(3):
        yield bytes(100_000)


async def test_a_cancelled_transfer_leaves_no_descriptor_and_no_part(
    pool: LocalSessionPool,
) -> None:
    await run(pool, "open('in.bin', 'wb').write(bytes(600_000)); import os")
    folder = (await run(pool, "print(os.getcwd())")).stdout.strip()

    async def check() -> None:
        assert list_open_files(folder) == []
        names = {info.name: info.size for info in await pool.list_files("s")}
        assert set(names) <= {"in.bin", "out.bin"}
        assert names.get("out.bin", 300_000) == 300_000

    async def download() -> None:
        async for _ in pool.download("s", "in.bin"):
            pass

    await cancel_everywhere(lambda: pool.upload("s", "out.bin", send_pieces()), check)
    await cancel_everywhere(download, check)
    assert (await run(pool, "print(os.listdir())")).stdout.count(".cci-part") == 0


async def test_code_has_stopped_when_a_run_that_is_cancelled_twice_returns(
    pool: LocalSessionPool,
) -> None:
    code = """
import time
for number in range(2):
    try:
        print(number, flush=True)
        time.sleep(60)
    except KeyboardInterrupt:
        ended = number
"""
    begun = asyncio.Event()
    task = asyncio.create_task(run(pool, code, on_output=lambda _: begun.set()))
    await begun.wait()
    for _ in range(3):
        task.cancel()
        await asyncio.sleep(0.01)
    await asyncio.wait((task,))
    session = pool._sessions["s"]
    assert session.kernel is not None
    assert session.kernel._request is None
    execution = await run(pool, "ended")
    assert (execution.text, execution.state) == ("1", "kept")


async def add(a: int, b: int) -> int:
    return a + b


def build_calls() -> HostCalls:
    numbers = {"a": {"type": "integer"}, "b": {"type": "integer"}}
    tool = HostTool("add", "Add.", {"type": "object", "properties": numbers}, add)
    return HostCalls([tool], Limits(), code="", session_key="s", session_id="s")


async def test_tools_can_be_called_after_a_run_that_was_cancelled_at_its_start(
    pool: LocalSessionPool,
) -> None:
    for step in range(4):
        await pool.delete_session("s")
        await run(pool, "1")
        await cancel_at(lambda: run(pool, "1", tools=build_calls()), step)
        execution = await run(pool, "print(tools.add(a=1, b=2))", tools=build_calls())
        assert execution.stdout == "3\n", execution


async def test_a_loss_stays_until_a_run_returns_it(
    pool: LocalSessionPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object) -> None:
        raise PoolUnavailableError("no Python")

    async def check() -> None:
        execution = await run(pool, "x = 1")
        assert execution.state == "lost"
        assert "variables and files of earlier calls are gone" in "".join(execution.notes)

    await run(pool, "x = 1")
    for step in range(20):
        ended = await cancel_at(lambda: run(pool, "import os; os._exit(3)"), step)
        if "s" in pool._sessions and pool._sessions["s"].loss_reason is not None:
            await check()
            break
        assert ended, "no step saw the loss"
    await pool._sessions["s"].kernel.kill("a test")  # type: ignore[union-attr]
    with monkeypatch.context() as patch:
        patch.setattr("cci_plugins.pools.local.pool.launch", fail)
        with pytest.raises(PoolUnavailableError):
            await run(pool, "1")
    assert await pool.list_sessions() == []
    await check()


@pytest.mark.skipif(not uids.can_allocate(), reason="the user has no ids for sessions")
async def test_a_sandbox_whose_end_is_cancelled_gives_its_user_id_back() -> None:
    before = set(uids._allocated_uids)
    async with LocalSessionPool(ready_sessions=0, preload=(), isolation="landlock") as pool:
        await run(pool, "1")
        kernel = pool._sessions["s"].kernel
        assert kernel is not None
        for step in range(8):
            await cancel_at(lambda: kernel.kill("a test"), step, step + 1)
    assert uids._allocated_uids - before == set()

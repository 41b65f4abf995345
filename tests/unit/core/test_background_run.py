"""Background runs, over a pool in memory."""

from __future__ import annotations

from datetime import timedelta

import anyio
import pytest

from cci_plugins import (
    CodeInterpreter,
    CustomSessionPool,
    Execution,
    Limits,
    PlatformSessionPool,
    SessionPool,
)
from cci_plugins.core.background_run import MAX_OUTPUT_CHARACTERS, _OutputTail
from cci_plugins.errors import ConfigurationError, PoolUnavailableError
from cci_plugins.models import OutputEvent, Result
from cci_plugins.pools.base import Capabilities
from cci_plugins.sync import CodeInterpreter as BlockingInterpreter
from cci_plugins.testing import FakeSessionPool, FakeTools

pytestmark = pytest.mark.anyio


class Program:
    """A session's code that waits until it is let go, and remembers what it was asked to run."""

    def __init__(self) -> None:
        self.codes: list[str] = []

    async def __call__(self, code: str, _: FakeTools) -> Execution:
        self.codes.append(code)
        if code == "wait":
            await anyio.sleep_forever()
        if code == "fail":
            raise PoolUnavailableError("the pool is away")
        return Execution(stdout=f"{code} done")


class RequestPool(FakeSessionPool):
    """A pool that ends every run with its request, as managed pools."""

    capabilities = Capabilities(name="plain")


async def test_a_background_run_ends_like_a_run_and_is_in_the_history() -> None:
    program = Program()
    async with CodeInterpreter(FakeSessionPool(program)) as interpreter:
        session = interpreter.session("a")
        run = await session.start_code("work", timeout=5)
        execution = await run.wait()
        assert (execution.stdout, run.status) == ("work done", "succeeded")
        assert await run.wait(1) == execution
        assert await run.cancel() is False
        assert run.status == "succeeded"
        assert "work" in session.notebook()
        assert program.codes == ["work"]


async def test_a_run_that_waits_its_turn_can_be_cancelled_and_never_runs() -> None:
    program = Program()
    async with CodeInterpreter(FakeSessionPool(program)) as interpreter:
        session = interpreter.session("a")
        first = await session.start_code("wait")
        second = await session.start_code("second")
        assert await first.wait(timedelta(0)) is None
        assert (first.status, second.status, session.busy) == ("running", "running", True)
        assert await second.cancel() is True
        assert await first.cancel() is True
        assert (first.status, second.status) == ("cancelled", "cancelled")
        execution = await first.wait()
        assert execution.error is not None
        assert execution.error.name == "KeyboardInterrupt"
        assert program.codes == ["wait"]
        assert (await session.run_code("next")).stdout == "next done"
        assert not session.busy


async def test_a_wait_that_is_cancelled_leaves_the_run_alone() -> None:
    async with CodeInterpreter(FakeSessionPool(Program())) as interpreter:
        run = await interpreter.session("a").start_code("wait")
        with anyio.move_on_after(0.05):
            await run.wait()
        assert run.status == "running"
        await run.cancel()


async def test_the_error_of_the_pool_comes_from_wait() -> None:
    async with CodeInterpreter(FakeSessionPool(Program())) as interpreter:
        run = await interpreter.session("a").start_code("fail")
        with pytest.raises(PoolUnavailableError, match="away"):
            await run.wait()
        assert run.status == "error"


async def test_what_cannot_run_is_refused_before_it_runs() -> None:
    program = Program()
    async with CodeInterpreter(RequestPool(program)) as interpreter:
        with pytest.raises(ConfigurationError, match="'plain' cannot run code in the background"):
            await interpreter.session("a").start_code("work")
    limits = Limits(background_timeout=60)
    async with CodeInterpreter(FakeSessionPool(program), limits=limits) as interpreter:
        with pytest.raises(ConfigurationError, match="at most 60 s"):
            await interpreter.session("a").start_code("work", timeout=61)
        run = await interpreter.session("a").start_code("now")
        with pytest.raises(ConfigurationError, match="since is negative"):
            run.output(-1)
        await run.wait()
    assert program.codes == ["now"]


async def test_a_deleted_session_ends_its_background_run() -> None:
    async with CodeInterpreter(FakeSessionPool(Program())) as interpreter:
        session = interpreter.session("a")
        run = await session.start_code("wait")
        await session.delete()
        assert (await run.wait()).status == "died"


@pytest.mark.parametrize(
    "pool",
    [
        CustomSessionPool("http://127.0.0.1:9", credential="key", patience=0),
        PlatformSessionPool("http://127.0.0.1:9/mcp", key="key", patience=0),
    ],
    ids=["custom", "platform"],
)
async def test_a_pool_that_cannot_be_reached_raises_before_a_background_run(
    pool: SessionPool,
) -> None:
    async with CodeInterpreter(pool) as interpreter:
        with pytest.raises(PoolUnavailableError, match="cannot be reached"):
            await interpreter.session("a").start_code("1")
        assert not interpreter.session("a").busy


def test_the_blocking_api_has_background_runs_too() -> None:
    with BlockingInterpreter(FakeSessionPool(Program())) as interpreter:
        run = interpreter.session("a").start_code("wait")
        assert run.wait(0) is None
        assert run.status == "running"
        assert run.cancel() is True
        assert run.wait().status == "failed"
        assert interpreter.session("a").start_code("work").wait().stdout == "work done"


def test_output_keeps_its_end_and_counts_what_is_gone() -> None:
    tail = _OutputTail()
    tail.add(OutputEvent("stdout", "ab"))
    assert tail.read(0).text == "ab"
    tail.add(OutputEvent("result", result=Result({"text/plain": "42"})))
    part = tail.read(2)
    assert (part.text, part.end, part.missed) == ("42\n", 5, 0)
    assert tail.read(99).text == ""
    tail.add(OutputEvent("stdout", "x" * MAX_OUTPUT_CHARACTERS))
    part = tail.read(2)
    assert (len(part.text), part.missed) == (MAX_OUTPUT_CHARACTERS, 3)
    assert part.end == MAX_OUTPUT_CHARACTERS + 5

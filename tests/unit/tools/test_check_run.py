"""Runs that go on after the tool's answer, over a pool in memory."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import anyio
import pytest

from cci_plugins import (
    CodeInterpreter,
    Decision,
    Execution,
    HostTool,
    Limits,
    OutputEvent,
    ToolOptions,
)
from cci_plugins.errors import ConfigurationError, PoolUnavailableError, ToolCallError
from cci_plugins.pools.base import Capabilities
from cci_plugins.testing import FakeSessionPool
from cci_plugins.tools import check_run, execute_code
from cci_plugins.tools.execute_code import ToolReply
from cci_plugins.tools.host_tools import RunStopper

pytestmark = pytest.mark.anyio
WAIT = ToolOptions(wait=0.05)
LONG = ToolOptions(wait=30)


class GatedPool(FakeSessionPool):
    """A pool whose code prints its name, and waits for its gate if it is named `long`."""

    def __init__(self) -> None:
        super().__init__()
        self.is_open = False
        self.timeouts: list[Any] = []

    async def execute(self, session_id: str, code: str, **options: Any) -> Execution:
        self.calls.append((session_id, code))
        self.timeouts.append(options["timeout"])
        if options["on_output"] is not None:
            options["on_output"](OutputEvent("stdout", f"{code} begun\n"))
        if code == "fail":
            await self.wait_open()
            raise PoolUnavailableError("the pool is away")
        if "tools" in options:
            with pytest.raises(ToolCallError):
                await options["tools"].call("late", "{}")
            await anyio.sleep_forever()
        if code.startswith("long"):
            await self.wait_open()
        return Execution(stdout=f"{code} begun\n{code} done\n")

    async def wait_open(self) -> None:
        while not self.is_open:
            await anyio.sleep(0.01)


async def run(interpreter: CodeInterpreter, code: str, **options: Any) -> ToolReply:
    return await execute_code.call(
        interpreter, code, **{"session_key": "a", "options": WAIT} | options
    )


async def check(
    interpreter: CodeInterpreter, action: object, options: ToolOptions = WAIT
) -> ToolReply:
    return await check_run.call(interpreter, action, session_key="a", options=options)


def error_name(reply: ToolReply) -> str:
    assert reply.execution.error is not None
    return reply.execution.error.name


async def test_a_long_run_is_left_and_its_result_is_given_once() -> None:
    pool, events = GatedPool(), list[OutputEvent]()
    async with CodeInterpreter(pool) as interpreter:
        assert "No run is in progress" in (await check(interpreter, "look")).text
        reply = await run(interpreter, "long", on_output=events.append)
        assert reply.text.startswith("[run-1 is still running after 0 s. Call check_run with")
        assert reply.text.endswith("]\nlong begun")
        assert (reply.failed, error_name(reply)) == (False, "StillRunning")
        assert [event.text for event in events] == ["long begun\n"]
        assert pool.timeouts == [Limits().background_timeout]
        for action in ("look", "wait"):
            reply = await check(interpreter, action)
            assert reply.text.endswith("(no new output)"), reply
        busy = await run(interpreter, "other")
        assert busy.text.startswith("The code was not run: run-1 is still running")
        assert (busy.failed, error_name(busy)) == (True, "NotRun")
        pool.is_open = True
        reply = await check(interpreter, "wait", LONG)
        assert reply.text == "[run-1 has ended: it succeeded]\nlong begun\nlong done"
        assert reply.execution.stdout.endswith("long done\n")
        again = await check(interpreter, "stop")
        assert again.text.startswith("run-1 has ended: it succeeded, and its result was returned")
        assert (again.failed, error_name(again)) == (False, "NoRun")
        assert (await run(interpreter, "short")).text == "short begun\nshort done"
        assert [code for _, code in pool.calls] == ["long", "short"]


async def test_a_run_that_is_stopped_returns_what_it_printed() -> None:
    pool = GatedPool()
    async with CodeInterpreter(pool) as interpreter:
        await run(interpreter, "long")
        reply = await check(interpreter, "stop")
        assert reply.text.startswith("[run-1 has ended: it failed]\nlong begun\nKeyboardInterrupt")
        assert reply.failed
        assert not interpreter.session("a").busy
        assert "action must be" in (await check(interpreter, "restart")).text


async def test_a_call_waits_for_the_run_of_another_call_and_not_longer_than_its_time() -> None:
    pool, replies = GatedPool(), dict[str, ToolReply]()
    async with CodeInterpreter(pool) as interpreter:

        async def ask(code: str, options: ToolOptions) -> None:
            replies[code] = await run(interpreter, code, options=options)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask, "long", LONG)
            while not pool.calls:
                await anyio.sleep(0.01)
            await ask("late", WAIT)
            tasks.start_soon(ask, "next", LONG)
            await anyio.sleep(0.01)
            pool.is_open = True
        assert "another run of this session is in progress" in replies["late"].text
        assert replies["next"].text == "next begun\nnext done"
        assert [code for _, code in pool.calls] == ["long", "next"]


async def test_a_result_that_was_not_read_waits_while_later_code_runs() -> None:
    pool = GatedPool()
    async with CodeInterpreter(pool) as interpreter:
        await run(interpreter, "long 1")
        pool.is_open = True
        with anyio.fail_after(30):
            while interpreter.session("a").busy:
                await anyio.sleep(0.01)
        reply = await run(interpreter, "short")
        assert reply.text.startswith("[run-1 has ended meanwhile. Call check_run for its result.]")
        pool.is_open = False
        await run(interpreter, "long 2")
        assert "long 1 done" in (await check(interpreter, "look")).text
        assert (await check(interpreter, "look")).text.startswith("[run-2 is still running")
        await check(interpreter, "stop")


async def test_a_failure_of_the_pool_is_reported_once() -> None:
    pool = GatedPool()
    async with CodeInterpreter(pool) as interpreter:
        await run(interpreter, "fail")
        pool.is_open = True
        assert "the pool is away" in (await check(interpreter, "wait", LONG)).text
        assert "the session pool failed, and" in (await check(interpreter, "wait")).text


async def test_a_look_is_not_a_run_and_a_busy_session_costs_none() -> None:
    asked: list[str] = []

    async def approve(request: Any) -> Decision:
        asked.append(request.code)
        return Decision("allow")

    pool = GatedPool()
    async with CodeInterpreter(pool, approve=approve) as interpreter:
        with interpreter.use_session("a", max_runs=2):
            await run(interpreter, "long", session_key=None)
            await run(interpreter, "busy", session_key=None)
            assert (await check_run.call(interpreter, "look", options=WAIT)).text.startswith(
                "[run-1 is"
            )
            pool.is_open = True
            assert "long done" in (await check_run.call(interpreter, "wait", options=LONG)).text
            assert (await run(interpreter, "second")).text.startswith("second begun")
            assert "used up (2)" in (await run(interpreter, "third")).text
        assert asked == ["long", "second", "third"]


async def test_cancelling_the_call_ends_the_run_and_cancelling_a_check_does_not() -> None:
    pool = GatedPool()
    async with CodeInterpreter(pool) as interpreter:
        with anyio.move_on_after(0.2):
            await run(interpreter, "long 1", options=LONG)
        assert not interpreter.session("a").busy
        assert "No run is in progress" in (await check(interpreter, "look")).text
        await run(interpreter, "long 2")
        with anyio.move_on_after(0.05):
            await check(interpreter, "wait", LONG)
        assert (await check(interpreter, "look")).text.startswith("[run-1 is still running")
        await check(interpreter, "stop")


async def test_a_framework_that_ends_a_run_that_was_left_is_raised_by_the_next_check() -> None:
    stopper, gate = RunStopper(), anyio.Event()

    async def stop() -> None:
        await gate.wait()
        stopper.stop(KeyError("the guardrail"))

    tool = HostTool("late", "Wait.", {"type": "object", "properties": {}}, stop)
    async with CodeInterpreter(GatedPool()) as interpreter:
        call = run(interpreter, "tools", tools=[tool], on_leave=stopper.leave)
        assert "still running" in (await stopper.run(call)).text
        gate.set()
        with pytest.raises(KeyError, match="guardrail"):
            await check(interpreter, "wait", LONG)
        assert "it failed, and its result was returned" in (await check(interpreter, "look")).text


async def test_a_pool_without_background_runs_is_refused_before_anything_happens() -> None:
    class RequestPool(FakeSessionPool):
        capabilities = Capabilities(name="plain")

    pool = RequestPool()
    async with CodeInterpreter(pool) as interpreter:
        with pytest.raises(ConfigurationError, match=r"wait \(0.05 s\) needs runs in the backgr"):
            execute_code.check_options(WAIT, interpreter)
        with interpreter.use_session("a", max_runs=1):
            reply = await run(interpreter, "1")
            assert "'plain' cannot run code in the background" in reply.text
            assert "cannot run code in the background" in (await check(interpreter, "look")).text
            assert not (await run(interpreter, "1", options=ToolOptions())).failed
    assert [code for _, code in pool.calls] == ["1"]


@pytest.mark.parametrize("wait", [0, -1, True, "90"])
def test_a_wait_that_is_not_a_duration_is_refused(wait: Any) -> None:
    with pytest.raises(ConfigurationError, match="wait must be"):
        ToolOptions(wait=wait)


def test_the_description_is_unchanged_without_wait() -> None:
    assert execute_code.build_description(ToolOptions(), None) == execute_code.DESCRIPTION
    options = ToolOptions(wait=timedelta(seconds=90))
    assert options == ToolOptions(wait=90)
    added = execute_code.build_description(options, None).removeprefix(execute_code.DESCRIPTION)
    assert added == (
        " A run of more than 90 s goes on after the answer, and check_run returns its result."
    )

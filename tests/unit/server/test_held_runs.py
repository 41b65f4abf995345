"""A run that outlives its requests: the registry, the relay of calls, and our client's end."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import anyio
import pytest

from cci_plugins.azure.credentials import StaticKey
from cci_plugins.common.limits import Limits
from cci_plugins.errors import (
    CodeInterpreterError,
    PoolError,
    PoolExhaustedError,
    PoolUnavailableError,
    SessionLostError,
    ToolCallError,
)
from cci_plugins.mcp_client.messages import ToolResult
from cci_plugins.models import Execution, OutputEvent
from cci_plugins.pools.azure import held_run
from cci_plugins.pools.azure.cci_server import RunRequest, RunTool
from cci_plugins.pools.azure.held_run import HeldRun
from cci_plugins.pools.azure.retry import RetryPolicy
from cci_plugins.pools.run_exchange import (
    HELD_KEY,
    RunQuery,
    RunReport,
    ToolAnswer,
    load_query,
    load_report,
)
from cci_plugins.pools.tool_host import ToolBounds, ToolHost, ToolParameter, ToolSpec
from cci_plugins.testing import FakeSessionPool, FakeTools

pytest.importorskip("mcp")

import anyio.lowlevel

from cci_plugins.server import runs as runs_module
from cci_plugins.server.callers import current_caller
from cci_plugins.server.mcp.tools import RUN_PYTHON, PlatformTools
from cci_plugins.server.output_log import MAX_CHARACTERS, OutputLog
from cci_plugins.server.runs import Run, RunKey, RunRegistry
from cci_plugins.server.tool_relay import MAX_CALL_BYTES, ToolRelay

pytestmark = pytest.mark.anyio

SECOND = timedelta(seconds=1)
BOUNDS = ToolBounds.from_limits(Limits())
SPEC = ToolSpec("add", (ToolParameter("a", "int"), ToolParameter("b", "int", "0")), "int", "Add.")
KEY = RunKey("session", "name", "")


class Tools(ToolHost):
    """A host whose tool adds, waits or fails."""

    specs = (SPEC,)
    bounds = BOUNDS

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.cancelled = 0
        self.release = anyio.Event()

    async def call(self, name: str, arguments: str) -> str:
        self.calls.append(f"{name} {arguments}")
        if name == "wait":
            try:
                await self.release.wait()
            except BaseException:
                self.cancelled += 1
                raise
        if name == "deny":
            raise ToolCallError("not today", kind="denied")
        if name == "big":
            return json.dumps("é" * 500_000)
        return str(sum(json.loads(arguments).values()))


class Link:
    """A client of the MCP tools in this process, whose messages may get lost."""

    def __init__(self, tools: PlatformTools) -> None:
        self._tools = tools
        self.queries: list[dict[str, Any]] = []
        self.lose: Callable[[int], str | None] = lambda _: None
        text = "the connection broke; the code may have run, so it was not sent again"
        self.error: CodeInterpreterError = PoolError(text)

    async def call_tool(
        self, name: str, arguments: Mapping[str, Any], **options: Any
    ) -> ToolResult:
        meta = json.loads(json.dumps(options["meta"]))
        self.queries.append(meta[HELD_KEY])
        lost = self.lose(len(self.queries))
        if lost == "request":
            raise self.error
        answer = await self._tools.call(name, arguments, meta)
        assert answer is not None
        if lost == "answer":
            raise self.error
        return ToolResult(meta=json.loads(json.dumps(answer.meta)))


@asynccontextmanager
async def linked(program: Any, registry: RunRegistry | None = None) -> AsyncIterator[Link]:
    runs = RunRegistry() if registry is None else registry
    async with runs.run():
        yield Link(PlatformTools(FakeSessionPool(program), Limits(), runs=runs))


def held(
    link: Link, tools: Tools | None, on_output: Any = None, name: str = "name", **more: Any
) -> HeldRun:
    request = RunRequest("session", "code", SECOND * 20, SECOND, None, name, **more)
    tool = RunTool(link, RUN_PYTHON, "session")  # type: ignore[arg-type]  # as much of it as is used
    return HeldRun(tool, request, tools, RetryPolicy(StaticKey("key"), SECOND * 5), on_output)


async def add_three(code: str, tools: FakeTools) -> Execution:
    assert code == "code"
    return Execution(stdout=str([await tools.acall("add", a=n, b=1) for n in range(3)]))


def test_a_query_and_a_report_keep_everything_as_json() -> None:
    query = RunQuery(
        wait=3,
        starts=True,
        since=4,
        known=(1, 2),
        answers=(ToolAnswer(1, "[1]", 5, is_last=False, error="limit"),),
        tools=(SPEC,),
        bounds=BOUNDS,
    )
    assert load_query(json.loads(json.dumps(query.dump()))) == query
    relay = ToolRelay((SPEC,), BOUNDS, lambda: None)
    assert relay.bounds.call_bytes <= MAX_CALL_BYTES
    report = RunReport("running", (), (7,), 3, (("stdout", "a"), ("stderr", "b")))
    assert load_report(json.loads(json.dumps(report.dump()))) == report


async def test_one_request_for_each_call_and_each_tool_runs_once() -> None:
    tools = Tools()
    async with linked(add_three) as link:
        execution = await held(link, tools).execute()
    assert execution.stdout == "[1, 2, 3]"
    assert tools.calls == [f'add {{"a": {n}, "b": 1}}' for n in range(3)]
    assert len(link.queries) == 4


@pytest.mark.parametrize("lost", ["request", "answer"])
async def test_a_lost_message_repeats_neither_the_run_nor_a_tool(lost: str) -> None:
    tools, begun = Tools(), 0

    async def program(code: str, fake: FakeTools) -> Execution:
        nonlocal begun
        begun += 1
        return await add_three(code, fake)

    async with linked(program) as link:
        link.lose = lambda number: lost if number in {2, 4} else None
        execution = await held(link, tools).execute()
    assert (execution.stdout, len(tools.calls), begun) == ("[1, 2, 3]", 3, 1)


async def test_a_start_whose_answer_is_lost_is_asked_for_and_one_that_is_lost_is_an_error() -> None:
    tools = Tools()
    async with linked(add_three) as link:
        link.lose = lambda number: "answer" if number == 1 else None
        assert (await held(link, tools).execute()).stdout == "[1, 2, 3]"
    async with linked(add_three) as link:
        link.lose = lambda number: "request" if number == 1 else None
        with pytest.raises(PoolError, match="may have run") as raised:
            await held(link, tools).execute()
        assert not raised.value.retryable
        assert [query["starts"] for query in link.queries] == [True, False, False]


async def test_tools_at_once_a_refusal_and_a_large_result_reach_the_code() -> None:
    tools = Tools()

    async def program(_code: str, fake: FakeTools) -> Execution:
        results: dict[str, Any] = {}

        async def call(name: str) -> None:
            try:
                results[name] = await fake.acall(name, a=1)
            except Exception as error:  # noqa: BLE001 - it is compared
                results[name] = str(error)

        async with anyio.create_task_group() as tasks:
            for name in ("wait", "deny", "add", "big"):
                tasks.start_soon(call, name)
            while len(results) < 3:
                await anyio.sleep(0.01)
            tools.release.set()
        assert len(results.pop("big")) == 500_000
        return Execution(stdout=str(sorted(results.items())))

    async with linked(program) as link:
        link.lose = lambda number: "answer" if number == 3 else None
        with anyio.fail_after(20):
            execution = await held(link, tools).execute()
    assert execution.stdout == "[('add', 1), ('deny', 'not today'), ('wait', 1)]"
    assert len(tools.calls) == 4


async def test_no_error_after_the_start_lets_the_run_be_repeated() -> None:
    tools, runs = Tools(), RunRegistry()
    async with linked(add_three, runs) as link:
        run = held(link, tools)
        run._retry = RetryPolicy(StaticKey("key"), SECOND / 5)
        link.error = PoolUnavailableError("the pool cannot be reached")
        link.lose = lambda number: "request" if number > 1 else None
        with pytest.raises(PoolError, match="cannot be reached; the code may have run") as raised:
            await run.execute()
        assert not raised.value.retryable
        assert link.queries[-1]["cancels"], "it tries to end the run"
        link.lose = lambda number: runs._runs.clear() if number == 2 else None
        link.queries.clear()
        with pytest.raises(PoolError, match="no longer has the run") as raised:
            await held(link, tools, name="replaced").execute()
        assert not raised.value.retryable
    assert tools.calls == ['add {"a": 0, "b": 1}'] * 2


async def test_output_arrives_once_although_requests_overlap() -> None:
    seen = list[str]()

    class Printing(FakeSessionPool):
        async def execute(self, *args: Any, on_output: Any = None, **options: Any) -> Execution:
            for number in range(3):
                on_output(OutputEvent("stdout", f"{number}\n"))
                await anyio.sleep(0.15)
            return Execution(stdout="0\n1\n2\n3\n")

    runs = RunRegistry()
    async with runs.run():
        link = Link(PlatformTools(Printing(), Limits(), runs=runs))
        link.lose = lambda number: "answer" if number == 2 else None
        await held(link, Tools(), lambda event: seen.append(event.text)).execute()
    assert "".join(seen) == "0\n1\n2\n3\n"
    assert seen[-1] == "3\n"


async def test_a_cancelled_run_ends_in_the_session_with_its_tool() -> None:
    tools, ended = Tools(), anyio.Event()

    async def program(_code: str, fake: FakeTools) -> Execution:
        try:
            await fake.acall("wait")
        finally:
            ended.set()
        return Execution()

    async with linked(program) as link, anyio.create_task_group() as tasks:
        tasks.start_soon(held(link, tools).execute)
        with anyio.fail_after(10):
            while not tools.calls:
                await anyio.sleep(0.01)
            tasks.cancel_scope.cancel()
    assert ended.is_set()
    assert tools.cancelled == 1


async def test_calls_that_wait_end_the_run_when_nobody_asks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(held_run, "ASK_WAIT", SECOND / 10)
    tools, runs = Tools(), RunRegistry(patience=SECOND)

    async def program(_code: str, fake: FakeTools) -> Execution:
        return Execution(stdout=str(await fake.acall("wait")))

    async with linked(program, runs) as link:
        async with anyio.create_task_group() as tasks:  # a client that asks keeps it
            tasks.start_soon(held(link, tools).execute)
            await anyio.sleep(1.3)
            run = runs.find(KEY)
            assert run is not None
            assert run.outcome is None
            tools.release.set()
        assert isinstance(run.outcome, Execution)
        tools.release = anyio.Event()
        died = held(link, tools, name="died")
        monkeypatch.setattr(died, "_cancel", anyio.sleep_forever)
        await died._start()
        run = runs.find(RunKey("session", "died", ""))
        assert run is not None
        await run.wait_ended(5)
    assert isinstance(run.outcome, PoolError)
    assert "nobody asked for it" in str(run.outcome)


async def test_a_run_belongs_to_its_session_and_its_caller() -> None:
    async def work(_: Run) -> Execution:
        return Execution(stdout="mine")

    runs = RunRegistry()
    async with runs.run():
        run = runs.start(RunKey("session", "name"), work)
        await run.wait_for_news(wait=5)
        assert runs.find(RunKey("session", "name")) is run
        assert runs.start(RunKey("session", "name"), work) is run
        assert runs.find(RunKey("other", "name")) is None
        token = current_caller.set("somebody")
        assert runs.find(RunKey("session", "name")) is None
        current_caller.reset(token)


async def test_a_run_has_a_bound_of_its_own_and_a_name_that_was_cancelled_never_starts() -> None:
    async def forever(_: Run) -> Execution:
        await anyio.sleep_forever()
        raise AssertionError

    runs = RunRegistry()
    async with runs.run():
        late = runs.start(KEY, forever, limit=SECOND / 20)
        await late.wait_ended(5)
        assert "took longer than 0.05 s" in str(late.outcome)
        other = RunKey("session", "other")
        assert await runs.cancel(other, "early") is None
        with pytest.raises(PoolError, match="begun before"):
            runs.start(other, forever)
        run = runs.start(RunKey("session", "third"), forever)
        await anyio.lowlevel.checkpoint()
        await runs.cancel(run.key, "the user asked for it")
        assert "the user asked for it" in str(run.outcome)
        failing = RunKey("session", "fourth")

        async def fail(_: Run) -> Execution:
            raise SessionLostError("replaced", retryable=True)

        await runs.start(failing, fail).wait_ended(5)
        assert runs.start(failing, forever).outcome is None, "a run that did not start may"


async def test_runs_and_what_is_kept_of_them_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs_module, "MAX_RUNNING", 2)
    monkeypatch.setattr(runs_module, "MAX_KEPT_BYTES", 1_000)
    release = anyio.Event()

    async def work(_: Run) -> Execution:
        await release.wait()
        return Execution(stdout="x" * 900)

    runs = RunRegistry()
    with pytest.raises(PoolUnavailableError):
        runs.start(KEY, work)
    async with runs.run():
        first, second = (runs.start(RunKey("s", name), work) for name in "ab")
        with pytest.raises(PoolExhaustedError):
            runs.start(RunKey("s", "c"), work)
        release.set()
        await first.wait_ended(5)
        await second.wait_ended(5)
        runs.start(RunKey("s", "d"), work)
        assert runs.find(first.key) is None
        assert runs.find(second.key) is second
        with pytest.raises(PoolError, match="begun before"):
            runs.start(first.key, work)


async def test_answers_that_are_unknown_late_repeated_or_too_large_change_nothing() -> None:
    bounds = ToolBounds.from_limits(Limits(tool_call_bytes=100))
    relay, results = ToolRelay((SPEC,), bounds, lambda: None), list[Any]()

    async def call() -> None:
        try:
            results.append(await relay.call("add", "{}"))
        except CodeInterpreterError as error:
            results.append(str(error))

    async with anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(call)
        await anyio.lowlevel.checkpoint()
        assert [call.number for call in relay.list_new(())] == [1, 2, 3]
        relay.answer(ToolAnswer(9, "nobody"))
        relay.answer(ToolAnswer(1, "12", is_last=False))
        relay.answer(ToolAnswer(1, "12", is_last=False))
        relay.answer(ToolAnswer(1, "34", at=2))
        relay.answer(ToolAnswer(1, "other"))
        relay.answer(ToolAnswer(2, "x" * 101, is_last=False))
        assert relay.list_gone((1, 2, 3, 8)) == (8,)
        assert relay.has_news((1, 2, 3)) is False
        relay.answer(ToolAnswer(3, "\ud800"))
    assert results == ["1234", "the result has more than 100 bytes", "\ufffd"]


def test_the_log_of_output_keeps_its_end_and_every_position() -> None:
    log = OutputLog(lambda: None)
    for stream, text in (("stdout", "ab"), ("stdout", "c"), ("stderr", "d"), ("result", "")):
        log.add(OutputEvent(stream, text))  # type: ignore[arg-type]  # a loop over literals
    assert log.read(0) == (0, (("stdout", "abc"), ("stderr", "d")))
    assert log.read(2) == (0, (("stdout", "abc"), ("stderr", "d")))
    assert log.read(3) == (3, (("stderr", "d"),))
    assert log.read(4) == (4, ())
    log.add(OutputEvent("stdout", "x" * MAX_CHARACTERS))
    log.add(OutputEvent("stdout", "y"))
    assert len(log) == MAX_CHARACTERS + 5
    assert MAX_CHARACTERS <= log.kept < MAX_CHARACTERS + 16_000
    at, chunks = log.read(4)
    text = "".join(text for _, text in chunks)
    assert (at, len(text), text[-2:]) == (len(log) - log.kept, log.kept, "xy")

"""Text sessions against replies that are hostile, cut or lost."""

from __future__ import annotations

import base64
import json
import re
import zlib
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import anyio
import pytest

from cci_plugins.azure.credentials import StaticKey
from cci_plugins.common.limits import Limits
from cci_plugins.errors import (
    CodeInterpreterError,
    FileTooLargeError,
    PoolError,
    PoolUnavailableError,
    ProtocolError,
    SessionLostError,
)
from cci_plugins.mcp_client import messages
from cci_plugins.models import ErrorInfo, Execution
from cci_plugins.pools.azure import agent_client, text_sessions
from cci_plugins.pools.azure.retry import RetryPolicy
from cci_plugins.pools.azure.text_sessions import TextSessions, needs_await

pytestmark = pytest.mark.anyio

SECOND = timedelta(seconds=1)
REPORT: dict[str, Any] = {
    "stdout": "hi\n",
    "stderr": "",
    "results": [],
    "error": None,
    "files": [],
    "instance": "i",
    "status": "succeeded",
    "state": "kept",
    "duration": 0.5,
    "isolation": "",
    "droppedCharacters": 0,
    "notes": [],
}


def pack(report: object) -> str:
    return base64.b64encode(zlib.compress(json.dumps(report).encode())).decode()


class Pool:
    """Replies to every request with what a function returns for its verb, as the agent does."""

    def __init__(self, answer: Callable[[str], Any]) -> None:
        self.answer = answer
        self.verbs: list[str] = []

    async def send(self, session_id: str, code: str, limit: timedelta) -> Execution:
        call = re.search(r"get_ipython\(\),'([0-9a-f]{32})',.*\('\{\"verb\": \"(\w+)\"", code)
        assert call is not None, code
        marker, verb = call.groups()
        self.verbs.append(verb)
        answer = self.answer(verb)
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, Execution):
            return answer
        header, chunk = answer
        return Execution(stdout=f"before{marker}{json.dumps(header)}\n{chunk}\n{marker}after")


async def run(answer: Callable[[str], Any], instance: str | None = "i") -> tuple[Any, list[str]]:
    pool = Pool(answer)
    retry = RetryPolicy(StaticKey("key"), timedelta(milliseconds=300))
    sessions = TextSessions(pool.send, retry=retry, limits=Limits(), margin=SECOND)
    with anyio.fail_after(20):
        try:
            execution = await sessions.execute("s", "1", timeout=SECOND, instance=instance)
        except CodeInterpreterError as error:
            return error, pool.verbs
    return execution, pool.verbs


def build_answer(report: object = REPORT, **header: Any) -> tuple[dict[str, Any], str]:
    chunk = pack(report)
    return {"instance": "i", "new": False, "at": 0, "total": len(chunk), **header}, chunk


async def test_a_report_in_one_answer_keeps_the_output_around_it() -> None:
    execution, verbs = await run(lambda _: build_answer())
    assert execution.stdout == "hi\nbeforeafter"
    assert (execution.instance, execution.duration) == ("i", timedelta(seconds=0.5))
    assert verbs == ["run"]


@pytest.mark.parametrize(
    "report",
    [
        [],
        {},
        7,
        {**REPORT, "files": [{}]},
        {**REPORT, "status": "splendid"},
        {**REPORT, "results": [{"data": 7}]},
        {**REPORT, "duration": "long"},
        {**REPORT, "droppedCharacters": []},
    ],
)
async def test_a_report_in_another_form_is_a_protocol_error(report: object) -> None:
    raised, _ = await run(lambda _: build_answer(report))
    assert isinstance(raised, ProtocolError), raised


async def test_a_malformed_report_and_a_decompression_bomb_are_protocol_errors(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for chunk in ("!!!", base64.b64encode(b"not zlib").decode(), "AAAA"):
        raised, _ = await run(lambda _, chunk=chunk: ({"total": len(chunk), "at": 0}, chunk))
        assert isinstance(raised, ProtocolError), raised
    monkeypatch.setattr(messages, "MAX_MEMORY", 1_000_000)
    raised, _ = await run(lambda _: build_answer([[]] * 100_000))  # each takes 64 bytes
    assert isinstance(raised, ProtocolError), raised
    monkeypatch.setattr(agent_client, "REPORT_BYTES", 1000)
    raised, _ = await run(lambda _: build_answer({**REPORT, "stdout": "x" * 10_000}))
    assert isinstance(raised, ProtocolError)
    raised, verbs = await run(lambda _: build_answer(total=10**15))
    assert isinstance(raised, ProtocolError)
    assert verbs == ["run"], "it must not be fetched"


async def test_a_replaced_session_is_lost_and_nothing_ran() -> None:
    raised, verbs = await run(lambda _: ({"replaced": True, "instance": "j"}, ""))
    assert isinstance(raised, SessionLostError)
    assert raised.retryable
    assert verbs == ["run"]


async def test_a_run_that_never_began_is_sent_again_under_another_name() -> None:
    answers = [PoolError("broken"), ({"instance": "i", "began": False}, ""), build_answer()]
    execution, verbs = await run(lambda _: answers.pop(0))
    assert execution.stdout.startswith("hi")
    assert verbs == ["run", "resolve_run", "run"]


async def test_a_run_whose_reply_was_lost_is_fetched_from_the_session() -> None:
    answers = [
        PoolError("broken"),
        ({"instance": "i", "began": True}, ""),
        build_answer(),
        build_answer(),
    ]
    answers[2] = ({**answers[2][0]}, "")  # type: ignore[index]
    execution, verbs = await run(lambda _: answers.pop(0))
    assert execution.stdout.startswith("hi")
    assert verbs == ["run", "resolve_run", "emit_report", "emit_report"]


@pytest.mark.parametrize(
    "fault",
    [PoolUnavailableError("refused"), SessionLostError("gone", retryable=True), ({"total": 0}, "")],
)
async def test_a_report_that_cannot_be_fetched_never_reads_as_if_nothing_ran(fault: Any) -> None:
    raised, verbs = await run(lambda verb: build_answer(total=9_000) if verb == "run" else fault)
    assert isinstance(raised, PoolError)
    assert not raised.retryable
    assert str(raised).startswith("the code ran, but its output is lost")
    assert verbs.count("run") == 1


@pytest.mark.parametrize(
    ("instance", "resolved"),
    [
        ("i", {"instance": "j", "began": False}),
        ("i", {"instance": "j", "began": False, "new": True}),
        (None, {"instance": "j", "began": False}),
        (None, {"instance": "j", "began": False, "new": True}),
        ("i", {"instance": "i", "began": True}),
    ],
)
async def test_an_unclear_outcome_is_an_error_that_states_it_and_the_code_is_not_sent_again(
    instance: str | None, resolved: dict[str, Any]
) -> None:
    is_found = instance is not None

    def answer(verb: str) -> Any:
        nonlocal is_found
        if not is_found:
            is_found = True
            return {"instance": "i", "total": 0}, ""
        if verb == "run":
            return PoolError("broken; the code may have run")
        return ({**resolved, "total": 0} if verb == "emit_report" else resolved), ""

    raised, verbs = await run(answer, instance)
    assert str(raised) == "broken; the code may have run"
    assert verbs.count("run") == 1


async def test_a_pool_that_refuses_every_try_raises_that_nothing_ran() -> None:
    def answer(verb: str) -> Any:
        return PoolError("broken") if verb == "run" else ({"instance": "i", "began": False}, "")

    raised, verbs = await run(answer)
    assert isinstance(raised, PoolUnavailableError)
    assert verbs.count("run") == text_sessions.MAX_TRIES


async def test_a_session_without_ipython_raises_that_the_code_may_have_run() -> None:
    failed = Execution(status="failed", error=ErrorInfo("NameError", "no get_ipython"))
    raised, verbs = await run(lambda _: failed)
    assert "may have run" in str(raised)
    assert verbs.count("run") == 1


async def test_a_file_that_is_too_large_stops_before_it_is_sent_build_answer() -> None:
    pool = Pool(lambda _: ({}, ""))
    retry = RetryPolicy(StaticKey("key"), SECOND)
    limits = Limits(pieces_bytes=text_sessions.UPLOAD_CHUNK)
    sessions = TextSessions(pool.send, retry=retry, limits=limits, margin=SECOND)

    async def content() -> Any:
        for _ in range(9):
            yield b"x" * text_sessions.UPLOAD_CHUNK

    with pytest.raises(FileTooLargeError):
        await sessions.upload("s", "a.bin", content())
    assert len(pool.verbs) == 1


@pytest.mark.parametrize(
    ("code", "awaits"),
    [
        ("1 + 1", False),
        ("await f()", True),
        ("async for x in y: pass", True),
        ("async def f():\n    await g()", False),
        ("%time await f()", True),
        ("!echo hi", False),
        ("x = (", False),
        ("'\\d'", False),
        ("(" * 5000, False),
    ],
)
def test_code_that_awaits_is_distinguished_from_other_code(code: str, *, awaits: bool) -> None:
    assert needs_await(code) is awaits


async def test_calls_that_find_a_replaced_session_at_the_same_time_all_bring_the_agent() -> None:
    is_replaced = False

    class ReplacedPool(Pool):
        async def send(self, session_id: str, code: str, limit: timedelta) -> Execution:
            has_source = len(code) > 5_000
            self.answer = lambda _: (
                ({"instance": "i", "done": True}, "")
                if has_source or not is_replaced
                else ({"absent": True}, "")
            )
            reply = await super().send(session_id, code, limit)
            await anyio.sleep(0.01)
            return reply

    retry = RetryPolicy(StaticKey("key"), timedelta(milliseconds=300))
    pool = ReplacedPool(lambda _: None)
    sessions = TextSessions(pool.send, retry=retry, limits=Limits(), margin=SECOND)
    await sessions.delete_file("s", "a")
    is_replaced = True
    async with anyio.create_task_group() as tasks:
        for name in ("a", "b", "c"):
            tasks.start_soon(sessions.delete_file, "s", name)
    assert pool.verbs == ["remove"] * 7


async def test_a_session_is_asked_for_its_instance_anew() -> None:
    instances = iter(("first", "second", "third"))

    class ReplacedPool(Pool):
        async def send(self, session_id: str, code: str, limit: timedelta) -> Execution:
            self.answer = lambda _: ({"instance": next(instances), "total": 0}, "")
            return await super().send(session_id, code, limit)

    retry = RetryPolicy(StaticKey("key"), timedelta(milliseconds=300))
    sessions = TextSessions(
        ReplacedPool(lambda _: None).send, retry=retry, limits=Limits(), margin=SECOND
    )
    assert await sessions.find_instance("s") == "first"
    assert await sessions.find_instance("s") == "second"

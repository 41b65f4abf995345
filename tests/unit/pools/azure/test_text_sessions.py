"""The client's side of the helper: what a session may say, and what a pool may do to it."""

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
from cci_plugins.models import ErrorInfo, Execution
from cci_plugins.pools.azure import text_sessions
from cci_plugins.pools.azure.retry import RetryPolicy
from cci_plugins.pools.azure.text_sessions import TextSessions, find_frame, needs_await

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


def packed(report: object) -> str:
    return base64.b64encode(zlib.compress(json.dumps(report).encode())).decode()


class Pool:
    """Answers every request by a function of its verb; prints what that gives in a frame."""

    def __init__(self, answer: Callable[[str], Any]) -> None:
        self.answer = answer
        self.verbs: list[str] = []

    async def send(self, session_id: str, code: str, limit: timedelta) -> Execution:
        call = re.search(r"\['_cci'\]\.(\w+)\('([0-9a-f]{32})'", code)
        assert call is not None, code
        verb, marker = call.groups()
        self.verbs.append(verb)
        given = self.answer(verb)
        if isinstance(given, Exception):
            raise given
        if isinstance(given, Execution):
            return given
        header, piece = given
        told = header if isinstance(header, str) else json.dumps(header)
        return Execution(stdout=f"before{marker}{told}\n{piece}{marker}after")


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


def whole(report: object = REPORT, **header: Any) -> tuple[dict[str, Any], str]:
    piece = packed(report)
    return {"instance": "i", "new": False, "at": 0, "total": len(piece), **header}, piece


async def test_a_report_in_one_answer_and_what_was_printed_beside_it() -> None:
    execution, verbs = await run(lambda _: whole())
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
    raised, _ = await run(lambda _: whole(report))
    assert isinstance(raised, ProtocolError), raised


async def test_a_report_that_is_no_report_or_a_bomb_is_a_protocol_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for piece in ("!!!", base64.b64encode(b"not zlib").decode(), "AAAA"):
        raised, _ = await run(lambda _, piece=piece: ({"total": len(piece), "at": 0}, piece))
        assert isinstance(raised, ProtocolError), raised
    monkeypatch.setattr(text_sessions, "REPORT_BYTES", 1000)
    raised, _ = await run(lambda _: whole({**REPORT, "stdout": "x" * 10_000}))
    assert isinstance(raised, ProtocolError)
    raised, verbs = await run(lambda _: whole(total=10**15))
    assert isinstance(raised, ProtocolError)
    assert verbs == ["run"], "it must not be fetched"


async def test_a_session_that_is_not_the_one_asked_for_is_lost_and_nothing_ran() -> None:
    raised, verbs = await run(lambda _: ({"replaced": True, "instance": "j"}, ""))
    assert isinstance(raised, SessionLostError)
    assert raised.retryable
    assert verbs == ["run"]


async def test_a_run_that_never_began_is_sent_again_under_another_name() -> None:
    answers = [PoolError("broken"), ({"instance": "i", "began": False}, ""), whole()]
    execution, verbs = await run(lambda _: answers.pop(0))
    assert execution.stdout.startswith("hi")
    assert verbs == ["run", "resolve_run", "run"]


async def test_a_run_whose_reply_was_lost_is_told_by_the_session() -> None:
    answers = [PoolError("broken"), ({"instance": "i", "began": True}, ""), whole(), whole()]
    answers[2] = ({**answers[2][0]}, "")  # type: ignore[index]
    execution, verbs = await run(lambda _: answers.pop(0))
    assert execution.stdout.startswith("hi")
    assert verbs == ["run", "resolve_run", "emit_report", "emit_report"]


@pytest.mark.parametrize(
    "fault",
    [PoolUnavailableError("refused"), SessionLostError("gone", retryable=True), ({"total": 0}, "")],
)
async def test_a_report_that_cannot_be_fetched_never_reads_as_if_nothing_ran(fault: Any) -> None:
    raised, verbs = await run(lambda verb: whole(total=9_000) if verb == "run" else fault)
    assert isinstance(raised, PoolError)
    assert not raised.retryable
    assert str(raised).startswith("the code ran, but what it put out is lost")
    assert verbs.count("run") == 1


@pytest.mark.parametrize(
    ("instance", "settled"),
    [
        ("i", {"instance": "j", "began": False}),
        ("i", {"instance": "j", "began": False, "new": True}),
        (None, {"instance": "i", "began": False}),
        (None, {"instance": "i", "began": False, "new": True}),
        ("i", {"instance": "i", "began": True}),
    ],
)
async def test_what_cannot_be_known_is_an_error_that_says_so_and_is_not_sent_again(
    instance: str | None, settled: dict[str, Any]
) -> None:
    def answer(verb: str) -> Any:
        if verb == "run":
            return PoolError("broken; the code may have run")
        return ({**settled, "total": 0} if verb == "emit_report" else settled), ""

    raised, verbs = await run(answer, instance)
    assert str(raised) == "broken; the code may have run"
    assert verbs.count("run") == 1


async def test_a_pool_that_refuses_again_and_again_says_that_nothing_ran() -> None:
    def answer(verb: str) -> Any:
        return PoolError("broken") if verb == "run" else ({"instance": "i", "began": False}, "")

    raised, verbs = await run(answer)
    assert isinstance(raised, PoolUnavailableError)
    assert verbs.count("run") == text_sessions.MAX_TRIES


async def test_a_session_without_ipython_says_why_it_cannot_be_used() -> None:
    failed = Execution(status="failed", error=ErrorInfo("NameError", "no get_ipython"))
    raised, verbs = await run(lambda _: failed)
    assert "may have run" in str(raised)
    assert verbs.count("run") == 1


async def test_a_file_that_is_too_large_stops_before_it_is_sent_whole() -> None:
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
def test_code_that_awaits_is_told_from_other_code(code: str, *, awaits: bool) -> None:
    assert needs_await(code) is awaits


MARKER = "ab" * 16


@pytest.mark.parametrize(
    "said",
    [
        "",
        "no frame",
        f"cut {MARKER}",
        f'cut {MARKER}{{"a": 1}}\nAAAA',
        f"{MARKER}no json\n{MARKER}",
        f"{MARKER}[1]\n{MARKER}",
        f'{MARKER}{{"a": 1}}{MARKER}',
    ],
)
def test_a_frame_that_is_not_whole_is_none(said: str) -> None:
    frame, around = find_frame(said, MARKER)
    assert frame is None
    assert MARKER not in around

"""The bounded history of a server."""

from __future__ import annotations

from datetime import timedelta

import anyio
import pytest

from cci_plugins.models import ErrorInfo, Execution, OutputEvent, Result

history = pytest.importorskip("cci_plugins.server.history")
pytestmark = pytest.mark.anyio


def test_a_run_is_found_with_its_output_until_it_ends_and_then_with_its_execution() -> None:
    kept = history.RunHistory()
    run = kept.begin("session-1", "rest", "print(1)")
    picture = Result({"image/png": "aGk="})
    kept.add_output(run, OutputEvent("stdout", "one\n"))
    kept.add_output(run, OutputEvent("result", result=picture))
    kept.add_output(run, OutputEvent("stderr", "two"))
    at, events = run.read(0)
    assert [event.text for event in events] == ["one\n", "", "two"]
    assert events[1].result == picture
    assert run.read(2) == (at, (OutputEvent("stdout", "e\n"), *events[1:]))
    assert run.read(4) == (at, events[1:])
    assert run.read(5) == (at, events[2:])
    assert run.read(at) == (at, ())
    assert (run.status, kept.find_session("session-1").is_busy) == ("running", True)

    kept.end(run, Execution(stdout="one\n", error=ErrorInfo("E", "x"), status="failed"))
    assert (run.status, run.execution.stdout) == ("failed", "one\n")
    assert run.outputs == run.execution.outputs
    assert kept.list_sessions()[0].runs == [run]


def test_a_run_that_did_not_stream_has_its_output_when_it_has_ended() -> None:
    kept = history.RunHistory()
    run = kept.begin("session-1", "mcp", "1")
    kept.end(run, Execution(stdout="all of it"))
    assert run.read(0)[1] == (OutputEvent("stdout", "all of it"),)


def test_a_run_without_an_execution_is_stopped_or_unknown() -> None:
    kept = history.RunHistory()
    stopped = kept.begin("session-1", "mcp", "1")
    kept.end(stopped, error="the pool failed")
    late = kept.begin("session-1", "mcp", "1", limit=timedelta(0))
    assert (stopped.status, stopped.error, late.status) == ("stopped", "the pool failed", "unknown")


def test_runs_sessions_and_bytes_are_bounded_and_the_oldest_goes_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(history, "MAX_RUNS", 3)
    monkeypatch.setattr(history, "MAX_SESSIONS", 2)
    monkeypatch.setattr(history, "MAX_BYTES", 33_500)
    kept = history.RunHistory()
    for number in range(5):
        kept.end(kept.begin("session-1", "rest", f"{number}"), Execution())
    session = kept.find_session("session-1")
    assert ([run.code for run in session.runs], session.dropped) == (["2", "3", "4"], 2)

    kept.end(kept.begin("session-2", "rest", "large"), Execution(stdout="x" * 15_000))
    assert ([run.code for run in session.runs], session.dropped) == (["3", "4"], 3)
    late = kept.begin("session-3", "rest", "1")
    assert kept.find_session("session-1") is None
    kept.end(late, Execution(stdout="y" * 30_000))
    assert kept.find_session("session-2").runs == []
    assert late in kept.find_session("session-3").runs, "the latest run is kept"


def test_a_large_run_is_cut_while_it_runs_and_when_it_has_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(history, "MAX_RUN_BYTES", 50_000)
    kept = history.RunHistory()
    run = kept.begin("session-1", "rest", "x" * 200_000)
    assert len(run.code) < 101_000
    assert "100,000 more characters" in run.code
    for _ in range(30):
        kept.add_output(run, OutputEvent("stdout", "o" * 9_000))
    at, events = run.read(0)
    assert at == 30 * 9_000
    assert sum(len(event.text) for event in events) <= 50_000
    kept.end(run, Execution(stdout="s" * 2**22, results=(Result({"text/html": "r" * 60_000}),)))
    assert len(run.execution.stdout) <= 2**19
    assert run.execution.results == ()
    assert "beginning of this output only" in run.execution.notes[-1]


def test_text_that_json_cannot_carry_is_replaced() -> None:
    kept = history.RunHistory()
    run = kept.begin("session-1", "rest", "print('\ud800')")
    kept.add_output(run, OutputEvent("stdout", "\ud800"))
    (run.code + run.read(0)[1][0].text).encode()


async def test_readers_wait_for_a_change_of_one_session_or_of_any() -> None:
    kept = history.RunHistory()
    run = kept.begin("session-1", "rest", "1")
    known = kept.find_session("session-1").version
    seen: dict[str | None, int] = {}

    async def wait(identifier: str | None, version: int) -> None:
        seen[identifier] = await kept.wait_for_change(identifier, version, seconds=30)

    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait, "session-1", known)
            tasks.start_soon(wait, "session-2", 0)
            tasks.start_soon(wait, None, kept.version)
            await anyio.wait_all_tasks_blocked()
            kept.add_output(run, OutputEvent("stdout", "x"))
            kept.begin("session-2", "rest", "1")
    assert seen["session-1"] > known
    assert seen["session-2"] == seen[None] == kept.version
    assert await kept.wait_for_change(None, kept.version, seconds=0) == kept.version

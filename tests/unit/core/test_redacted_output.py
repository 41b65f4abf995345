"""Tests of output without secrets: in order, bounded, and off the event loop when it is large."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from cci_plugins.core import redacted_output
from cci_plugins.core.redacted_output import RedactingOutput, redact_execution, transform_in_lane
from cci_plugins.core.rendering import render_text
from cci_plugins.models import Execution, FileInfo, OutputEvent, Result
from cci_plugins.redaction import forget, know

SECRET = "correct-horse-battery"
LARGE = 40_000


@pytest.fixture(autouse=True)
def _know_the_secret() -> Any:
    know(SECRET)
    yield
    forget(SECRET)


async def forward(events: list[OutputEvent]) -> list[OutputEvent]:
    seen: list[OutputEvent] = []
    output = RedactingOutput(seen.append)
    for event in events:
        output.handle(event)
    await output.finish()
    return seen


def test_large_and_small_chunks_keep_their_order_and_show_no_secret() -> None:
    large = OutputEvent("stdout", "a" * LARGE + SECRET[:10])
    display = OutputEvent("result", result=Result({"text/plain": SECRET + "b" * LARGE}))
    events = [
        OutputEvent("stdout", "first "),
        large,
        OutputEvent("stdout", SECRET[10:] + " last"),
        OutputEvent("stderr", "e"),
        display,
        OutputEvent("stdout", "!"),
    ]
    seen = asyncio.run(forward(events))
    stdout = "".join(event.text for event in seen if event.stream == "stdout")
    assert stdout == "first " + "a" * LARGE + "[redacted] last!"
    assert [event.stream for event in seen if event.text or event.result][-3:] == [
        "stderr",
        "result",
        "stdout",
    ]
    results = [event.result for event in seen if event.result is not None]
    assert [result.text for result in results] == ["[redacted]" + "b" * LARGE]


def test_small_output_is_forwarded_at_once() -> None:
    async def run() -> int:
        seen: list[OutputEvent] = []
        RedactingOutput(seen.append).handle(OutputEvent("stdout", "x\n"))
        return len(seen)

    assert asyncio.run(run()) == 1


def test_displays_are_left_out_while_too_many_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redacted_output, "MAX_WAITING_CHARACTERS", 3 * LARGE)
    display = OutputEvent("result", result=Result({"text/plain": "b" * LARGE}))
    text = OutputEvent("stdout", "x" * LARGE)
    seen = asyncio.run(forward([display] * 10 + [text] * 5))
    assert sum(event.result is not None for event in seen) == 2
    assert sum(len(event.text) for event in seen) == 5 * LARGE


def test_a_callback_that_fails_ends_the_live_output_only() -> None:
    def fail(_: OutputEvent) -> None:
        raise ValueError("of the host")

    async def run() -> None:
        output = RedactingOutput(fail)
        output.handle(OutputEvent("stdout", "x" * LARGE))
        await asyncio.sleep(0.1)
        await output._wait()

    asyncio.run(run())


def test_a_large_execution_is_redacted_in_another_thread_and_a_small_one_here() -> None:
    threads: list[int] = []

    def redact(execution: Execution) -> Execution:
        threads.append(threading.get_ident())
        return redact_execution(execution)

    async def run(text: str) -> str:
        return (await transform_in_lane(Execution(stdout=text), redact)).stdout

    assert asyncio.run(run(f"{SECRET} small")) == "[redacted] small"
    assert asyncio.run(run(f"{SECRET} {'x' * LARGE}")) == "[redacted] " + "x" * LARGE
    assert [thread == threading.get_ident() for thread in threads] == [True, False]


def test_the_event_loop_turns_while_a_large_text_is_redacted() -> None:
    async def run() -> int:
        turns = 0
        work = asyncio.create_task(
            transform_in_lane(Execution(stdout="sig=a " * 200_000), redact_execution)
        )
        while not work.done():
            turns += 1
            await asyncio.sleep(0.001)
        return turns

    assert asyncio.run(run()) > 20


def test_a_known_secret_in_the_name_of_a_file_is_hidden_from_the_model() -> None:
    execution = Execution(files=(FileInfo(f"{SECRET}.csv", 3),))
    assert render_text(execution, 1000) == "[files created or changed: [redacted].csv (3 bytes)]"
    assert redact_execution(execution).files[0].name == f"{SECRET}.csv"


def test_a_file_with_a_secret_in_its_name_is_a_resource_without_it() -> None:
    resources = pytest.importorskip("cci_plugins.server.mcp.resources")
    file = FileInfo(f"{SECRET} 1.csv", 3)
    resource = resources.to_resource(file)
    assert SECRET not in str(resource)
    assert resources._find([file], resources._parse_name(resource["uri"])) is file


def test_many_small_texts_and_lists_give_way_to_other_work(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    turns: list[int] = []
    monkeypatch.setattr(redacted_output, "give_way", lambda: turns.append(1))
    monkeypatch.setattr(redacted_output, "TURN_SECONDS", 0.0)
    texts = Result({"application/json": ["sig=" * 10] * 2_000})
    lists = Result({"application/json": [[]] * 6_000})
    for result in (texts, lists):
        turns.clear()
        asyncio.run(transform_in_lane(Execution(results=(result,)), redact_execution))
        assert len(turns) > 1_000


def test_a_display_of_many_values_is_large_without_being_measured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    measured: list[object] = []
    monkeypatch.setattr(redacted_output, "measure_forms", measured.append)
    execution = Execution(results=(Result({"application/json": [0] * 6_000}),))
    assert redacted_output.estimate_execution(execution) == redacted_output.LARGE_CHARACTERS
    assert measured == []

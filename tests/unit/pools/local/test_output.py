"""Tests of the output of one run: it is bounded and every message is checked."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cci_plugins.common.limits import SandboxLimits
from cci_plugins.in_session.streams import StreamBuffer
from cci_plugins.models import OutputEvent
from cci_plugins.pools.local.output import Collector

LIMITS = SandboxLimits(stream_characters=100, result_bytes=50, runaway_bytes=1000)


@given(chunks=st.lists(st.text(max_size=60), max_size=30), limit=st.integers(8, 200))
def test_a_stream_keeps_head_and_tail_and_counts_the_rest(chunks: list[str], limit: int) -> None:
    buffer, whole = StreamBuffer(limit), "".join(chunks)
    for chunk in chunks:
        buffer.add(chunk)
    if len(whole) <= limit:
        assert buffer.get_text() == whole
        assert buffer.dropped_characters == 0
    else:
        head, tail = limit * 3 // 4, limit - limit * 3 // 4
        assert buffer.get_text().startswith(whole[:head])
        assert buffer.get_text().endswith(whole[-tail:])
        assert buffer.dropped_characters == len(whole) - limit


def test_output_above_the_limit_is_runaway() -> None:
    collector = Collector(LIMITS, None)
    for _ in range(11):
        collector.handle_message("stream", {"name": "stdout", "text": "x" * 100})
    assert collector.is_runaway
    assert len(collector.stdout) < 200


def test_results_above_the_limit_are_counted_but_not_kept() -> None:
    collector = Collector(LIMITS, None)
    for _ in range(3):
        collector.handle_message("display_data", {"data": {"text/plain": "x" * 30}})
    assert len(collector.results) == 1
    assert collector.dropped_results == 2


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        ("stream", {"name": 3, "text": 4}),
        ("stream", {}),
        ("display_data", {"data": "no"}),
        ("display_data", {}),
        ("execute_result", {"data": {}}),
        ("unknown", {"data": {"text/plain": "x"}}),
    ],
)
def test_malformed_messages_are_ignored(kind: str, content: dict[str, Any]) -> None:
    collector = Collector(LIMITS, None)
    collector.handle_message(kind, content)
    assert (collector.stdout, collector.stderr, collector.results) == ("", "", ())


def test_a_malformed_error_is_read_as_text() -> None:
    collector = Collector(LIMITS, None)
    collector.handle_message("error", {"ename": 1, "evalue": None, "traceback": [2, "line"]})
    assert collector.error is not None
    assert (collector.error.name, collector.error.traceback) == ("1", "line")


def test_a_failing_output_handler_does_not_stop_the_run() -> None:
    calls: list[OutputEvent] = []

    def fail(event: OutputEvent) -> None:
        calls.append(event)
        raise RuntimeError

    collector = Collector(LIMITS, fail)
    for _ in range(2):
        collector.handle_message("stream", {"name": "stderr", "text": "x"})
    assert len(calls) == 1
    assert collector.stderr == "xx"

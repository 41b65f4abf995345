"""Tests of the bounds of a run's results: everything that takes memory is counted."""

from __future__ import annotations

from typing import Any

import pytest

from cci_plugins.common.limits import SandboxLimits
from cci_plugins.in_session.message_bounds import measure_forms
from cci_plugins.in_session.output_log import OutputLog
from cci_plugins.in_session.streams import StreamBuffer
from cci_plugins.pools.local.output import Collector

LIMITS = SandboxLimits(stream_characters=100, result_bytes=10_000, runaway_bytes=1000)
LARGE: dict[str, Any] = {
    "keys of a dict": {"x" * 6_000: 1, "y" * 6_000: 2},
    "empty texts": [""] * 2_000,
    "empty lists": [[]] * 500,
    "empty dicts": {str(number): {} for number in range(200)},
    "nothing": [None] * 2_000,
    "truths": [True] * 2_000,
    "a deep nest": {"a": [{"b": [{"c" * 12_000: ""}]}]},
    "a large number": [10**30_000],
}


@pytest.mark.parametrize("value", LARGE.values(), ids=LARGE)
def test_a_display_counts_with_its_keys_and_its_empty_values(value: Any) -> None:
    collector = Collector(LIMITS, None)
    collector.handle_message("display_data", {"data": {"application/json": value}})
    assert collector.results == ()
    assert collector.dropped_results == 1


def test_types_of_a_display_count() -> None:
    assert measure_forms({"x" * 20_000: ""}) > 10_000
    assert measure_forms({str(number): "" for number in range(1_000)}) > 10_000
    assert measure_forms({"text/plain": "42"}) == len("text/plain") + 2


def test_ids_of_displays_are_bounded_and_forgotten_with_their_display() -> None:
    collector = Collector(LIMITS, None)
    for number in range(1000):
        collector.handle_message(
            "display_data",
            {
                "data": {"text/plain": "x" * 100},
                "transient": {"display_id": f"{number}" + "i" * 900},
            },
        )
    assert len(collector.results) <= 10_000 // 1_000
    log = OutputLog(100, 10_000)
    for number in range(100):
        log.add_display({"text/plain": "x"}, 500, display_id=f"id-{number}")
    assert len(log._ids) == len(log.get_displays())


def test_a_forged_error_is_cut() -> None:
    collector = Collector(LIMITS, None)
    long = "x" * 9_000_000
    collector.handle_message("error", {"ename": long, "evalue": long, "traceback": [long, long]})
    assert collector.error is not None
    error = collector.error
    assert len(error.name) + len(error.message) + len(error.traceback) < 4_500_000


def test_small_chunks_do_not_copy_the_whole_tail() -> None:
    copied = 0

    class Counting(StreamBuffer):
        def _join_tail(self) -> str:
            nonlocal copied
            copied += self._tail_length
            return super()._join_tail()

    buffer = Counting(4_000)
    for _ in range(10_000):
        buffer.add("x" * 10)
    assert copied < 4 * 100_000
    assert buffer.dropped_characters == 96_000

"""Output inside progress notifications, written and read back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cci_plugins.mcp_client.progress import OUTPUT_KEY, StreamedOutput, dump_output, load_output
from cci_plugins.models import Execution, OutputEvent, Result

PIECES = st.lists(st.tuples(st.sampled_from(["stdout", "stderr"]), st.text(min_size=1)))


def params(pieces) -> dict:
    return {"progress": 1, "_meta": {OUTPUT_KEY: dump_output(pieces)}}


@given(PIECES)
def test_chunks_survive_the_round_trip_in_order(pieces):
    assert load_output(params(pieces)) == [OutputEvent(name, text) for name, text in pieces]


@pytest.mark.parametrize(
    "strange",
    [
        {},
        {"_meta": None},
        {"_meta": []},
        {"_meta": {OUTPUT_KEY: "text"}},
        {"_meta": {OUTPUT_KEY: {"stream": "stdout", "text": "a"}}},
        {"_meta": {OUTPUT_KEY: [None, 1, {}, {"stream": "stdout"}, {"stream": [], "text": "a"}]}},
        {"_meta": {OUTPUT_KEY: [{"stream": "stdout", "text": ""}, {"stream": "x", "text": "a"}]}},
    ],
)
def test_malformed_output_is_skipped(strange):
    assert load_output(strange) == []


@given(PIECES, st.integers(0, 20))
def test_each_character_is_emitted_once_whether_it_was_streamed_or_not(pieces, streamed):
    # the server may stream all of it, its beginning, or nothing
    out = "".join(text for name, text in pieces if name == "stdout")
    err = "".join(text for name, text in pieces if name == "stderr")
    result = Result({"text/plain": "42"}, is_main=True)
    emitted: list[OutputEvent] = []
    output = StreamedOutput(emitted.append)
    for piece in pieces[:streamed]:
        output(params([piece]))
    output.finish(Execution(stdout=out, stderr=err, results=(result,)))
    assert "".join(event.text for event in emitted if event.stream == "stdout") == out
    assert "".join(event.text for event in emitted if event.stream == "stderr") == err
    assert [event.result for event in emitted if event.stream == "result"] == [result]


def test_a_cut_reply_adds_nothing_to_output_that_was_streamed_whole():
    emitted: list[OutputEvent] = []
    output = StreamedOutput(emitted.append)
    output(params([("stdout", "x" * 100)]))
    output.finish(Execution(stdout="x" * 10))
    assert emitted == [OutputEvent("stdout", "x" * 100)]

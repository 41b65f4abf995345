"""Order, live displays and bounds of the output of one run."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from cci_plugins.in_session.output_log import OutputLog

IMAGE = {"image/png": "iVBORw0KGgo="}


def get_texts(log: OutputLog) -> list[Any]:
    return [display["data"]["text/plain"] for display in log.get_displays()]


def show(log: OutputLog, text: str, **options: Any) -> None:
    log.add_display({"text/plain": text}, len(text), **options)


def test_an_update_replaces_the_display_with_its_id() -> None:
    log = OutputLog(100, 100)
    show(log, "one", display_id="a")
    show(log, "two")
    log.update_display({"text/plain": "three"}, 5, "a")
    log.update_display({"text/plain": "new"}, 3, "b")
    log.update_display({"text/plain": "newer"}, 5, "b")
    assert get_texts(log) == ["three", "two", "newer"]


def test_clear_output_empties_at_once_or_when_the_next_output_arrives() -> None:
    log = OutputLog(100, 100)
    show(log, "one")
    log.add_text("stdout", "text")
    log.clear(wait=True)
    assert get_texts(log) == ["one"], "nothing has replaced it"
    show(log, "two")
    assert (get_texts(log), log.get_stream("stdout").get_text()) == (["two"], "")
    log.clear(wait=False)
    assert log.build_order() == []


def test_the_last_displays_are_kept_when_all_are_too_large() -> None:
    log = OutputLog(100, 10)
    for number in range(8):
        show(log, f"{number}" * 4)
    show(log, "x" * 11)
    assert get_texts(log) == ["6666", "7777"]
    assert log.dropped_displays == 7


def test_an_image_that_is_also_the_main_result_is_kept_once() -> None:
    log = OutputLog(100, 100)
    log.add_display(IMAGE, 12)
    log.add_display(IMAGE, 12, is_main=True)
    assert [display["is_main"] for display in log.get_displays()] == [True]


def test_the_gap_counts_what_was_sent_but_never_arrived() -> None:
    log = OutputLog(100, 100)
    log.add_text("stdout", "abc")
    log.set_sent("stdout", 1003)
    text = log.get_stream("stdout").get_text()
    assert text == "abc\n[... 1,000 characters not kept ...]\n"
    assert log.build_order() == [["stdout", len(text)]]


@given(
    st.lists(st.tuples(st.sampled_from(["stdout", "stderr", "result"]), st.text(max_size=40))),
    st.integers(8, 100),
)
def test_the_order_covers_all_that_is_kept(events: list[tuple[str, str]], limit: int) -> None:
    log = OutputLog(limit, 10_000)
    for kind, text in events:
        if kind == "result":
            show(log, text)
        elif text:
            log.add_text(kind, text)
    order = log.build_order()
    for name in ("stdout", "stderr"):
        kept = len(log.get_stream(name).get_text())
        assert sum(length for kind, length in order if kind == name) == kept
    assert sum(kind == "result" for kind, _ in order) == len(log.get_displays())
    kinds = [kind for kind, text in events if kind == "result" or text]
    merged = [k for i, k in enumerate(kinds) if k == "result" or i == 0 or kinds[i - 1] != k]
    if sum(len(text) for _, text in events) <= limit * 3 // 4:
        assert [kind for kind, _ in order] == merged

"""Tests of the pages that show runs, with text that an attacker chose."""

from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser

import pytest

from cci_plugins.core.html_pages import runs as bounds
from cci_plugins.core.html_pages.elements import escape_text, tag
from cci_plugins.core.html_pages.runs import (
    PageBudget,
    RunView,
    build_run,
    format_duration,
    format_size,
    view_execution,
)
from cci_plugins.core.html_pages.story import build_story
from cci_plugins.models import Execution, OutputEvent, Result

pytest.importorskip("hypothesis")

from hypothesis import given
from hypothesis import strategies as st

HOSTILE = st.text(
    st.sampled_from("<>&\"'/=! \n\r\t\0\x1b[31m;]\x07\x9b\u202e\ud800ab-"), max_size=60
)
PNG = "iVBORw0KGgo="


class Elements(HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.names: list[str] = []
        self.text = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.names.append(tag)

    def handle_data(self, data):
        self.text += data


def view(*outputs: OutputEvent, code: str = "1") -> RunView:
    return RunView(1, code, "running", datetime.now(UTC), timedelta(0), outputs=outputs)


@given(HOSTILE)
def test_text_never_becomes_an_element_or_a_control_code(text: str) -> None:
    page = Elements(tag("p", text, title=text) + tag("b", "end"))
    assert page.names == ["p", "b"]
    assert page.text.endswith("end")
    assert not set(page.text) & set("\0\x1b\x07\x9b\u202e\ud800")
    escape_text(text).encode()


def test_output_of_one_stream_is_one_block_though_it_came_in_chunks() -> None:
    chunks = [OutputEvent("stdout", part) for part in ("\x1b[3", "1mred\x1b", "[0m\n", "more")]
    page = build_run(view(*chunks, OutputEvent("stderr", "a warning")), PageBudget())
    assert ">red\nmore</pre>" in page
    assert ">a warning</pre>" in page


def test_long_and_many_outputs_are_cut_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds, "MAX_PIECES", 3)
    results = [OutputEvent("result", result=Result({"text/plain": "x" * 99_999}))] * 2
    results += [OutputEvent("result", result=Result({"text/plain": str(n)})) for n in range(8)]
    page = build_run(view(*results, code="y" * 99_999), PageBudget())
    assert len(page) < 3 * bounds.MAX_TEXT
    assert "characters left out" in page
    assert "more pieces of output are not shown" in page


def test_a_page_has_a_bound_for_all_its_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds, "MAX_PAGE_CHARACTERS", 50_000)
    budget = PageBudget()
    outputs = [OutputEvent("stderr" if n % 2 else "stdout", "<" * 9_999) for n in range(60)]
    page = build_run(view(*outputs), budget) + build_run(view(*outputs), budget)
    assert len(Elements(page).text) < 50_000 + 120 * 400


def test_pictures_stop_where_a_page_has_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds, "MAX_PICTURE_BYTES", 20)
    pictures = [OutputEvent("result", result=Result({"image/png": PNG})) for _ in range(4)]
    page = build_run(view(*pictures), PageBudget())
    assert page.count("<img") == 2
    assert page.count("a picture is not shown") == 2


def test_a_story_is_a_whole_page_without_a_server() -> None:
    run = view_execution(7, "print('<b>')", Execution(stdout="<b>\n"))
    page = build_story("Title", "lead", {"one <agent>": [("question", "<i>why?</i>"), run]})
    elements = Elements(page)
    assert {"script", "i", "form", "header"} & set(elements.names) == {"header"}
    assert elements.text.count("<i>why?</i>") == 1
    assert "default-src &#x27;none&#x27;" in page or "default-src 'none'" in page
    assert "/sessions" not in page


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 ms"),
        (0.0154, "15 ms"),
        (0.9999, "1.0 s"),
        (9.94, "9.9 s"),
        (61, "61 s"),
        (600, "10 min"),
        (7200, "2 h"),
        (200_000, "2 days"),
        (-5, "0 ms"),
    ],
)
def test_durations_are_written_as_people_do(seconds: float, text: str) -> None:
    assert format_duration(timedelta(seconds=seconds)) == text


def test_sizes_are_written_as_people_do() -> None:
    sizes = [0, 1, 999, 1000, 12_345, 5_000_000, 3_000_000_000]
    texts = ["0 bytes", "1 byte", "999 bytes", "1.0 KB", "12 KB", "5.0 MB", "3.0 GB"]
    assert [format_size(size) for size in sizes] == texts

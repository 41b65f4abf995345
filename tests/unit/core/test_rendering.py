"""What a model reads of an execution."""

from __future__ import annotations

from base64 import b64encode
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cci_plugins.common.limits import Limits
from cci_plugins.core.rendering import clean, clip, render_text
from cci_plugins.models import ErrorInfo, Execution, FileInfo, Result

BUDGET = Limits().output_characters


def test_an_empty_run_is_rendered_as_no_output() -> None:
    assert render_text(Execution(), BUDGET) == "(no output)"


def test_streams_result_and_files_come_in_order() -> None:
    execution = Execution(
        stdout="printed\n",
        stderr="warned\n",
        results=(Result({"text/plain": "42"}, is_main=True),),
        files=(FileInfo("out.csv", 1234),),
    )
    assert render_text(execution, BUDGET) == (
        "printed\n[stderr]\nwarned\n42\n[files created or changed: out.csv (1,234 bytes)]"
    )


def test_an_image_is_named_and_its_base64_is_not_shown() -> None:
    image = Result({"image/png": "iVBORw0KGgo" * 1000, "text/plain": "<Figure size 640x480>"})
    text = render_text(Execution(results=(image,)), BUDGET)
    assert text == "[image 1: image/png, shown to the user]"


def test_a_loss_comes_first() -> None:
    execution = Execution(stdout="x", state="lost", notes=("the session was replaced",))
    assert render_text(execution, BUDGET).startswith("[the session was replaced]")


def test_a_loss_without_a_note_is_reported_too() -> None:
    assert "gone" in render_text(Execution(state="lost"), BUDGET)


def test_the_error_is_kept_when_the_output_is_huge() -> None:
    execution = Execution(
        stdout="x" * 5_000_000,
        error=ErrorInfo("ValueError", "the reason", "Traceback ...\nValueError: the reason"),
    )
    text = render_text(execution, BUDGET)
    assert len(text) <= BUDGET
    assert "ValueError: the reason" in text
    assert "characters left out" in text
    assert text.count("ValueError: the reason") == 1


def test_both_streams_share_the_budget() -> None:
    text = render_text(Execution(stdout="o" * 50_000, stderr="e" * 50_000), BUDGET)
    assert len(text) <= BUDGET
    assert text.count("o") > 1000
    assert text.count("e") > 1000


def test_progress_bars_and_colours_are_removed() -> None:
    noisy = "\x1b[31mred\x1b[0m\n 10%|#\r 50%|##\r100%|###\nbell\x07\x00"
    assert clean(noisy) == "red\n100%|###\nbell\N{REPLACEMENT CHARACTER}"


def test_windows_line_ends_are_line_ends() -> None:
    assert clean("a\r\nb\r\n") == "a\nb\n"


def test_printed_base64_is_counted_not_shown() -> None:
    encoded = b64encode(bytes(range(256)) * 12).decode()
    assert clean(f"x: {encoded}.") == "x: [4,096 characters of base64]."
    assert clean("-" * 4096 + "A" * 4096) == "-" * 4096 + "A" * 4096


def test_emoji_survive_and_lone_surrogates_do_not() -> None:
    assert clean("\N{SNAKE}\ud800") == "\N{SNAKE}\N{REPLACEMENT CHARACTER}"


def test_clip_keeps_head_and_tail_and_counts() -> None:
    text = clip("a" * 500 + "z" * 500, 200)
    assert text.startswith("a")
    assert text.endswith("z")
    assert "800 of 1,000 characters left out" in text
    assert len(text) <= 200


@given(
    stdout=st.text(max_size=3000),
    stderr=st.text(max_size=3000),
    message=st.text(max_size=2000),
    results=st.lists(st.text(max_size=2000), max_size=5),
    budget=st.integers(min_value=500, max_value=4000),
)
def test_the_budget_always_holds(
    stdout: str, stderr: str, message: str, results: list[str], budget: int
) -> None:
    execution = Execution(
        stdout=stdout,
        stderr=stderr,
        results=tuple(Result({"text/plain": text}) for text in results),
        error=ErrorInfo("E", message, "trace"),
        duration=timedelta(1),
    )
    text = render_text(execution, budget)
    assert len(text) <= budget
    text.encode()


@pytest.mark.parametrize("count", [21, 200])
def test_many_files_are_summed_up(count: int) -> None:
    files = tuple(FileInfo(f"file-{number}", 1) for number in range(count))
    assert f"and {count - 20} more" in render_text(Execution(files=files), BUDGET)


def test_a_syntax_error_is_shown_once() -> None:
    trace = "  Cell In[1], line 1\n    def\n       ^\nSyntaxError: invalid syntax"
    error = ErrorInfo("SyntaxError", "invalid syntax (2766372415.py, line 1)", trace)
    assert render_text(Execution(error=error), BUDGET).count("SyntaxError") == 1

"""Text of sessions for a terminal."""

from __future__ import annotations

import pytest

from cci_plugins.cli import console
from cci_plugins.cli.safe_text import MarkedWriter, escape_text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\tb\nc é 漢 🙂", "a\tb\nc é 漢 🙂"),
        ("\x1b[2J\x07\x08", "\\x1b[2J\\x07\\x08"),
        ("\x9b31m", "\\x9b31m"),
        ("one\r\ntwo\rthree", "one\ntwo\\rthree"),
        ("\u202egpj", "\\u202egpj"),
        ("\ud800", "\\ud800"),
        ("a\u2028b", "a\\u2028b"),
    ],
)
def test_control_codes_are_escaped_and_text_stays(text: str, shown: str) -> None:
    assert escape_text(text) == shown


def test_the_words_of_a_pool_reach_no_terminal_as_control_codes(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for show in (console.print_error, console.print_warning, console.print_hint):
        show("the pool failed:\n\x1b]0;evil\x07\x9b2J")
    console.print_error("it failed", "do this\x1b[2J")
    shown = capsys.readouterr().err
    assert shown.count("\\x1b]0;evil\\x07\\x9b2J") == 3
    assert "\x1b" not in shown


def test_each_line_has_a_mark_also_when_it_comes_in_parts() -> None:
    written: list[str] = []
    writer = MarkedWriter(written.append)
    for part in ("one\nt", "wo", "\nrun 9 succeeded"):
        writer.write(part, "  | ")
    writer.end_line()
    writer.end_line()
    assert "".join(written) == "  | one\n  | two\n  | run 9 succeeded\n"

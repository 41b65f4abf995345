"""The help of every command."""

from collections.abc import Iterator
from typing import Any

import pytest
import typer

from cci_plugins.cli import app as cli


def _list_commands(group: Any, prefix: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    yield prefix
    for name, command in getattr(group, "commands", {}).items():
        yield from _list_commands(command, (*prefix, name))


COMMANDS = list(_list_commands(typer.main.get_command(cli.app)))


def _read_help(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    command: tuple[str, ...],
    columns: int,
) -> str:
    monkeypatch.setenv("COLUMNS", str(columns))
    assert cli.start([*command, "--help"]) == 0
    return capsys.readouterr().out


@pytest.mark.quick("44")
@pytest.mark.parametrize("columns", [44, 80, 200])
@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_no_line_of_a_help_is_wider_than_the_terminal(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    command: tuple[str, ...],
    columns: int,
) -> None:
    lines = _read_help(capsys, monkeypatch, command, columns).splitlines()
    assert [line for line in lines if len(line) > min(columns, 88)] == []
    assert not any(mark in line for line in lines for mark in ("<", "…", "│"))


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_has_an_example_or_commands(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    text = _read_help(capsys, monkeypatch, command, 80)
    assert "\nExample" in text or "\nCommands:" in text
    assert text.startswith(f"Usage: {' '.join(('cci', *command))}")


def test_types_are_words_that_people_read(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = _read_help(capsys, monkeypatch, ("run",), 200)
    words = " ".join(text.split())
    assert "Usage: cci run [OPTIONS] CODE [-- ARGUMENT...]" in words
    assert "--upload PATH" in words
    assert "--timeout SECONDS" in words
    assert words.count("May be given more than once.") == 3
    assert "One of auto, bwrap, landlock, seatbelt, process." in words

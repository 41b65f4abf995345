"""The next steps that `cci run` prints, and its signs of life."""

from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from cci_plugins.cli import app as cli
from cci_plugins.cli import console
from cci_plugins.cli import run as run_command
from cci_plugins.cli.run_hints import suggest_download, suggest_upload
from cci_plugins.models import ErrorInfo, Execution, FileInfo
from cci_plugins.testing import FakeSessionPool

MISSING = ErrorInfo("FileNotFoundError", "[Errno 2] No such file or directory: 'sales.csv'")


def _run(*files: FileInfo) -> Execution:
    return Execution(files=files)


@pytest.mark.parametrize(
    ("files", "patterns", "expected"),
    [
        ([], (), None),
        (["a.xlsx"], (), "a.xlsx (4.9 kB). To save them here, add: --download '*.xlsx'"),
        (["a.xlsx"], ("*.xlsx",), None),
        (["a.xlsx", "b.csv"], ("*.xlsx",), "b.csv (4.9 kB). To save them here, add: "),
        (["out/b.csv", "LICENSE"], (), "add: --download '*.csv' --download 'LICENSE'"),
        (["a.a", "a.b", "a.c", "a.d"], (), "add: --download '*'"),
        ([f"{n}.csv" for n in range(8)], (), "4.csv (4.9 kB) and 3 more. To save"),
        ([".cache", "a/.b/c.csv"], (), None),
    ],
)
def test_files_that_the_code_made_are_named_with_the_option_that_saves_them(
    files: list[str], patterns: tuple[str, ...], expected: str | None
) -> None:
    text = suggest_download([_run(*(FileInfo(name, 4900) for name in files))], patterns)
    assert text is None if expected is None else expected in (text or "")


def test_a_file_that_a_later_run_changed_is_named_once() -> None:
    text = suggest_download([_run(FileInfo("a.csv", 1)), _run(FileInfo("a.csv", 2))], ())
    assert text is not None
    assert text.startswith("files in the session: a.csv (2 bytes). ")


@pytest.mark.parametrize(
    "error",
    [
        MISSING,
        ErrorInfo("FileNotFoundError", "sales.csv not found."),
        ErrorInfo("FileNotFoundError", "No such file or directory (os error 2): sales.csv"),
        ErrorInfo("IOException", 'No files found that match the pattern "sales.csv"'),
    ],
)
def test_a_file_that_only_this_machine_has_is_offered(error: ErrorInfo, tmp_path: Path) -> None:
    (tmp_path / "sales.csv").write_text("a")
    hint = suggest_upload(error, [tmp_path / "elsewhere", tmp_path])
    assert hint is not None
    assert hint.endswith(f"Add: --upload {tmp_path / 'sales.csv'}")


def test_a_path_is_offered_with_the_name_that_it_gets(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "sales.csv").write_text("a")
    error = ErrorInfo("FileNotFoundError", "No such file: 'data/sales.csv'")
    hint = suggest_upload(error, [tmp_path])
    assert hint is not None
    assert hint.endswith("sales.csv, and open it as 'sales.csv'")


@pytest.mark.parametrize(
    "error",
    [
        None,
        MISSING,
        ErrorInfo("ValueError", "'here.csv'"),
        ErrorInfo("FileNotFoundError", "'\0' '" + "a" * 5000 + "' .. / ~"),
    ],
)
def test_nothing_is_offered_without_such_a_file(error: ErrorInfo | None, tmp_path: Path) -> None:
    (tmp_path / "here.csv").write_text("a")
    assert suggest_upload(error, [tmp_path]) is None


def test_the_command_prints_both(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("sales.csv").write_text("a")
    execution = Execution(error=MISSING, status="failed", files=(FileInfo("a.csv", 1),))
    monkeypatch.setattr(run_command, "build_pool", lambda _: FakeSessionPool(execution))
    assert cli.start(["run", "code"]) == 1
    assert capsys.readouterr().err.splitlines()[-2:] == [
        "hint: the session has no 'sales.csv', but this machine has. Add: --upload sales.csv",
        "files in the session: a.csv (1 byte). To save them here, add: --download '*.csv'",
    ]


def test_silence_is_shown_until_output_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = StringIO()
    terminal = Console(file=screen, force_terminal=True, width=80, _environ={"TERM": "xterm"})
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setattr(console, "create_stderr_console", lambda: terminal)
    monkeypatch.setattr(console._Silence, "_SECONDS", 0)
    with console.show_silence("the code is running") as end_silence:
        while "the code is running (" not in screen.getvalue():
            pass
        end_silence("half a line")
        shown = screen.getvalue()
        assert shown.endswith("\x1b[2K")  # the spinner is erased before output follows
    assert screen.getvalue() == shown


def test_tracebacks_are_coloured_on_a_terminal_only(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trace = "Cell In[1], line 1\n----> 1 1/0\n\nZeroDivisionError: division by zero"
    console.print_traceback(trace)
    assert capsys.readouterr().err == f"{trace}\n"
    screen = StringIO()
    terminal = Console(file=screen, force_terminal=True, color_system="standard")
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setattr(console, "create_stderr_console", lambda: terminal)
    console.print_traceback(trace)
    assert "\x1b[1;31mZeroDivisionError\x1b[0m: division by zero" in screen.getvalue()

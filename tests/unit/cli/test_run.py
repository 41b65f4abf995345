"""Tests of `cci run` over a fake pool: output, files, errors and exit codes."""

from __future__ import annotations

import json
import logging
from base64 import b64encode
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from typing_extensions import override

from cci_plugins import errors
from cci_plugins.cli import app as cli
from cci_plugins.cli import run as run_command
from cci_plugins.cli.console import ExitCode, get_exit_code
from cci_plugins.errors import CodeInterpreterError
from cci_plugins.models import ErrorInfo, Execution, FileInfo, Result
from cci_plugins.pools.base import OutputHandler, SessionPool
from cci_plugins.testing import FakeSessionPool

VARIABLES = ("AZURE_SESSION_POOL_MCP_ENDPOINT", "AZURE_SESSION_POOL_MCP_KEY", "MCP_SERVER_URL")
FAILED = Execution(
    error=ErrorInfo(
        "ZeroDivisionError", "division by zero", "Traceback\nZeroDivisionError: division by zero"
    ),
    status="failed",
)
PNG = Result({"image/png": b64encode(b"\x89PNG").decode()})

Use = Callable[[SessionPool], None]


class BrokenPool(FakeSessionPool):
    """Session pool that fails every run with one error."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    @override
    async def execute(
        self,
        session_id: str,
        code: str,
        *,
        timeout: timedelta,
        on_output: OutputHandler | None = None,
        instance: str | None = None,
    ) -> Execution:
        raise self.error


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Remove this machine's settings, use an empty folder, and restore the logger."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    logger = logging.getLogger("cci_plugins")
    handlers, propagate = list(logger.handlers), logger.propagate
    yield
    logger.handlers, logger.propagate = handlers, propagate


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Use:
    return lambda pool: monkeypatch.setattr(run_command, "build_pool", lambda _: pool)


def error_kinds(of: type[CodeInterpreterError] = CodeInterpreterError) -> Iterator[type]:
    for kind in of.__subclasses__():
        if kind.__module__ == errors.__name__:
            yield kind
            yield from error_kinds(kind)


@pytest.mark.parametrize("kind", list(error_kinds()))
def test_every_error_of_the_package_has_an_exit_code(kind: type[CodeInterpreterError]) -> None:
    assert get_exit_code(kind.__new__(kind)) is not ExitCode.INTERNAL


def test_output_goes_to_its_stream_and_the_value_to_stdout(
    use: Use, capsys: pytest.CaptureFixture[str]
) -> None:
    value = Result({"text/plain": "42"}, is_main=True)
    use(FakeSessionPool(Execution(stdout="out\n", stderr="err\n", results=(value,))))
    assert cli.start(["run", "code"]) == 0
    captured = capsys.readouterr()
    assert captured.out == "out\n42\n"
    assert captured.err == "err\n"


def test_images_are_saved_and_named_on_stderr(use: Use, capsys: pytest.CaptureFixture[str]) -> None:
    use(FakeSessionPool(Execution(results=(PNG, PNG))))
    assert cli.start(["run", "code", "--output", "charts"]) == 0
    assert capsys.readouterr().err == "saved charts/image-1.png\nsaved charts/image-2.png\n"
    assert Path("charts/image-2.png").read_bytes() == b"\x89PNG"


def test_a_failure_of_the_code_goes_to_stderr_with_exit_code_1(
    use: Use, capsys: pytest.CaptureFixture[str]
) -> None:
    use(FakeSessionPool(FAILED))
    assert cli.start(["run", "code"]) == 1
    assert capsys.readouterr() == ("", "Traceback\nZeroDivisionError: division by zero\n")


@pytest.mark.parametrize(("message", "code"), [("", 0), ("0", 0), ("3", 3), ("no file", 1)])
def test_a_script_may_end_itself(
    use: Use, capsys: pytest.CaptureFixture[str], message: str, code: int
) -> None:
    error = ErrorInfo("SystemExit", message)
    use(FakeSessionPool(Execution(error=error, status="failed")))
    assert cli.start(["run", "code"]) == code
    assert ("SystemExit" in capsys.readouterr().err) == bool(code)


def test_a_display_object_prints_its_source(use: Use, capsys: pytest.CaptureFixture[str]) -> None:
    plain = {"text/plain": "<IPython.core.display.Markdown object>"}
    html = Result(plain | {"text/html": "<b>x</b>"})
    use(FakeSessionPool(Execution(results=(Result(plain | {"text/markdown": "**x**"}), html))))
    assert cli.start(["run", "code"]) == 0
    captured = capsys.readouterr()
    assert captured.out == "**x**\n"
    assert captured.err == "displayed text/html (use --save-notebook or --json to see it)\n"


def test_a_time_out_has_exit_code_124(use: Use, capsys: pytest.CaptureFixture[str]) -> None:
    error = ErrorInfo("TimeoutError", "it ran longer than 1 s", "Traceback\nKeyboardInterrupt:")
    use(FakeSessionPool(Execution(error=error, status="timed_out")))
    assert cli.start(["run", "code", "--timeout", "1"]) == 124
    assert capsys.readouterr().err == (
        "Traceback\nKeyboardInterrupt:\nerror: TimeoutError: it ran longer than 1 s\n"
    )


def test_json_is_one_line_with_everything_except_the_bytes_of_images(
    use: Use, capsys: pytest.CaptureFixture[str]
) -> None:
    execution = Execution(
        stdout="out\n",
        results=(PNG, Result({"text/plain": "42"}, is_main=True)),
        files=(FileInfo("a.csv", 8, "text/csv"),),
        duration=timedelta(seconds=1.5),
        isolation="bwrap",
    )
    use(FakeSessionPool(execution))
    assert cli.start(["run", "code", "--json"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1
    assert json.loads(lines[0]) == {
        "status": "succeeded",
        "text": "42",
        "stdout": "out\n",
        "stderr": "",
        "error": None,
        "files": [{"name": "a.csv", "size": 8, "media_type": "text/csv"}],
        "state": "kept",
        "duration_seconds": 1.5,
        "isolation": "bwrap",
        "dropped_characters": 0,
        "notes": [],
        "results": [
            {"is_main": False, "data": {}, "image": "image-1.png"},
            {"is_main": True, "data": {"text/plain": "42"}, "image": None},
        ],
    }


def test_uploads_come_before_the_run_and_downloads_after_it(
    use: Use, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("in.csv").write_text("1")
    use(FakeSessionPool())
    assert cli.start(["run", "code", "--upload", "in.csv", "--download", "*.csv"]) == 0
    assert capsys.readouterr().err == "saved in-1.csv\n"
    assert Path("in-1.csv").read_text() == "1"


def test_a_download_without_a_match_is_an_error(
    use: Use, capsys: pytest.CaptureFixture[str]
) -> None:
    use(FakeSessionPool())
    assert cli.start(["run", "code", "--download", "*.csv"]) == 2
    assert capsys.readouterr().err == (
        "error: the session has no file that matches '*.csv'\n\nhint: files in the session: none\n"
    )


def test_the_failure_of_the_code_counts_more_than_a_download_without_a_match(
    use: Use, capsys: pytest.CaptureFixture[str]
) -> None:
    use(FakeSessionPool(FAILED))
    assert cli.start(["run", "code", "--download", "*.csv"]) == 1
    assert "warning: the session has no file that matches" in capsys.readouterr().err


def test_a_named_session_of_the_embedded_pool_warns_that_it_ends(
    use: Use, capsys: pytest.CaptureFixture[str]
) -> None:
    use(FakeSessionPool())
    assert cli.start(["run", "code", "--session", "alice"]) == 0
    assert capsys.readouterr().err.splitlines() == [
        "hint: sessions of the embedded pool end with the command. To keep them, run: cci serve"
    ]


def test_a_session_of_a_served_pool_is_the_same_for_the_same_name(
    use: Use, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AZURE_SESSION_POOL_MCP_ENDPOINT", "http://127.0.0.1:1/mcp")
    monkeypatch.setenv("AZURE_SESSION_POOL_MCP_KEY", "k" * 32)
    ids = []
    for name in ("alice", "alice", "bob"):
        pool = FakeSessionPool()
        use(pool)
        assert cli.start(["run", "code", "--session", name]) == 0
        ids.append(pool.calls[0][0])
    assert ids[0] == ids[1] != ids[2]


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (errors.AuthenticationError("no"), 4, "error: no\n"),
        (
            errors.PoolUnavailableError("gone", hint="cci serve"),
            5,
            "error: gone\n\nhint: cci serve",
        ),
        (RuntimeError("bug"), 70, "error: unexpected RuntimeError: bug\n\nhint: run again: cci"),
    ],
)
def test_an_error_is_a_line_and_an_exit_code(
    use: Use,
    capsys: pytest.CaptureFixture[str],
    error: Exception,
    code: int,
    message: str,
) -> None:
    use(BrokenPool(error))
    assert cli.start(["run", "code"]) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(message)
    assert "Traceback" not in captured.err


def test_debug_shows_the_traceback_of_its_own_command(
    use: Use, capsys: pytest.CaptureFixture[str]
) -> None:
    use(BrokenPool(RuntimeError("bug")))
    assert cli.start(["--debug", "run", "code"]) == 70
    assert "Traceback" in capsys.readouterr().err
    assert cli.start(["run", "code"]) == 70
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run"], "Usage: cci run"),
        ([], "Usage: cci"),
        (["walk"], "error: no such command 'walk'"),
        (["run", "1", "--timeout", "soon"], "error: invalid value for '--timeout'"),
        (["run", "1", "--timeout", "0"], "error: invalid value for '--timeout'"),
        (["run", "1", "--upload", "missing.csv"], "error: invalid value for '--upload'"),
        (["run", "missing.py"], "error: cannot read missing.py: No such file"),
    ],
)
def test_a_wrong_command_line_has_exit_code_2(
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert cli.start(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == "" or not arguments or arguments == ["run"]
    assert message in captured.out + captured.err


def test_isolation_is_rejected_for_a_served_pool(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AZURE_SESSION_POOL_MCP_ENDPOINT", "http://127.0.0.1:1/mcp")
    monkeypatch.setenv("AZURE_SESSION_POOL_MCP_KEY", "k" * 32)
    assert cli.start(["run", "1", "--isolation", "bwrap"]) == 3
    assert "error: --isolation works only with the embedded pool" in capsys.readouterr().err


def test_half_a_configuration_is_an_error_that_names_the_variable(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AZURE_SESSION_POOL_MCP_ENDPOINT", "http://127.0.0.1:1/mcp")
    assert cli.start(["run", "1"]) == 3
    assert "AZURE_SESSION_POOL_MCP_KEY is not set" in capsys.readouterr().err

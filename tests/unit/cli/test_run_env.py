"""Tests of `cci run --env` over a fake pool."""

from __future__ import annotations

from pathlib import Path

import pytest

from cci_plugins.cli import app as cli
from cci_plugins.cli import run as run_command
from cci_plugins.cli.variables import parse_session_variables
from cci_plugins.common.environment import Secret
from cci_plugins.models import Execution
from cci_plugins.testing import FakeSessionPool

TOKEN = "correct horse battery"
POOL = {"AZURE_SESSION_POOL_MCP_ENDPOINT": "http://127.0.0.1:1/mcp"}
POOL["AZURE_SESSION_POOL_MCP_KEY"] = "k" * 32


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in (*POOL, "MCP_SERVER_URL", "A_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def pool(monkeypatch: pytest.MonkeyPatch) -> FakeSessionPool:
    pool = FakeSessionPool(Execution(stdout=f"the token is {TOKEN}\n"))
    monkeypatch.setattr(run_command, "build_pool", lambda _: pool)
    return pool


def get_variables(pool: FakeSessionPool) -> dict[str, str]:
    (variables,) = pool.environments.values()
    return variables


def test_the_last_value_of_a_name_wins_and_a_value_may_have_equals_signs(
    pool: FakeSessionPool,
) -> None:
    given = ["--env", "A=1", "--env", "B=x=y=", "--env", "A=", "--env", "C= ä"]
    assert cli.start(["run", "code", *given]) == 0
    assert get_variables(pool) == {"A": "", "B": "x=y=", "C": " ä"}


@pytest.mark.parametrize("form", [(), ("--json",)])
def test_a_value_of_the_callers_environment_is_redacted_from_the_output(
    pool: FakeSessionPool,
    form: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("A_TOKEN", TOKEN)
    options = ["--env", "A_TOKEN", "--save-notebook", "run.ipynb", *form]
    assert cli.start(["run", f"'{TOKEN}'", *options]) == 0
    assert get_variables(pool) == {"A_TOKEN": TOKEN}
    captured = capsys.readouterr()
    assert "the token is [redacted]" in captured.out
    assert TOKEN not in captured.out + captured.err + Path("run.ipynb").read_text()


def test_a_value_that_is_too_short_to_be_hidden_causes_a_warning(
    pool: FakeSessionPool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("A_TOKEN", "short")
    assert cli.start(["run", "code", "--env", "A_TOKEN"]) == 0
    assert get_variables(pool) == {"A_TOKEN": "short"}
    assert capsys.readouterr().err == (
        "warning: the value of A_TOKEN has fewer than 8 characters, so output can show it\n"
    )


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("A_TOKEN", "--env A_TOKEN has no value: this command's environment has no such variable"),
        (f"={TOKEN}", "--env =... has no name"),
        ("", "--env '' has no name"),
        (f"1A={TOKEN}", "env has an invalid name of a variable ('1A')"),
        (f"SESSION_FOLDER={TOKEN}", "env cannot set SESSION_FOLDER"),
        (f"A={'x' * 70_000}", "the variables of env have 70,001 bytes"),
    ],
)
def test_an_invalid_variable_is_refused_before_code_runs(
    pool: FakeSessionPool, given: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.start(["run", "code", "--env", given]) == 3
    error = capsys.readouterr().err
    assert f"error: {message}" in error
    assert "hint: " in error
    assert TOKEN not in error
    assert pool.calls == []


def test_options_win_over_the_variables_that_settings_give_to_remote_sessions(
    pool: FakeSessionPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in POOL.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("CCI_SESSION_ENV_REGION", "north")
    monkeypatch.setenv("CCI_SESSION_ENV_LEVEL", "1")
    assert cli.start(["run", "code", "--env", "LEVEL=2"]) == 0
    assert get_variables(pool) == {"REGION": "north", "LEVEL": "2"}


def test_values_given_by_name_alone_are_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_TOKEN", TOKEN)
    variables = parse_session_variables(["A_TOKEN", f"B={TOKEN}"])
    assert variables == {"A_TOKEN": Secret(TOKEN), "B": TOKEN}

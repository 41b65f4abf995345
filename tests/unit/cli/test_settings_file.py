"""Every command refuses a `.env` of the folder that would act on this machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from cci_plugins.cli.app import start
from cci_plugins.common.settings import Settings

COMMANDS = {
    "run": ["run", "1"],
    "mcp": ["mcp"],
    "serve": ["serve", "--port", "0"],
    "emulate": ["serve", "--port", "0", "--emulate", "managed"],
    "doctor": ["doctor", "--local-only"],
    "foundry": ["foundry", "connect"],
    "provision": ["provision", "show", "--resource-group", "g"],
}


@pytest.fixture(autouse=True)
def in_an_opened_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for field in Settings.model_fields.values():
        for name in field.validation_alias.choices:  # type: ignore[union-attr]
            monkeypatch.delenv(str(name), raising=False)
    monkeypatch.setenv("CCI_ENV_FILE", "")
    evil = tmp_path / "evil"
    evil.write_text(f"#!/bin/sh\ntouch {tmp_path}/was-run\nexit 1\n")
    evil.chmod(0o755)
    (tmp_path / ".env").write_text(f"CCI_PYTHON={evil}\n")


@pytest.mark.parametrize("command", COMMANDS.values(), ids=list(COMMANDS))
def test_a_command_runs_no_interpreter_of_an_opened_folder(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert start(command) != 0
    shown = "".join(capsys.readouterr())
    assert "CCI_PYTHON in ./.env" in shown
    assert "--env-file .env" in shown
    assert not (tmp_path / "was-run").exists()


@pytest.mark.parametrize(
    "command", [["run", "1", "--env-file", ".env"], ["--env-file", ".env", "run", "1"]]
)
def test_a_file_that_the_command_names_is_trusted(
    command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert start(command) != 0
    assert "only when you name that file" not in "".join(capsys.readouterr())


def test_the_configuration_of_a_client_names_the_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert start(["mcp", "--env-file", ".env", "--print-config", "claude"]) == 0
    assert f'"--env-file",\n        "{tmp_path / ".env"}"' in capsys.readouterr().out

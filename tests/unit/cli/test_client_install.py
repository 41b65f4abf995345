"""`cci mcp --install`: the file that each client reads."""

import json
from pathlib import Path
from typing import get_args

import pytest

from cci_plugins.cli import app as cli
from cci_plugins.cli import client_install, console
from cci_plugins.cli.client_install import ClientName, get_config_path


@pytest.fixture(autouse=True)
def _homes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("APPDATA", str(tmp_path / "home" / "AppData"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home" / "settings"))


@pytest.mark.parametrize("client", get_args(ClientName))
def test_the_command_writes_what_it_prints(
    capsys: pytest.CaptureFixture[str], client: ClientName
) -> None:
    assert cli.start(["mcp", "--print-config", client]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert cli.start(["mcp", "--install", client, "--yes"]) == 0
    assert json.loads(get_config_path(client).read_text()) == printed
    assert "code-interpreter" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("platform", "folder"),
    [
        ("linux", "home/settings/Claude"),
        ("darwin", "home/Library/Application Support/Claude"),
        ("win32", "home/AppData/Claude"),
    ],
)
def test_claude_desktop_has_one_file_for_each_user(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, platform: str, folder: str
) -> None:
    monkeypatch.setattr(client_install.sys, "platform", platform)
    path = get_config_path("claude-desktop")
    assert path == tmp_path / folder / "claude_desktop_config.json"


def test_other_servers_and_settings_stay(capsys: pytest.CaptureFixture[str]) -> None:
    Path(".cursor").mkdir()
    target = Path("real.json")
    target.write_text('{"mcpServers": {"mine": {"command": "x"}}, "théme": 1}')
    target.chmod(0o600)
    Path(".cursor/mcp.json").symlink_to(target.absolute())
    assert cli.start(["mcp", "--install", "cursor", "--yes"]) == 0
    written = json.loads(target.read_text())
    assert written["mcpServers"]["mine"] == {"command": "x"}
    assert written["théme"] == 1
    assert target.stat().st_mode & 0o777 == 0o600
    assert "add this server" in capsys.readouterr().err
    assert cli.start(["mcp", "--install", "cursor", "--yes"]) == 0
    assert "already" in capsys.readouterr().err
    assert cli.start(["mcp", "--install", "cursor", "--isolation", "landlock", "-y"]) == 0
    assert "replace this server" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["{ // a comment\n}", "[]", '{"servers": []}'])
def test_a_file_that_is_not_plain_json_is_left_as_it_is(
    capsys: pytest.CaptureFixture[str], text: str
) -> None:
    Path(".vscode").mkdir()
    Path(".vscode/mcp.json").write_text(text)
    assert cli.start(["mcp", "--install", "vscode", "--yes"]) == console.ExitCode.CONFIGURATION
    assert Path(".vscode/mcp.json").read_text() == text
    assert "cci mcp --print-config vscode" in capsys.readouterr().err


@pytest.mark.parametrize("answer", [True, False])
def test_the_user_is_asked_first(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *, answer: bool
) -> None:
    monkeypatch.setattr(console, "is_interactive", lambda: True)
    monkeypatch.setattr(console, "confirm", lambda _: answer)
    assert cli.start(["mcp", "--install", "claude-code"]) == 0
    assert Path(".mcp.json").exists() == answer
    assert ("nothing was written" in capsys.readouterr().err) != answer


def test_without_a_terminal_the_command_needs_yes(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.start(["mcp", "--install", "claude-code"]) == console.ExitCode.CONFIGURATION
    assert not Path(".mcp.json").exists()
    assert "add --yes" in capsys.readouterr().err

"""The `.env` file keeps its content and stays private."""

from __future__ import annotations

from pathlib import Path

import pytest

from cci_plugins.common.settings import Settings
from cci_plugins.errors import ConfigurationError
from cci_plugins.provisioning import Deployment
from cci_plugins.provisioning.dotenv import write_env


def test_an_env_file_keeps_its_content(tmp_path: Path) -> None:
    path = tmp_path / ".env"
    path.write_text("# a comment\nexport A='old'\nB=\nC = same\n\nOTHER=1")
    values = {"A": "new", "B": "new", "C": "same", "D": "new"}
    assert write_env(path, values) == ["A"]
    assert path.read_text() == ("# a comment\nexport A='old'\nB=new\nC = same\n\nOTHER=1\nD=new\n")
    assert path.stat().st_mode & 0o777 == 0o600
    before = path.stat().st_mtime_ns
    assert write_env(path, values) == ["A"]
    assert path.stat().st_mtime_ns == before
    assert write_env(path, values, replace=True) == []
    assert "\nA=new\n" in path.read_text()
    assert sorted(one.name for one in tmp_path.iterdir()) == [".env"]


def test_an_env_file_is_made_private(tmp_path: Path) -> None:
    path = tmp_path / ".env"
    path.write_text("A=1\n")
    path.chmod(0o644)
    write_env(path, {"A": "1"})
    assert path.stat().st_mode & 0o777 == 0o600


def test_an_env_file_is_written_completely_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / ".env"
    path.write_text("A=1\n")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(ConfigurationError, match="cannot be written"):
        write_env(path, {"B": "2"})
    assert path.read_text() == "A=1\n"
    assert [one.name for one in tmp_path.iterdir()] == [".env"]


def test_the_settings_read_the_file_that_up_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for kind, chosen in (("python", "platform"), ("custom", "custom")):
        deployment = Deployment(
            kind=kind,  # type: ignore[arg-type]
            pool_id="/subscriptions/s/pool",
            pool_endpoint="https://pool.example",
            mcp_endpoint="https://pool.example/mcp",
        )
        write_env(tmp_path / ".env", deployment.environment(), replace=True)
        settings = Settings.read()
        assert settings.chosen_pool == chosen
        assert settings.resource_id == "/subscriptions/s/pool"


def test_quotes_comments_and_line_ends_stay(tmp_path: Path) -> None:
    path = tmp_path / ".env"
    path.write_bytes(b'# mine\r\nQUOTED="a # b" # why\r\nA=1\r\nnot a variable\r\n')
    assert write_env(path, {"QUOTED": "a # b", "A": "2", "B": "3"}, replace=True) == []
    assert path.read_bytes() == (
        b'# mine\r\nQUOTED="a # b" # why\r\nA=2\r\nnot a variable\r\nB=3\r\n'
    )


def test_a_link_to_an_env_file_stays_a_link(tmp_path: Path) -> None:
    target, link = tmp_path / "shared.env", tmp_path / ".env"
    target.write_text("A=1\n")
    link.symlink_to(target)
    write_env(link, {"B": "2"})
    assert link.is_symlink()
    assert target.read_text() == "A=1\nB=2\n"


def test_a_missing_env_file_is_created(tmp_path: Path) -> None:
    path = tmp_path / ".env"
    assert write_env(path, {"A": "1"}) == []
    assert path.read_text() == "A=1\n"
    assert path.stat().st_mode & 0o777 == 0o600

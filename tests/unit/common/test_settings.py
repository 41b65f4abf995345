"""The environment decides where code runs, and an incomplete configuration is an error."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from cci_plugins.common.settings import Settings
from cci_plugins.errors import ConfigurationError

ENDPOINT = "https://eastus.dynamicsessions.io/subscriptions/s/mcp"


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for field in Settings.model_fields.values():
        for name in field.validation_alias.choices:  # type: ignore[union-attr]
            monkeypatch.delenv(str(name), raising=False)


def test_without_configuration_the_embedded_pool_is_used() -> None:
    assert Settings.read().chosen_pool == "local"


def test_an_endpoint_and_a_key_select_the_platform_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MCP_SERVER_URL", ENDPOINT)
    monkeypatch.setenv("AZURE_SESSION_POOL_MCP_KEY", "SECRET")
    settings = Settings.read()
    assert settings.chosen_pool == "platform"
    assert "SECRET" not in repr(settings)


@pytest.mark.parametrize(
    ("given", "missing"),
    [
        ("AZURE_SESSION_POOL_MCP_ENDPOINT", "AZURE_SESSION_POOL_MCP_KEY"),
        ("AZURE_SESSION_POOL_MCP_KEY", "AZURE_SESSION_POOL_MCP_ENDPOINT"),
    ],
)
def test_an_incomplete_configuration_names_the_missing_variable(
    monkeypatch: pytest.MonkeyPatch, given: str, missing: str
) -> None:
    monkeypatch.setenv(given, "value")
    with pytest.raises(ConfigurationError, match=missing):
        Settings.read()


def test_a_platform_pool_without_an_endpoint_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CCI_POOL", "platform")
    with pytest.raises(ConfigurationError, match="AZURE_SESSION_POOL_MCP_ENDPOINT"):
        Settings.read()


def test_an_invalid_value_names_its_variable_without_the_value(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CCI_TIMEOUT", "SECRET")
    with pytest.raises(ConfigurationError, match="CCI_TIMEOUT") as caught:
        Settings.read()
    assert "SECRET" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_limits_follow_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CCI_TIMEOUT", "5")
    monkeypatch.setenv("CCI_OUTPUT_CHARACTERS", "100")
    limits = Settings.read().limits()
    assert (limits.execution_timeout, limits.output_characters) == (timedelta(seconds=5), 100)


def test_a_dotenv_file_is_read(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("CCI_ISOLATION=landlock\n")
    assert Settings.read().isolation == "landlock"


def test_variables_for_sessions_are_no_settings_and_no_mistakes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from cci_plugins.common.settings import find_unknown_variables, read_session_environment

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CCI_SESSION_ENV_CCI_TIMEOUT", "5")
    monkeypatch.setenv("CCI_SESSION_ENV_PATH", "/opt")
    (tmp_path / ".env").write_text("CCI_SESSION_ENV_REGION=north\nCCI_SESSION_ENV_PATH=/ignored\n")
    assert read_session_environment() == {"CCI_TIMEOUT": "5", "PATH": "/opt", "REGION": "north"}
    assert Settings.read().timeout == 220
    assert not [name for name in find_unknown_variables() if "SESSION_ENV" in name]

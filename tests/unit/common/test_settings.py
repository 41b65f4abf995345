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
    (tmp_path / ".env").write_text("CCI_OUTPUT_CHARACTERS=77\n")
    assert Settings.read().output_characters == 77


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


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("CCI_TIMEOUT", "0"),
        ("CCI_TIMEOUT", "inf"),
        ("CCI_TIMEOUT", "nan"),
        ("CCI_TIMEOUT", "1e300"),
        ("CCI_COOLDOWN", "0"),
        ("CCI_COOLDOWN", "-1"),
        ("CCI_SESSIONS", "0"),
        ("CCI_READY_SESSIONS", "-1"),
        ("CCI_OUTPUT_CHARACTERS", "0"),
        ("CCI_STAGE_FROM", "-1"),
    ],
)
def test_a_number_out_of_bounds_names_its_variable_and_how_to_have_no_limit(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError, match=name) as caught:
        Settings.read()
    assert f"{float(value):g} is not a number of" in str(caught.value)
    assert f"for no limit in practice set {name}=" in str(caught.value.hint)


def test_the_largest_numbers_are_valid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CCI_TIMEOUT", "31536000")
    monkeypatch.setenv("CCI_COOLDOWN", "31536000")
    monkeypatch.setenv("CCI_OUTPUT_CHARACTERS", "1000000000")
    settings = Settings.read()
    assert settings.limits().execution_timeout == timedelta(days=365)
    assert settings.cooldown == 31_536_000


def test_more_warm_kernels_than_sessions_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CCI_READY_SESSIONS", "33")
    with pytest.raises(ConfigurationError, match="CCI_READY_SESSIONS"):
        Settings.read()


POOL_URL = "https://eastus.dynamicsessions.io/subscriptions/S/resourceGroups/G/sessionPools/P/mcp"


def test_a_generic_mcp_server_url_does_not_break_local_runs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MCP_SERVER_URL", "https://tools.example/mcp")
    assert Settings.read().chosen_pool == "local"


def test_a_pools_own_url_leads_to_its_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MCP_SERVER_URL", POOL_URL)
    settings = Settings.read()
    assert (settings.chosen_pool, settings.mcp_endpoint) == ("platform", POOL_URL)
    assert settings.resource_id == (
        "/subscriptions/S/resourceGroups/G/providers/Microsoft.App/sessionPools/P"
    )


def test_an_incomplete_configuration_names_the_variable_that_caused_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CCI_POOL", "platform")
    monkeypatch.setenv("MCP_SERVER_URL", "https://tools.example/mcp")
    with pytest.raises(ConfigurationError, match="AZURE_SESSION_POOL_MCP_KEY") as caught:
        Settings.read()
    assert "unset CCI_POOL, MCP_SERVER_URL" in str(caught.value.hint)


def test_the_env_file_of_microsofts_sample_works(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text(
        "AZURE_AI_PROJECT_ENDPOINT=https://a.services.ai.azure.com/api/projects/p\n"
        "AZURE_AI_CONNECTION_ID=/subscriptions/s/connections/c\n"
        "FOUNDRY_MODEL_NAME=a-model\n"
        f"MCP_SERVER_URL={POOL_URL}\n"
    )
    settings = Settings.read()
    assert settings.foundry_connection == "/subscriptions/s/connections/c"
    assert settings.foundry_model == "a-model"
    assert settings.foundry_endpoint == "https://a.services.ai.azure.com/api/projects/p"

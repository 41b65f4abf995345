"""A `.env` that nobody named may name a pool, but not act on this machine or get its secrets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cci_plugins import CodeInterpreter
from cci_plugins.common.settings import Settings, find_unknown_variables, read_session_environment
from cci_plugins.errors import ConfigurationError
from cci_plugins.foundry.project import Project

POOL = "https://eastus.dynamicsessions.io/subscriptions/S/resourceGroups/G/sessionPools/P"
RESOURCE = "/subscriptions/S/resourceGroups/G/providers/Microsoft.App/sessionPools/P"


@pytest.fixture(autouse=True)
def in_an_opened_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for field in Settings.model_fields.values():
        for name in field.validation_alias.choices:  # type: ignore[union-attr]
            monkeypatch.delenv(str(name), raising=False)


@pytest.mark.parametrize(
    "line",
    [
        "CCI_PYTHON=./evil",
        "cci_python=./evil",
        "export CCI_PYTHON='./evil'",
        "CCI_ISOLATION=process",
        "CCI_PACKAGES=evil-package",
        "CCI_EGRESS=all",
        "CCI_FETCH_HOSTS=evil.example",
        "CCI_STORAGE_CA_FILE=./ca.pem",
        "CCI_ARM_ENDPOINT=https://evil.example",
        "CCI_CONTAINER_CPU=400",
        "CCI_CONTAINER_MEMORY=400Gi",
        "CCI_ENV_FILE=other.env",
        "CCI_READY_SESSIONS=20",
        "CCI_SESSIONS=1000",
        "CCI_TIMEOUT=31536000",
        "CCI_BACKGROUND_TIMEOUT=31536000",
        "CCI_COOLDOWN=31536000",
        "CCI_OUTPUT_CHARACTERS=1000000000",
    ],
)
def test_a_setting_that_acts_on_this_machine_is_read_from_a_named_file_only(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".env").write_text(f"{line}\n")
    name = line.upper().removeprefix("EXPORT ").partition("=")[0]
    for read in (Settings.read, CodeInterpreter.from_env):
        with pytest.raises(ConfigurationError, match=name) as caught:
            read()
        assert "only when you name that file" in str(caught.value)
        assert "CCI_ENV_FILE=.env" in str(caught.value.hint)
        assert "--env-file" in str(caught.value.hint)
    Settings.read(env_file=".env")
    monkeypatch.setenv("CCI_ENV_FILE", ".env")
    Settings.read()
    monkeypatch.delenv("CCI_ENV_FILE")
    if name != "CCI_ENV_FILE":  # the environment wins, so the file decides nothing
        value = line.splitlines()[0].partition("=")[2].strip("'")
        monkeypatch.setenv(name, value)
        monkeypatch.setenv("CCI_SESSIONS", "1000")
        Settings.read()


@pytest.mark.parametrize(
    ("file", "given"),
    [
        ("AZURE_SESSION_POOL_MCP_ENDPOINT=https://evil.example/mcp", "AZURE_SESSION_POOL_MCP_KEY"),
        (f"MCP_SERVER_URL={POOL}/mcp", "AZURE_SESSION_POOL_MCP_KEY"),
        ("AZURE_SESSION_POOL_ENDPOINT=https://evil.example", "CCI_ACCESS_TOKEN"),
        (
            (
                "AZURE_SESSION_POOL_MCP_ENDPOINT=https://evil.example/mcp\n"
                "AZURE_SESSION_POOL_MCP_KEY=theirs"
            ),
            "CCI_ACCESS_TOKEN",
        ),
        (
            "AZURE_STORAGE_ACCOUNT=https://evil.example\nAZURE_STORAGE_CONTAINER=c",
            "AZURE_STORAGE_KEY",
        ),
        ("AZURE_STORAGE_ACCOUNT=theirs\nAZURE_STORAGE_CONTAINER=c", "AZURE_STORAGE_KEY"),
    ],
)
def test_a_secret_of_the_environment_is_not_sent_to_an_endpoint_of_such_a_file(
    file: str, given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".env").write_text(f"{file}\n")
    monkeypatch.setenv(given, "dGhlLXNlY3JldA==")
    with pytest.raises(ConfigurationError, match=f"gets the environment's {given}") as caught:
        Settings.read()
    assert "dGhlLXNlY3JldA" not in f"{caught.value} {caught.value.hint}"
    with pytest.raises(ConfigurationError):
        Settings.read(check=False)
    Settings.read(env_file=".env")


@pytest.mark.parametrize(
    "file",
    [
        "AZURE_SESSION_POOL_ENDPOINT=https://evil.example",
        "AZURE_SESSION_POOL_ENDPOINT=http://eastus.dynamicsessions.io",
        "AZURE_SESSION_POOL_ENDPOINT=https://eastus.dynamicsessions.io.evil.example",
        "AZURE_SESSION_POOL_ENDPOINT=https://eastus.dynamicsessions.io@evil.example",
        (
            f"AZURE_SESSION_POOL_MCP_ENDPOINT=https://evil.example/mcp\n"
            f"AZURE_SESSION_POOL_RESOURCE_ID={RESOURCE}"
        ),
        (
            f"AZURE_SESSION_POOL_MCP_ENDPOINT=https://evil.example/mcp\n"
            f"AZURE_SESSION_POOL_MCP_KEY=theirs\nAZURE_SESSION_POOL_RESOURCE_ID={RESOURCE}"
        ),
        "AZURE_STORAGE_ACCOUNT=https://evil.example\nAZURE_STORAGE_CONTAINER=c",
        "FOUNDRY_PROJECT_ENDPOINT=https://evil.example/api/projects/p",
        "AZURE_AI_PROJECT_ENDPOINT=https://evil.example/api/projects/p",
    ],
)
def test_a_token_of_the_sign_in_goes_to_hosts_of_azure_only(file: str, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text(f"{file}\n")
    is_project = "PROJECT_ENDPOINT" in file
    from_env: Any = Project.from_env if is_project else CodeInterpreter.from_env
    with pytest.raises(ConfigurationError, match="not a host of Azure's own"):
        from_env()
    Settings.read(env_file=".env").check_sign_ins("sessions", "storage", "foundry")


@pytest.mark.parametrize(
    "file",
    [
        (
            f"AZURE_SESSION_POOL_MCP_ENDPOINT={POOL}/mcp\nAZURE_SESSION_POOL_RESOURCE_ID={RESOURCE}\n"
            "AZURE_STORAGE_ACCOUNT=theirs\nAZURE_STORAGE_CONTAINER=c"
        ),
        (
            "CCI_POOL=custom\nAZURE_SESSION_POOL_ENDPOINT=https://p.e.eastus.azurecontainerapps.io\n"
            f"AZURE_SESSION_POOL_MCP_ENDPOINT=https://g.e.eastus.azurecontainerapps.io/mcp\n"
            f"AZURE_SESSION_POOL_RESOURCE_ID={RESOURCE}"
        ),
        (
            "AZURE_SESSION_POOL_MCP_ENDPOINT=http://127.0.0.1:8765/mcp\n"
            "AZURE_SESSION_POOL_MCP_KEY=the-key"
        ),
        "AZURE_SESSION_POOL_ENDPOINT=http://127.0.0.1:9",
        "FOUNDRY_PROJECT_ENDPOINT=https://a.services.ai.azure.com/api/projects/p",
        "CCI_TIMEOUT=60\nCCI_SESSIONS=40\nA=b\nAZURE_RESOURCE_GROUP=rg-${A}",
    ],
)
def test_pools_with_their_keys_are_still_read_from_such_a_file(file: str, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text(f"{file}\n")
    Settings.read().check_sign_ins("sessions", "storage", "foundry")
    assert find_unknown_variables() == {}


def test_a_file_that_nobody_named_cannot_contain_values_of_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("THE_SECRET", "hunter2")
    (tmp_path / ".env").write_text(
        "AZURE_SESSION_POOL_MCP_ENDPOINT=https://evil.example/${THE_SECRET}/mcp\n"
        "AZURE_SESSION_POOL_MCP_KEY=theirs\n"
    )
    with pytest.raises(ConfigurationError, match="THE_SECRET") as caught:
        Settings.read()
    assert "hunter2" not in str(caught.value)
    assert "hunter2" in str(Settings.read(env_file=".env").mcp_endpoint)
    (tmp_path / ".env").write_text("CCI_SESSION_ENV_A=${THE_SECRET}\n")
    with pytest.raises(ConfigurationError, match="CCI_SESSION_ENV_A"):
        read_session_environment()


def test_a_named_file_is_read_instead_of_the_one_in_the_folder_and_must_exist(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".env").write_text("CCI_PYTHON=./evil\nAZURE_LOCATION=here\n")
    (tmp_path / "mine.env").write_text("CCI_EGRESS=pypi.org\nCCI_SESSION_ENV_A=b\n")
    settings = Settings.read(env_file=tmp_path / "mine.env")
    assert (settings.egress, settings.python, settings.location) == ("pypi.org", None, None)
    assert settings.session_environment == {"A": "b"}
    monkeypatch.setenv("CCI_ENV_FILE", "missing.env")
    with pytest.raises(ConfigurationError, match=r"missing\.env"):
        Settings.read()


def test_the_gateways_key_is_not_sent_to_an_endpoint_of_such_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CCI_SERVE_KEY", "the-key-of-the-gateway")
    (tmp_path / ".env").write_text(
        "CCI_POOL=custom\nAZURE_SESSION_POOL_ENDPOINT=https://p.e.eastus.azurecontainerapps.io\n"
        "AZURE_SESSION_POOL_MCP_ENDPOINT=https://evil.azurecontainerapps.io/mcp\n"
    )
    settings = Settings.read()
    with pytest.raises(ConfigurationError, match="CCI_SERVE_KEY"):
        _ = settings.gateway_key
    assert Settings.read(env_file=".env").gateway_key == "the-key-of-the-gateway"


def test_a_file_that_nobody_named_is_small(tmp_path: Path) -> None:
    file = tmp_path / ".env"
    file.write_text("A=1\rCCI_ISOLATION=process\r", newline="")
    with pytest.raises(ConfigurationError, match="CCI_ISOLATION"):
        Settings.read()
    file.write_text("A=1\n" * 100_000)
    with pytest.raises(ConfigurationError, match="larger than 262,144 bytes"):
        Settings.read()
    file.write_text("A=1\n" * 10)
    Settings.read()

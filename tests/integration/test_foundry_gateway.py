"""A Foundry agent on a custom pool: its gateway and the gateway's key are found in Azure."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from cci_plugins import CodeInterpreter
from cci_plugins.errors import AuthenticationError, CodeInterpreterError, ConfigurationError
from cci_plugins.pools.azure.rest_pool import CustomSessionPool
from cci_plugins.pools.local.pool import LocalSessionPool

from ._azure import POOL_ID, Arm
from ._emulated import Emulated, emulated
from ._foundry import MODEL, Running, _arm_error, project_of, running_foundry
from ._server import KEY, serving
from .test_foundry import model

foundry = pytest.importorskip("cci_plugins.foundry", exc_type=CodeInterpreterError)

pytestmark = pytest.mark.anyio
SECRET = b"a secret that every replica of the gateway has"


@pytest.fixture
def running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Running]:
    with running_foundry(tmp_path, model, monkeypatch) as found:
        yield found


@pytest.fixture
def project(running: Running) -> Any:
    return project_of(running)


@pytest.fixture(scope="module")
async def pool() -> AsyncIterator[Emulated]:
    local = LocalSessionPool(preload=(), ready_sessions=0)
    async with emulated(local, kind="custom") as found:
        yield found


@pytest.fixture
async def gateway(
    pool: Emulated, running: Running, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[str]:
    """Serve a gateway, describe it in Resource Manager, and set what `up` writes, without keys."""
    from cci_plugins.server import SignedEnvironments

    signed = SignedEnvironments(SECRET)
    async with serving(pool.client(), environments=signed, rest=False) as url:
        properties = {
            "containerType": "CustomContainer",
            "poolManagementEndpoint": pool.url,
            "provisioningState": "Succeeded",
        }
        running.fake.pool = Arm(properties, lambda: KEY)
        variables = [
            {"name": "AZURE_SESSION_POOL_ENDPOINT", "value": pool.url},
            {"name": "CCI_SERVE_KEY", "secretRef": "serve-key"},
        ]
        group = POOL_ID.partition("/providers/")[0]
        for name, host, env in (("other", "other.example", []), ("gw", "127.0.0.1", variables)):
            app = {
                "id": f"{group}/providers/Microsoft.App/containerApps/{name}",
                "name": name,
                "properties": {
                    "configuration": {"ingress": {"fqdn": host}},
                    "template": {"containers": [{"name": "gateway", "env": env}]},
                },
            }
            running.fake.apps.append(app)
        running.fake.app_secrets = {"session-secret": "x" * 40, "serve-key": KEY}
        monkeypatch.setenv("CCI_POOL", "custom")
        monkeypatch.setenv("AZURE_SESSION_POOL_ENDPOINT", pool.url)
        monkeypatch.setenv("AZURE_SESSION_POOL_MCP_ENDPOINT", url)
        monkeypatch.setenv("AZURE_SESSION_POOL_RESOURCE_ID", POOL_ID)
        monkeypatch.setenv("CCI_ARM_ENDPOINT", running.url)
        yield url


async def test_an_agent_runs_on_a_custom_pool_with_the_settings_that_up_writes(
    running: Running, project: Any, gateway: str, pool: Emulated
) -> None:
    connection = await foundry.connect(project)
    assert (connection.endpoint, connection.change) == (gateway, "created")
    put = running.fake.connections["code-interpreter"]["properties"]
    assert put["credentials"] == {"keys": {"x-ms-apikey": KEY}}
    tool = foundry.code_interpreter_tool(connection)
    agent = await foundry.create_agent("analyst", model=MODEL, tool=tool, project=project)
    custom = CustomSessionPool(pool.url, credential=running.credential)
    async with CodeInterpreter(custom) as interpreter:
        environment = await foundry.open_environment(interpreter)
        await environment.files.upload(b"month,sales\nJan,3\n", name="sales.csv")
        reply = await foundry.run(agent, "sum sales.csv", environment=environment)
        assert "The total is 42" in reply.text
        assert await environment.files.download("n.txt") == b"42"
        large = os.urandom(40_000)  # more than one answer of the gateway holds
        await environment.files.upload(large, name="large.bin")
        assert await environment.files.download("large.bin") == large
        await environment.files.remove("large.bin")
        again = await foundry.open_environment(interpreter, environment.id)
        assert [one.name for one in await again.files.list()] == ["n.txt", "sales.csv"]
    assert running.fake.asked["GET app"] == 2  # once to connect, once for both environments


async def test_a_pool_without_a_gateway_names_the_command_that_makes_one(
    running: Running, project: Any, gateway: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AZURE_SESSION_POOL_MCP_ENDPOINT")
    assert (await foundry.connect(project)).endpoint == "https://127.0.0.1/mcp"
    running.fake.apps.clear()
    with pytest.raises(ConfigurationError, match="has no gateway") as caught:
        await foundry.connect(project)
    assert "cci provision up --kind custom --gateway" in str(caught.value.hint)


async def test_a_missing_right_to_read_the_key_is_named(
    running: Running, project: Any, gateway: str
) -> None:
    running.fake.faults["POST app"] = _arm_error(403, "AuthorizationFailed", "No listSecrets.")
    with pytest.raises(AuthenticationError, match="key cannot be read") as caught:
        await foundry.connect(project)
    assert "AZURE_SESSION_POOL_MCP_KEY" in str(caught.value.hint)

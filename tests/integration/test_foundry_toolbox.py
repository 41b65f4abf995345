"""Agents that reach the pool through a toolbox of the project."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from cci_plugins import ApprovalRequest, Decision
from cci_plugins.errors import CodeInterpreterError, ConfigurationError, FoundryError
from cci_plugins.pools.local.pool import LocalSessionPool

from ._emulated import KEY, Emulated, emulated
from ._foundry import MODEL, Call, FakeToolbox, Running, Turn, project_of, running_foundry

foundry = pytest.importorskip("cci_plugins.foundry", exc_type=CodeInterpreterError)
pytest.importorskip("azure.ai.projects.models", reason="no SDK")
models = pytest.importorskip("azure.ai.projects").models
pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(not hasattr(models, "MCPToolboxTool"), reason="toolboxes came with 2.3"),
]

PREFIX = "code_interpreter___"
LAUNCH, RUN = f"{PREFIX}launchShell", f"{PREFIX}runPythonCodeInRemoteEnvironment"
OTHER = {"type": "web_search", "name": "search"}


def model(_: str) -> Turn:
    """Launch, then run three times, each with the variable of the run before."""
    environment = json.loads((yield Call(LAUNCH, {})))["environmentId"]
    text = ""
    for code in ("n = 6", "n *= 7", "print('total', n)"):
        text = yield Call(RUN, {"environmentId": environment, "pythonCode": code})
        if text.startswith("denied"):
            return f"It was not run: {text}"
    return json.loads(text)["stdout"].strip()


@pytest.fixture
def running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Running]:
    with running_foundry(tmp_path, model, monkeypatch, trusted=False) as found:
        yield found


@pytest.fixture
def project(running: Running) -> Any:
    return project_of(running)


@pytest.fixture(scope="module")
async def pool() -> AsyncIterator[Emulated]:
    local = LocalSessionPool(preload=(), ready_sessions=0)
    async with emulated(local, kind="platform") as found:
        yield found


async def test_a_chain_of_approvals_runs_through_a_toolbox(
    running: Running, project: Any, pool: Emulated
) -> None:
    where = {"endpoint": f"{pool.url}/mcp", "key": KEY}
    running.fake.toolboxes["team"] = FakeToolbox({"1": [OTHER]}, "1", pinned=True)
    connection = await foundry.connect(project, **where, toolbox="team")
    box = connection.toolbox
    assert (box.version, box.change) == ("2", "updated")
    stored = running.fake.toolboxes["team"]
    assert stored.default == "2"
    assert stored.versions["2"][0] == OTHER  # what others put there stays
    again = await foundry.connect(project, **where, toolbox="team")
    assert (again.change, again.toolbox.change) == ("unchanged", "unchanged")
    assert len(stored.versions) == 2
    stored.versions["2"].reverse()  # the fake serves the first tool only

    asked: list[str] = []

    async def approve(request: ApprovalRequest) -> Decision:
        asked.append(request.code)
        return Decision("allow" if len(asked) < 6 else "deny", reason="enough")

    agent = await foundry.create_agent(
        "analyst", model=MODEL, toolbox=box, require_approval="always", project=project
    )
    reply = await foundry.run(agent, "What is the total?", approve=approve)
    assert reply.text == "total 42"
    assert asked == ["n = 6", "n *= 7", "print('total', n)"]  # launching runs no code
    assert [call.tool for call in reply.calls] == [LAUNCH, RUN, RUN, RUN]
    assert reply.environment_id
    reply = await foundry.run(agent, "And again?", approve=approve)
    assert reply.text == "It was not run: denied: enough"
    definition = running.fake.agents["analyst"]["1"]
    assert f"Call {LAUNCH} once" in definition["instructions"]
    with pytest.raises(ConfigurationError, match="no approver"):
        await foundry.run(agent, "Once more?")
    by_name = await foundry.create_agent("brief", model=MODEL, toolbox="team", project=project)
    assert (await foundry.run(by_name, "Total?")).text == "total 42"

    stored.versions["2"].reverse()
    assert await foundry.disconnect(project, toolbox="team") is True
    assert stored.versions[stored.default] == [OTHER]
    assert running.fake.connections == {}
    assert KEY not in repr((connection, running.fake.toolboxes, running.fake.agents))


async def test_a_new_toolbox_is_created_and_deleted(running: Running, project: Any) -> None:
    where = {"endpoint": "https://pool.example/mcp", "key": KEY}
    connection = await foundry.connect(project, **where, toolbox="mine")
    assert connection.toolbox.change == "created"
    assert connection.toolbox.endpoint == f"{running.endpoint}/toolboxes/mine/mcp?api-version=v1"
    agent = await foundry.create_agent("a", model=MODEL, toolbox="other", project=project)
    with pytest.raises(FoundryError, match="401") as caught:
        await foundry.run(agent, "Are you there?")
    assert "Foundry User to the agent's identity" in str(caught.value.hint)
    assert await foundry.disconnect(project, toolbox="mine") is True
    assert running.fake.toolboxes == {}
    assert await foundry.disconnect(project, toolbox="mine") is False


async def test_what_cannot_be_a_toolbox_is_refused(running: Running, project: Any) -> None:
    for name in ("", "a b", "x" * 25):
        with pytest.raises(ConfigurationError, match="is not valid"):
            await foundry.connect(project, endpoint="https://p.example/mcp", key=KEY, toolbox=name)
    assert running.fake.asked["PUT connection"] == 0
    tool = foundry.code_interpreter_tool("/c")
    with pytest.raises(ConfigurationError, match="a tool and a toolbox"):
        await foundry.create_agent("a", model=MODEL, tool=tool, toolbox="t", project=project)
    properties = {"category": "RemoteTool", "authType": "None", "target": "https://x"}
    running.fake.connections["toolbox-mine"] = {"properties": properties}
    with pytest.raises(ConfigurationError, match="made by something else"):
        await foundry.connect(project, endpoint="https://p.example/mcp", key=KEY, toolbox="mine")


async def test_an_older_sdk_is_named(project: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(models, "MCPToolboxTool")
    with pytest.raises(ConfigurationError, match=r"azure-ai-projects 2.3 or newer"):
        await foundry.connect(project, endpoint="https://p.example/mcp", key=KEY, toolbox="t")

"""Agents of a fake Foundry, with the real SDKs, over HTTPS, and code that really runs."""

from __future__ import annotations

import inspect
import json
import logging
import os
import re
import stat
import subprocess
import sys
import traceback
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest

from cci_plugins import ApprovalRequest, CodeInterpreter, Decision
from cci_plugins.errors import (
    AuthenticationError,
    CodeInterpreterError,
    ConfigurationError,
    FoundryError,
    ProtocolError,
    ProvisioningError,
)
from cci_plugins.pools.azure.mcp_pool import PlatformSessionPool
from cci_plugins.pools.local.pool import LocalSessionPool

from ._azure import ARM_TOKEN, POOL_ID, ROOT, Arm
from ._command import run_command
from ._emulated import KEY, Emulated, emulated
from ._foundry import (
    MODEL,
    PROJECT_ID,
    SPEC,
    TOKEN,
    Call,
    Running,
    Turn,
    _arm_error,
    _error,
    analyst,
    needs_approval,
    project_of,
    running_foundry,
)

foundry = pytest.importorskip("cci_plugins.foundry", exc_type=CodeInterpreterError)

pytestmark = pytest.mark.anyio

LAUNCH, RUN = "launchShell", "runPythonCodeInRemoteEnvironment"
ROTATED = "planted-key-after-the-rotation"
CSV = b"month,sales\nJan,3\nFeb,5\nMar,4\n"


def model(prompt: str) -> Turn:
    """Follow the instructions: launch, run, continue with the variables, answer."""
    given = re.search(r"environmentId (\S+)", prompt)
    if given is None:
        environment = json.loads((yield Call(LAUNCH, {})))["environmentId"]
    else:
        environment = given[1]
    if "fails" in prompt:
        yield Call(RUN, {"environmentId": environment})
    code = "n = 6 * 7\nopen('/mnt/data/n.txt', 'w').write(str(n))\nprint('total', n)"
    if "sales.csv" in prompt:
        code = "rows = open('/mnt/data/sales.csv').read().split()[1:]\n" + code
    first = yield Call(RUN, {"environmentId": environment, "pythonCode": code})
    if first.startswith("denied"):
        return f"It was not run: {first}"
    again = "print('n' in globals())"
    kept = yield Call(RUN, {"environmentId": environment, "pythonCode": again})
    total = re.search(r"total (\d+)", first)
    return f"The total is {total and total[1]}. Kept: {'True' in kept}. See https://example.org/a"


@pytest.fixture
def running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Running]:
    with running_foundry(tmp_path, model, monkeypatch) as found:
        yield found


@pytest.fixture
def project(running: Running) -> Any:
    return project_of(running)


@pytest.fixture(scope="module")
async def pool() -> AsyncIterator[Emulated]:
    async with emulated(LocalSessionPool(preload=(), max_sessions=30), kind="platform") as found:
        yield found


@pytest.fixture
async def connection(project: Any, pool: Emulated) -> Any:
    return await foundry.connect(project, endpoint=f"{pool.url}/mcp", key=KEY)


async def create_analyst(project: Any, connection: Any, **options: Any) -> Any:
    tool = foundry.code_interpreter_tool(connection, **options)
    return await foundry.create_agent("analyst", model=MODEL, tool=tool, project=project)


class Host:
    """An approver that records its requests."""

    def __init__(self, *verdicts: Decision) -> None:
        self.asked: list[ApprovalRequest] = []
        self._verdicts = list(verdicts)

    async def __call__(self, request: ApprovalRequest) -> Decision:
        self.asked.append(request)
        return self._verdicts.pop(0) if self._verdicts else Decision("allow")


# connections


async def test_a_project_is_connected_once_and_only_what_differs_is_written(
    running: Running, project: Any, pool: Emulated
) -> None:
    endpoint = f"{pool.url}/mcp"
    first = await foundry.connect(project, endpoint=endpoint, key=KEY)
    assert (first.change, first.endpoint) == ("created", endpoint)
    assert first.id == f"{PROJECT_ID}/connections/code-interpreter"
    assert (await foundry.connect(project, endpoint=endpoint, key=KEY)).change == "unchanged"
    assert running.fake.writes == 1
    rotated = await foundry.connect(project, endpoint=endpoint, key=ROTATED)
    assert (rotated.change, running.fake.writes) == ("updated", 2)
    moved = await foundry.connect(project, endpoint="https://gateway.example/mcp", key=ROTATED)
    assert (moved.change, running.fake.writes) == ("updated", 3)
    put = running.fake.connections["code-interpreter"]["properties"]
    assert put["credentials"] == {"keys": {"x-ms-apikey": ROTATED}}
    assert (put["category"], put["authType"]) == ("RemoteTool", "CustomKeys")
    assert ROTATED not in json.dumps(put["metadata"])
    assert await foundry.disconnect(project) is True
    assert await foundry.disconnect(project) is False
    assert running.fake.connections == {}


def test_the_official_description_is_available() -> None:
    if SPEC is None:
        pytest.skip("the official descriptions are not at hand; bodies were not held against them")


async def test_a_project_is_found_by_its_endpoint_or_its_resource_id(running: Running) -> None:
    where = {"arm_endpoint": running.url, "ca_file": running.ca, "credential": running.credential}
    by_id = foundry.Project(resource_id=PROJECT_ID, **where)
    assert await by_id.endpoint() == running.endpoint
    by_endpoint = foundry.Project(running.endpoint, **where)
    assert (await by_endpoint.place()).id == PROJECT_ID
    assert running.fake.asked["GET accounts"] == 2  # one for each subscription
    elsewhere = foundry.Project("https://other.example/api/projects/project", **where)
    with pytest.raises(ConfigurationError, match="no subscription"):
        await elsewhere.place()
    assert running.credential.asked[f"{running.url}/.default"] == 3  # one for each project


async def test_endpoint_and_key_are_read_from_the_pool_s_resource(
    running: Running, project: Any, pool: Emulated, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = [KEY]
    endpoint = f"{pool.url}/mcp"
    settings = {"isMcpServerEnabled": True, "mcpServerEndpoint": endpoint}
    properties = {"containerType": "PythonLTS", "mcpServerSettings": settings}
    running.fake.pool = Arm(properties, lambda: keys[0])
    options = {"pool": POOL_ID, "credential": running.credential}
    assert (await foundry.connect(project, **options)).change == "created"
    monkeypatch.setenv("AZURE_SESSION_POOL_RESOURCE_ID", POOL_ID)
    monkeypatch.setenv("AZURE_SESSION_POOL_MCP_KEY", "planted-key-that-is-old")
    monkeypatch.setenv("AZURE_SESSION_POOL_MCP_ENDPOINT", endpoint)
    same = await foundry.connect(project)  # signs in to the pool as to the project
    assert (same.change, same.endpoint) == ("unchanged", endpoint)
    keys[0] = ROTATED
    assert (await foundry.connect(project, credential=running.credential)).change == "updated"


async def test_a_custom_container_pool_is_connected_through_the_gateway(
    running: Running, project: Any
) -> None:
    properties = {
        "containerType": "CustomContainer",
        "mcpServerSettings": None,
        "poolManagementEndpoint": "https://pool.example",
    }
    running.fake.pool = Arm(properties, lambda: KEY)
    with pytest.raises(ConfigurationError, match="custom container") as caught:
        await foundry.connect(project, pool=POOL_ID, credential=running.credential)
    assert "cci serve --pool custom" in str(caught.value.hint)
    assert running.fake.writes == 0


async def test_connections_of_others_are_not_overwritten(running: Running, project: Any) -> None:
    theirs = {
        "category": "RemoteTool",
        "authType": "CustomKeys",
        "target": "https://theirs.example",
    }
    running.fake.connections["code-interpreter"] = {"properties": theirs | {"metadata": {"a": "b"}}}
    running.fake.connections["search"] = {
        "properties": {"category": "CognitiveSearch", "authType": "ApiKey", "target": "https://s"}
    }
    options = {"endpoint": "https://ours.example/mcp", "key": KEY}
    with pytest.raises(ConfigurationError, match="leads elsewhere"):
        await foundry.connect(project, **options)
    for change in (
        foundry.connect(project, name="search", **options),
        foundry.disconnect(project, name="search"),
    ):
        with pytest.raises(ConfigurationError, match="for something else"):
            await change
    assert running.fake.writes == 0
    assert (await foundry.connect(project, replace=True, **options)).change == "updated"
    kept = running.fake.connections["code-interpreter"]["properties"]
    assert kept["metadata"]["a"] == "b"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"name": "a b"}, "a connection's name"),
        ({"endpoint": "http://pool.example/mcp"}, "without encryption"),
        ({"endpoint": "http://localhost.example/mcp"}, "without encryption"),
        ({"key": "two words"}, "key or token is invalid"),
        ({"endpoint": None}, "AZURE_SESSION_POOL_MCP_ENDPOINT is missing"),
        ({"key": None}, "its key is missing"),
    ],
)
async def test_invalid_arguments_are_refused_before_any_request(
    running: Running, project: Any, options: dict[str, Any], words: str
) -> None:
    given = {"endpoint": "https://pool.example/mcp", "key": KEY} | options
    with pytest.raises(ConfigurationError, match=words):
        await foundry.connect(project, **given)
    assert running.fake.asked == {}


async def test_refusals_of_azure_name_the_role_and_do_not_repeat_the_key(
    running: Running, project: Any
) -> None:
    message = f"The client may not write; the body was {KEY}."
    running.fake.faults["PUT connection"] = _arm_error(403, "AuthorizationFailed", message)
    options = {"endpoint": "https://pool.example/mcp", "key": KEY}
    with pytest.raises(AuthenticationError, match="AuthorizationFailed") as refused:
        await foundry.connect(project, **options)
    assert "Foundry Owner" in str(refused.value.hint)
    running.fake.faults["PUT connection"] = _arm_error(400, "BadRequest", message)
    with pytest.raises(ProvisioningError, match="BadRequest") as failed:
        await foundry.connect(project, **options)
    assert (failed.value.code, failed.value.step) == ("BadRequest", "connection code-interpreter")
    for caught in (refused, failed):
        assert KEY not in "".join(traceback.format_exception(caught.value))
    running.fake.faults["GET connection"] = _arm_error(404, "ParentResourceNotFound", "No project.")
    with pytest.raises(ProvisioningError, match="No project"):
        await foundry.connect(project, **options)


async def test_an_unreachable_azure_is_an_error(running: Running) -> None:
    lost = foundry.Project(
        resource_id=PROJECT_ID,
        credential=running.credential,
        arm_endpoint="https://127.0.0.1:9",
        ca_file=running.ca,
    )
    with pytest.MonkeyPatch.context() as patch:
        management = lost.management
        patch.setattr(lost, "management", lambda name: _impatient(management(name)))
        with pytest.raises(ProvisioningError, match="cannot be reached"):
            await foundry.disconnect(lost)


def _impatient(client: Any) -> Any:
    client._config.retry_policy.total_retries = 0
    return client


# agents


async def test_an_agent_computes_in_the_pool_and_continues(
    running: Running, project: Any, connection: Any
) -> None:
    agent = await create_analyst(project, connection)
    reply = await foundry.run(agent, "What is the total?")
    assert str(reply) == "The total is 42. Kept: True. See https://example.org/a"
    assert [call.tool for call in reply.calls] == [LAUNCH, RUN, RUN]
    assert reply.calls[1].code.startswith("n = 6 * 7\n")
    assert (reply.calls[1].stdout.strip(), reply.calls[1].error) == ("total 42", None)
    assert {call.environment_id for call in reply.calls} == {reply.environment_id}
    assert [(note.kind, note.target) for note in reply.annotations] == [
        ("url_citation", "https://example.org/a")
    ]
    again = await foundry.run(agent, "And again?", previous=reply)
    assert "42" in again.text
    assert running.fake.listed == [LAUNCH, RUN, "runShellCommandInRemoteEnvironment"]
    definition = running.fake.agents["analyst"]["1"]
    assert foundry.INSTRUCTIONS in definition["instructions"]
    assert KEY not in json.dumps(definition)
    assert await foundry.delete_agent(agent) is True
    assert await foundry.delete_agent(agent) is False
    with pytest.raises(ConfigurationError, match="not found"):
        await foundry.run(agent, "Are you there?")


@pytest.mark.slow
async def test_an_application_exchanges_files_with_the_agent_s_environment(
    running: Running, project: Any, connection: Any, pool: Emulated, tmp_path: Path
) -> None:
    running.fake.model = analyst
    agent = await create_analyst(project, connection)
    async with CodeInterpreter(pool.client()) as interpreter:
        environment = await foundry.open_environment(interpreter)
        await environment.files.upload(CSV, name="sales.csv")
        reply = await foundry.run(agent, "Chart sales.csv.", environment=environment)
        assert reply.text == "It is {'Jan': 3.0, 'Feb': 5.0, 'Mar': 4.0}."
        assert LAUNCH not in {call.tool for call in reply.calls}
        assert reply.environment_id == environment.id
        found = await foundry.open_environment(interpreter, reply.environment_id)
        target = await found.files.download("chart.png", to=tmp_path)
        assert target.read_bytes().startswith(b"\x89PNG")
        await environment.delete()
    async with CodeInterpreter(LocalSessionPool()) as embedded:
        with pytest.raises(ConfigurationError, match="MCP endpoint"):
            await foundry.open_environment(embedded)


async def test_environments_of_a_gateway_are_shared_too(project: Any, tmp_path: Path) -> None:
    """Share a gateway's environments: their ids are signed, and others are refused."""
    from cci_plugins.server import SignedEnvironments

    from ._server import KEY as GATEWAY_KEY
    from ._server import serving

    signed = SignedEnvironments(b"s" * 32)
    async with serving(LocalSessionPool(preload=()), environments=signed, rest=False) as url:
        connection = await foundry.connect(project, endpoint=url, key=GATEWAY_KEY)
        agent = await create_analyst(project, connection)
        async with CodeInterpreter(PlatformSessionPool(url, key=GATEWAY_KEY)) as interpreter:
            environment = await foundry.open_environment(interpreter)
            await environment.files.upload(CSV, name="sales.csv")
            reply = await foundry.run(agent, "Chart sales.csv.", environment=environment)
            assert reply.text.startswith("The total is 42. Kept: True.")
            assert await environment.files.download("n.txt") == b"42"
            own = await foundry.run(agent, "What is the total?")
            found = await foundry.open_environment(interpreter, own.environment_id)
            await found.files.upload(b"1", name="one.txt")
            assert {file.name for file in await found.files.list()} == {"n.txt", "one.txt"}


async def test_approval_is_requested_only_for_code(
    running: Running, project: Any, connection: Any
) -> None:
    agent = await create_analyst(project, connection, require_approval="always")
    policy = running.fake.agents["analyst"]["1"]["tools"][0]["require_approval"]
    assert (needs_approval(policy, RUN), needs_approval(policy, LAUNCH)) == (True, False)
    host = Host()
    reply = await foundry.run(agent, "What is the total?", approve=host)
    assert reply.text.startswith("The total is 42. Kept: True.")
    assert [request.code.splitlines()[0] for request in host.asked] == [
        "n = 6 * 7",
        "print('n' in globals())",
    ]
    assert {request.session_key for request in host.asked} == {reply.environment_id}
    assert [call.tool for call in reply.calls] == [LAUNCH, RUN, RUN]


@pytest.mark.parametrize(
    ("host", "reason"),
    [
        (Host(Decision("deny", reason="not today")), "not today"),
        (Host(Decision("deny")), "None"),
        (
            Host(Decision("allow", code="print(1)")),
            "the user wants exactly this code instead:\nprint(1)",
        ),
    ],
)
async def test_denied_code_does_not_run(
    project: Any, connection: Any, host: Host, reason: str
) -> None:
    agent = await create_analyst(project, connection, require_approval="always")
    reply = await foundry.run(agent, "What is the total?", approve=host)
    assert reply.text == f"It was not run: denied: {reason}"
    assert [call.tool for call in reply.calls] == [LAUNCH]


async def test_an_approver_that_raises_denies(project: Any, connection: Any) -> None:
    async def failing(_: ApprovalRequest) -> Decision:
        raise RuntimeError("no terminal")

    agent = await create_analyst(project, connection, require_approval="always")
    reply = await foundry.run(agent, "What is the total?", approve=failing)
    assert reply.text == "It was not run: denied: nobody could be asked"


async def test_code_that_needs_approval_does_not_run_without_an_approver(
    project: Any, connection: Any
) -> None:
    agent = await create_analyst(project, connection, require_approval="always")
    with pytest.raises(ConfigurationError, match="no approver"):
        await foundry.run(agent, "What is the total?")


async def test_endless_requests_for_approval_are_stopped(
    running: Running, project: Any, connection: Any
) -> None:
    def endless(_: str) -> Turn:
        environment = json.loads((yield Call(LAUNCH, {})))["environmentId"]
        while True:
            yield Call(RUN, {"environmentId": environment, "pythonCode": "1"})

    running.fake.model = endless
    agent = await create_analyst(project, connection, require_approval="always")
    with pytest.raises(FoundryError, match="more than 3 times"):
        await foundry.run(agent, "Go on.", approve=Host(), rounds=3)
    assert running.fake.asked["POST response"] == 4


async def test_a_refused_call_is_an_error_on_the_reply(project: Any, connection: Any) -> None:
    reply = await foundry.run(await create_analyst(project, connection), "This fails at first.")
    assert reply.text.startswith("The total is 42.")
    assert [call.error is None for call in reply.calls] == [True, False, True, True]


async def test_a_rotated_key_is_an_error_with_a_hint(
    running: Running, project: Any, pool: Emulated
) -> None:
    stale = await foundry.connect(project, endpoint=f"{pool.url}/mcp", key="planted-old-key-0001")
    agent = await create_analyst(project, stale)
    with pytest.raises(FoundryError, match=r"401 \(Unauthorized\)") as caught:
        await foundry.run(agent, "What is the total?")
    assert "cci foundry connect" in str(caught.value.hint)
    await foundry.connect(project, endpoint=f"{pool.url}/mcp", key=KEY)
    assert "42" in (await foundry.run(agent, "What is the total?")).text
    await foundry.disconnect(project)
    with pytest.raises(FoundryError, match="can't be found"):
        await foundry.run(agent, "What is the total?")


@pytest.mark.parametrize(
    ("answer", "kind", "words"),
    [
        (_error(401, "unauthorized", "No token."), AuthenticationError, "No token"),
        (_error(403, "forbidden", "No role."), AuthenticationError, "No role"),
        (_error(404, "not_found", "No such agent."), ConfigurationError, "No such agent"),
        (_error(429, "rate_limit", "Too many tokens."), FoundryError, "Too many tokens"),
        (_error(500, "server_error", "Sorry."), FoundryError, "Sorry"),
    ],
)
async def test_failures_of_a_run_are_translated_and_never_repeated(
    running: Running, project: Any, answer: Any, kind: type, words: str
) -> None:
    agent = foundry.Agent("analyst", "1", project)
    running.fake.faults["POST response"] = answer
    with pytest.raises(kind, match=words) as caught:
        await foundry.run(agent, "What is the total?")
    assert running.fake.asked["POST response"] == 1
    assert caught.value.retryable == (answer.status_code == 429)


async def test_failed_and_missing_responses_are_errors(
    running: Running, project: Any, connection: Any
) -> None:
    from starlette.responses import JSONResponse

    agent = await create_analyst(project, connection)
    failed = {"id": "r", "object": "response", "status": "failed", "output": []}
    error = {"code": "server_error", "message": "The model failed."}
    running.fake.faults["POST response"] = JSONResponse(failed | {"error": error})
    with pytest.raises(FoundryError, match="The model failed") as caught:
        await foundry.run(agent, "What is the total?")
    assert caught.value.code == "server_error"
    del running.fake.faults["POST response"]
    with pytest.raises(FoundryError, match="in time") as late:
        await foundry.run(agent, "Total?", timeout=timedelta(milliseconds=1))
    assert "may have run" in str(late.value)
    lost = foundry.Agent(
        "analyst",
        "1",
        foundry.Project(
            "https://127.0.0.1:9/api/projects/project",
            credential=running.credential,
            ca_file=running.ca,
        ),
    )
    with pytest.raises(FoundryError, match="connection to Foundry failed"):
        await foundry.run(lost, "Are you there?")


async def test_a_refused_agent_names_the_missing_role(
    running: Running, project: Any, connection: Any
) -> None:
    running.credential.tokens["https://ai.azure.com/.default"] = "planted-token-of-nobody"
    with pytest.raises(AuthenticationError, match="invalid token") as caught:
        await create_analyst(project, connection)
    assert "Foundry User" in str(caught.value.hint)

    class Nobody:
        def get_token(self, *_: str) -> Any:
            raise RuntimeError("no account")

    nobody = foundry.Project(running.endpoint, credential=Nobody(), ca_file=running.ca)
    with pytest.raises(AuthenticationError, match="signing in to Azure failed"):
        await create_analyst(nobody, connection)
    with pytest.raises(AuthenticationError, match="signing in to Azure failed"):
        await foundry.run(foundry.Agent("analyst", "1", nobody), "Are you there?")


async def test_environment_variables_replace_missing_arguments(
    running: Running, project: Any, connection: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigurationError, match="MCP_PROJECT_CONNECTION_ID is not set"):
        foundry.code_interpreter_tool()
    with pytest.raises(ConfigurationError, match="FOUNDRY_MODEL_DEPLOYMENT_NAME is not set"):
        await foundry.create_agent("analyst", project=project)
    with pytest.raises(ConfigurationError, match="not named"):
        foundry.Project.from_env()
    monkeypatch.setenv("MCP_PROJECT_CONNECTION_ID", connection.id)
    monkeypatch.setenv("FOUNDRY_MODEL_DEPLOYMENT_NAME", MODEL)
    agent = await foundry.create_agent("analyst", instructions="Be brief.", project=project)
    assert "42" in (await foundry.run(agent, "What is the total?")).text
    (definition,) = running.fake.agents["analyst"].values()
    assert definition["instructions"].startswith("Be brief.\n\nYou can run Python.")
    tool = definition["tools"][0]
    assert (tool["server_url"], tool["require_approval"]) == ("https://localhost", "never")
    other_names = ["launchShellEnvironment", "launchPythonEnvironment"]
    assert tool["allowed_tools"] == [LAUNCH, RUN, *other_names]
    assert await foundry.delete_agent(agent, all_versions=True) is True


@pytest.mark.parametrize(
    "where",
    [
        {"endpoint": "http://account.services.ai.azure.com/api/projects/p"},
        {"endpoint": "https://account.services.ai.azure.com"},
        {"endpoint": "https://user:pass@account.services.ai.azure.com/api/projects/p"},
        {"resource_id": POOL_ID},
    ],
)
def test_invalid_project_addresses_are_refused(where: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="Foundry project"):
        foundry.Project(**where)


def test_the_blocking_functions_have_the_same_signatures_and_work(
    running: Running, project: Any
) -> None:
    from cci_plugins.foundry import sync

    for name in sync.__all__:
        blocking, asynchronous = getattr(sync, name), getattr(foundry, name)
        assert inspect.signature(blocking) == inspect.signature(asynchronous), name
    connection = sync.connect(project, endpoint="https://pool.example/mcp", key=KEY)
    tool = foundry.code_interpreter_tool(connection)
    agent = sync.create_agent("analyst", model=MODEL, tool=tool, project=project)
    running.fake.faults["POST response"] = _error(500, "server_error", "Sorry.")
    with pytest.raises(FoundryError):
        sync.run(agent, "Are you there?")
    assert (sync.delete_agent(agent), sync.disconnect(project)) == (True, True)


def test_replies_are_read_even_when_the_model_wrote_nonsense() -> None:
    from cci_plugins.foundry.replies import read_reply

    picture = "data:image/png;base64,iVBORw0KGgo="
    call = {"type": "mcp_call", "name": RUN, "arguments": "{not json", "output": picture}
    shell = {"execCommandAndArgs": ["ls", "-l"], "environmentId": 7}
    other = {"type": "mcp_call", "name": "s", "arguments": json.dumps(shell), "error": "no"}
    cut = "data:image/png;base64,iVBORw0KGgo"
    part = {"type": "output_text", "text": f"see {picture} and {cut}", "annotations": ["odd"]}
    words = {"type": "message", "content": [part, {"type": "refusal"}]}
    reply = read_reply([{"output": [call, "odd", other, words], "status": "incomplete"}])
    assert [(file.name, file.media_type) for file in reply.files] == [("file-1.png", "image/png")]
    assert reply.files[0].data == b"\x89PNG\r\n\x1a\n"
    assert [call.code for call in reply.calls] == ["", "ls -l"]
    assert (reply.calls[1].error, reply.environment_id) == ("no", "7")
    assert (reply.status, reply.id) == ("incomplete", "")
    assert read_reply([{"output": None}]).environment_id is None


async def test_launching_needs_a_launch_tool(
    pool: Emulated, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with pool.client() as client:
        assert isinstance(client, PlatformSessionPool)
        assert client._server is not None
        monkeypatch.setattr(client, "_server", replace(client._server, launch_tool=None))
        with pytest.raises(ProtocolError, match="no tool that launches"):
            await client.launch()


# the command, and what must never be seen

AZ = """#!{python} -IS
import json, sys, time
is_arm = not any("ai.azure.com" in argument for argument in sys.argv)
token = {arm!r} if is_arm else {foundry!r}
print(json.dumps({{"accessToken": token, "expires_on": int(time.time()) + 3600}}))
"""


@pytest.fixture
def signed_in(running: Running, tmp_path: Path) -> dict[str, str]:
    """Return an environment with a command line in place of Azure's."""
    az = tmp_path / "az"
    az.write_text(AZ.format(python=sys.executable, arm=ARM_TOKEN, foundry=TOKEN))
    az.chmod(az.stat().st_mode | stat.S_IXUSR)
    return {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "PYTHONPATH": str(ROOT / "src"),
        "AZURE_TOKEN_CREDENTIALS": "AzureCliCredential",
        "CCI_ARM_ENDPOINT": running.url,
        "SSL_CERT_FILE": str(running.ca),
        "COLUMNS": "200",
        "FOUNDRY_PROJECT_ENDPOINT": running.endpoint,
    }


@pytest.fixture
def cci(signed_in: dict[str, str], tmp_path: Path) -> Callable[..., tuple[int, str, str]]:
    """Return the command, signed in."""

    def call(*arguments: str, new_process: bool = False, **variables: str) -> tuple[int, str, str]:
        if not new_process:
            return run_command(arguments, tmp_path, signed_in | variables)
        done = subprocess.run(
            [sys.executable, "-m", "cci_plugins", *arguments],
            capture_output=True,
            cwd=tmp_path,
            env=signed_in | variables,
            text=True,
            timeout=90,
        )
        return done.returncode, done.stdout, done.stderr

    return call


@pytest.mark.full
@pytest.mark.slow
async def test_the_sample_charts_a_csv_and_saves_the_file(
    signed_in: dict[str, str], running: Running, pool: Emulated, tmp_path: Path
) -> None:
    running.fake.model = analyst
    variables = {
        "AZURE_SESSION_POOL_MCP_ENDPOINT": f"{pool.url}/mcp",
        "AZURE_SESSION_POOL_MCP_KEY": KEY,
        "FOUNDRY_MODEL_DEPLOYMENT_NAME": MODEL,
    }
    sample = ROOT / "samples" / "12_foundry_agent.py"
    done = await anyio.run_process(
        [sys.executable, str(sample)], cwd=tmp_path, env=signed_in | variables, check=False
    )
    out, err = done.stdout.decode(), done.stderr.decode()
    assert done.returncode == 0, err
    assert err == ""
    assert "'Gentoo': 5076.0" in out
    assert "saved out/chart.png" in out
    assert (tmp_path / "out" / "chart.png").read_bytes().startswith(b"\x89PNG")
    assert running.fake.agents == {"penguin-analyst": {}}
    for secret in (KEY, ARM_TOKEN, TOKEN):
        assert secret not in out + err


async def test_the_command_connects_and_disconnects_and_shows_no_key(
    cci: Callable[..., tuple[int, str, str]], running: Running, pool: Emulated
) -> None:
    def call(*arguments: str, **variables: Any) -> Any:
        return anyio.to_thread.run_sync(lambda: cci(*arguments, **variables))

    endpoint = f"{pool.url}/mcp"
    where = {"AZURE_SESSION_POOL_MCP_ENDPOINT": endpoint, "AZURE_SESSION_POOL_MCP_KEY": KEY}
    done = [await call("foundry", "connect", new_process=True, **where)]
    connection_id = f"{PROJECT_ID}/connections/code-interpreter"
    code, out, err = done[0]
    assert (code, out) == (0, f'export MCP_PROJECT_CONNECTION_ID="{connection_id}"\n'), err
    assert "created" in err
    named = ["--endpoint", endpoint, "--project", PROJECT_ID, "--json"]
    done.append(await call("foundry", "connect", *named, CCI_SERVE_KEY=KEY))
    facts = {"id": connection_id, "name": "code-interpreter", "endpoint": endpoint}
    assert json.loads(done[1][1]) == facts | {"change": "unchanged"}
    done.append(await call("foundry", "connect", "--endpoint", endpoint))
    assert (done[2][0], "its key is not set" in done[2][2].replace("the endpoint's", "its")) == (
        3,
        True,
    )
    done.append(await call("foundry", "connect", "--endpoint", endpoint, "--pool", POOL_ID))
    assert done[3][0] == 3
    running.fake.faults["DELETE connection"] = _arm_error(409, "Conflict", f"In use: {KEY}")
    done.append(await call("foundry", "disconnect"))
    assert (done[4][0], "Conflict" in done[4][2]) == (6, True)
    del running.fake.faults["DELETE connection"]
    done.append(await call("foundry", "disconnect", "--json"))
    assert json.loads(done[5][1]) == {"name": "code-interpreter", "removed": True}
    done.append(await call("foundry", "disconnect"))
    assert "does not exist" in done[6][2]
    everything = repr(done[:4] + done[5:])
    for secret in (KEY, ARM_TOKEN, TOKEN):
        assert secret not in everything


async def test_keys_and_tokens_are_never_shown(
    running: Running, project: Any, pool: Emulated, caplog: pytest.LogCaptureFixture
) -> None:
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    spans = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    trace.set_tracer_provider(provider)
    with caplog.at_level(logging.DEBUG):
        connection = await foundry.connect(project, endpoint=f"{pool.url}/mcp", key=KEY)
        agent = await create_analyst(project, connection)
        async with CodeInterpreter(pool.client()) as interpreter:
            environment = await foundry.open_environment(interpreter)
            reply = await foundry.run(agent, "What is the total?", environment=environment)
            seen = [repr(value) for value in (project, connection, agent, environment, reply)]
            seen += [repr(vars(project)), repr(interpreter)]
        running.fake.faults["POST response"] = _error(500, "server_error", f"Sorry, {KEY}.")
        with pytest.raises(FoundryError) as caught:
            await foundry.run(agent, "What is the total?")
        seen += traceback.format_exception(caught.value)
    seen += [span.to_json() for span in spans.get_finished_spans()]
    ours = [r for r in caplog.records if not r.name.startswith(("openai", "mcp", "httpx"))]
    seen += [record.getMessage() for record in ours]
    everything = "\n".join(seen)
    assert "Sorry" in everything
    for secret in (KEY, TOKEN, ARM_TOKEN):
        assert secret not in everything
    for secret in (TOKEN, ARM_TOKEN):
        assert secret not in caplog.text


async def test_the_doctor_finds_problems_of_a_connection(
    running: Running, project: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoint = "https://pool.example/mcp"
    monkeypatch.setenv("CCI_ARM_ENDPOINT", running.url)
    monkeypatch.setenv("AZURE_AI_PROJECT_ID", PROJECT_ID)
    found = await _diagnose(running)
    assert found["foundry.project"].status == "ok"
    missing = found["foundry.connection"]
    assert (missing.status, missing.fix) == ("failed", "cci foundry connect")
    await foundry.connect(project, endpoint=endpoint, key=KEY)
    assert (await _diagnose(running))["foundry.connection"].status == "ok"
    monkeypatch.setenv("AZURE_SESSION_POOL_MCP_ENDPOINT", endpoint)
    monkeypatch.setenv("AZURE_SESSION_POOL_MCP_KEY", ROTATED)
    rotated = (await _diagnose(running))["foundry.connection"]
    assert (rotated.status, rotated.fix) == ("failed", "cci foundry connect")
    assert "has another key" in rotated.message
    monkeypatch.setenv("AZURE_SESSION_POOL_MCP_KEY", KEY)
    assert (await _diagnose(running))["foundry.connection"].status == "ok"
    monkeypatch.setenv("AZURE_SESSION_POOL_MCP_ENDPOINT", "https://other.example/mcp")
    assert "--replace" in (await _diagnose(running))["foundry.connection"].fix
    monkeypatch.setenv("FOUNDRY_PROJECT_ENDPOINT", f"{running.url}/api/projects/other")
    assert "two different" in (await _diagnose(running))["foundry.project"].message
    monkeypatch.delenv("FOUNDRY_PROJECT_ENDPOINT")
    running.fake.connections["code-interpreter"]["properties"]["category"] = "ApiKey"
    assert "is not an MCP connection" in (await _diagnose(running))["foundry.connection"].message


async def test_the_doctor_finds_a_project_without_read_access(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CCI_ARM_ENDPOINT", running.url)
    monkeypatch.setenv("AZURE_AI_PROJECT_ID", PROJECT_ID)
    running.fake.faults["GET project"] = _arm_error(403, "AuthorizationFailed", "You may not.")
    found = await _diagnose(running)
    assert found["foundry.project"].status == "failed"
    assert "role" in found["foundry.project"].fix
    assert found["foundry.connection"].status == "skipped"


async def _diagnose(running: Running) -> dict[str, Any]:
    """Return the findings of Foundry's checks. Those of the pool have their own tests."""
    from cci_plugins.doctor import context, findings
    from cci_plugins.doctor import foundry as checks
    from cci_plugins.doctor.engine import _run_check

    mask = findings.Mask(show_ids=False)
    checked = context.Context(running.credential, mask, ca=running.ca, local_only=False)
    checked.done["auth.sign-in"] = findings.Finding("auth.sign-in", "ok", "")
    try:
        blocked_by: dict[str, str] = {}
        for check in checks.CHECKS:
            checked.done[check.id] = await _run_check(check, checked, blocked_by, None)
    finally:
        await checked.aclose()
    assert [secret for secret in (KEY, ROTATED, TOKEN) if secret in repr(checked.done)] == []
    return checked.done

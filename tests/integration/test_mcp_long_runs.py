"""Runs longer than `--wait` over MCP, with real kernels."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from cci_plugins import LocalSessionPool
from cci_plugins.testing import FakeSessionPool

from ._server import KEY, running_server
from .test_mcp_clients import official_client, text_content

pytest.importorskip("mcp")
pytest.importorskip("uvicorn")
httpx = pytest.importorskip("httpx")

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]
LONG = "import time\nprint('begun', flush=True)\ntime.sleep(3)\nprint('done')\n6 * 7"
ENDLESS = "import time\nprint('begun', flush=True)\nwhile True: time.sleep(0.01)"
RUN = "runPythonCodeInRemoteEnvironment"
SHELL = "runShellCommandInRemoteEnvironment"


def make_pool() -> LocalSessionPool:
    return LocalSessionPool(ready_sessions=0, preload=())


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with running_server(make_pool, execute_code=True, wait=0.6) as url:
        yield url


async def ask(client: Any, tool: str, **arguments: Any) -> str:
    return text_content((await client.call_tool(tool, arguments)).content)


async def test_a_client_checks_a_run_of_its_mcp_session(url: str) -> None:
    with anyio.fail_after(60):
        async with official_client(url) as client, official_client(url) as other:
            tools = {tool.name: tool for tool in (await client.list_tools()).tools}
            assert {"execute_code", "check_run", RUN} <= set(tools)
            assert "A run of more than 0.6 s goes on" in tools["execute_code"].description
            answer = await ask(client, "execute_code", code="1")  # the kernel starts
            while answer != "1" and not answer.endswith("\n1"):
                answer = await ask(client, "check_run", action="wait")
            answer = await ask(client, "execute_code", code=LONG)
            assert re.match(r"\[run-\d is still running after \d s\.", answer), answer
            assert " is still running" in await ask(client, "execute_code", code="1")
            assert "No run is in progress" in await ask(other, "check_run", action="wait")
            while "still running" in (answer := await ask(client, "check_run", action="wait")):
                pass
            assert answer.endswith(" has ended: it succeeded]\nbegun\ndone\n42")
            assert "returned before" in await ask(client, "check_run", action="look")
            answer = await ask(client, "execute_code", code=ENDLESS)
            while "begun" not in answer:
                answer = await ask(client, "check_run", action="look")
            answer = await ask(client, "check_run", action="stop")
            assert " has ended: it failed]\nbegun\nKeyboardInterrupt" in answer
            assert await ask(client, "execute_code", code="1 + 1") == "2"


async def call(url: str, name: str, **arguments: Any) -> dict[str, Any]:
    """Call a tool as a client without an MCP session does, such as Foundry."""
    params = {"name": name, "arguments": arguments}
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
    async with httpx.AsyncClient(headers={"x-ms-apikey": KEY}, timeout=60) as client:
        result = (await client.post(url, json=body)).json()["result"]
    fields = result.get("structuredContent")
    return dict(fields) if fields is not None else {"text": result["content"][0]["text"]}


async def launch(url: str) -> str:
    """Launch an environment, and start its kernel."""
    environment = (await call(url, "launchShell"))["environmentId"]
    answer = await call(url, RUN, environmentId=environment, pythonCode="1")
    assert "status" in answer, answer
    while answer["status"] == "Running":
        given = {"environmentId": environment, "run": answer["run"]}
        answer = await call(url, "check_run", action="wait", **given)
    return environment


async def check_environment_runs(first: str, second: str) -> None:
    """Check runs of an environment by two servers, or replicas of a gateway."""
    with anyio.fail_after(100):
        environment = await launch(first)
        left = await call(first, RUN, environmentId=environment, pythonCode=LONG)
        assert (left["status"], left["stderr"]) == ("Running", ""), left
        assert re.fullmatch("run-[0-9a-f]{8}", left["run"])
        assert f'"{left["run"]}" and action "wait"' in left["note"]
        given = {"environmentId": environment, "run": left["run"]}
        for url in (second, first):  # an answer may get lost, so it is given again
            while (answer := await call(url, "check_run", action="wait", **given)).get(
                "status"
            ) == "Running":
                pass
            assert (answer["stdout"], answer["executionResult"]) == ("begun\ndone\n", 42), answer
        left = await call(first, RUN, environmentId=environment, pythonCode=ENDLESS)
        given = {"environmentId": environment, "run": left["run"]}
        while not left["stdout"]:
            left = await call(second, "check_run", action="look", **given)
        answer = await call(second, "check_run", action="stop", **given)
        assert (answer["status"], answer["stdout"]) == ("Stopped", "begun\n")
        answer = await call(second, SHELL, environmentId=environment, shellCommand="echo quick")
        assert (answer["stdout"], answer["exitCode"]) == ("quick\n", 0)
        given["run"] = "run-00000000"
        assert (
            "has no run 'run-00000000'"
            in (await call(first, "check_run", action="look", **given))["text"]
        )
        given["run"] = "nightly"
        assert (
            "is not the name of a run"
            in (await call(first, "check_run", action="stop", **given))["text"]
        )


@pytest.mark.full  # the last test checks the same through a gateway
async def test_a_client_without_an_mcp_session_checks_a_run_of_its_environment(url: str) -> None:
    await check_environment_runs(url, url)


async def test_a_run_ends_with_the_request_that_waits_for_it(url: str) -> None:
    with anyio.fail_after(60):
        environment = await launch(url)
        with anyio.move_on_after(0.3):
            await call(url, RUN, environmentId=environment, pythonCode=ENDLESS)
        answer = await call(url, RUN, environmentId=environment, pythonCode="6 * 7")
        while answer["status"] == "Running":
            given = {"environmentId": environment, "run": answer["run"]}
            answer = await call(url, "check_run", action="wait", **given)
        assert answer["executionResult"] == 42


def test_without_wait_there_is_one_tool_and_its_description_is_unchanged() -> None:
    from cci_plugins.common.limits import Limits
    from cci_plugins.server.mcp.execute_code import ExecuteCodeTools
    from cci_plugins.server.mcp.sessions import McpSessions, mcp_session_id
    from cci_plugins.tools import execute_code

    pool = FakeSessionPool()
    sessions = McpSessions(pool, Limits())
    token = mcp_session_id.set(sessions.create_id())
    (tool,) = ExecuteCodeTools(None, sessions, file_links=False).list_tools()
    mcp_session_id.reset(token)
    assert tool["description"].startswith(execute_code.DESCRIPTION)
    assert "check_run" not in json.dumps(tool)


def test_the_command_offers_check_run_over_stdio(tmp_path: Path) -> None:
    pytest.importorskip("typer")
    skipped = ("AZURE_", "MCP_", "CCI_")
    env = {name: value for name, value in os.environ.items() if not name.startswith(skipped)}
    env["CCI_READY_SESSIONS"] = "0"
    hello = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "t"}}
    hello["clientInfo"]["version"] = "0"
    lines = [
        {"id": 1, "method": "initialize", "params": hello},
        {"method": "notifications/initialized"},
        {"id": 2, "method": "tools/list"},
    ]
    text = "".join(json.dumps({"jsonrpc": "2.0"} | line) + "\n" for line in lines)
    with subprocess.Popen(
        [sys.executable, "-m", "cci_plugins", "mcp", "--wait", "90"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=tmp_path,
        env=env,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(text)
        process.stdin.flush()
        process.stdout.readline()
        tools = json.loads(process.stdout.readline())["result"]["tools"]
        process.stdin.close()
        process.wait(60)
    assert [tool["name"] for tool in tools] == ["execute_code", "check_run"]
    assert tools[1]["inputSchema"]["required"] == ["action"]


def test_the_command_refuses_to_emulate_a_pool_and_to_wait(
    capsys: pytest.CaptureFixture[str],
) -> None:
    cli = pytest.importorskip("cci_plugins.cli.app")
    arguments = ["serve", "--emulate", "custom", "--wait", "90", "--port", "0"]
    assert cli.start(arguments) == 3
    assert "--wait and --emulate cannot be combined" in " ".join(capsys.readouterr().err.split())


def test_a_server_over_a_pool_without_background_runs_is_refused() -> None:
    from cci_plugins.errors import ConfigurationError
    from cci_plugins.pools.base import Capabilities
    from cci_plugins.server import create_app

    class RequestPool(FakeSessionPool):
        capabilities = Capabilities(name="plain")

    with pytest.raises(ConfigurationError, match=r"wait \(90 s\) needs runs in the background"):
        create_app(RequestPool(), api_key=KEY, wait=90)


async def test_any_replica_of_a_gateway_answers_for_a_run() -> None:
    from .test_gateway import gateways

    async with gateways(2, serve={"wait": 0.6}) as (_, (first, second)):
        await check_environment_runs(first, second)
    async with gateways(1, container="executions", serve={"wait": 0.6}) as (_, (only,)):
        environment = (await call(only, "launchShell"))["environmentId"]
        answer = await call(only, RUN, environmentId=environment, pythonCode="print('ran')")
        assert "cannot run code in the background" in answer["text"], answer

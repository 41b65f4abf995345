"""MCP 2026-07-28 over HTTP: no handshake and no MCP session, with the SDK that speaks it."""

import json
from contextlib import asynccontextmanager

import anyio
import httpx
import pytest

from cci_plugins.errors import PoolExhaustedError
from cci_plugins.testing import FakeSessionPool

from ._server import KEY, running_server, serving
from .test_mcp_clients import HEADERS, is_error, major, official_client, structured

pytest.importorskip("mcp")
pytest.importorskip("uvicorn")

pytestmark = pytest.mark.anyio

VERSION = "2026-07-28"
RUN = "runPythonCodeInRemoteEnvironment"
needs_mcp_2 = pytest.mark.skipif(major("mcp") < 2, reason="mcp 1 does not speak this revision")


def message(method: str, request_id: object = 1, **params) -> dict:
    meta = {
        "io.modelcontextprotocol/protocolVersion": VERSION,
        "io.modelcontextprotocol/clientCapabilities": {},
    }
    params["_meta"] = meta | params.get("_meta", {})
    return {"jsonrpc": "2.0", "id": request_id, "method": method, "params": params}


class Client:
    """A client that knows only this revision."""

    def __init__(self, url: str, **headers: str):
        headers = {"x-ms-apikey": KEY, "accept": "application/json, text/event-stream"} | headers
        headers["mcp-protocol-version"] = VERSION
        self.http = httpx.AsyncClient(base_url=url, headers=headers, timeout=60)

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        await self.http.aclose()

    async def send(self, method: str, **params) -> httpx.Response:
        headers = {"mcp-method": method}
        if name := params.get("name", params.get("uri")):
            headers["mcp-name"] = name
        return await self.http.post("", json=message(method, **params), headers=headers)

    async def get(self, method: str, **params) -> dict:
        response = await self.send(method, **params)
        assert response.status_code == 200, response.text
        assert "mcp-session-id" not in response.headers
        if response.headers["content-type"].startswith("text/event-stream"):
            lines = [one for one in response.text.splitlines() if one.startswith("data: ")]
            return json.loads(lines[-1].removeprefix("data: "))["result"]
        return response.json()["result"]

    async def run(self, code: str, **arguments: str) -> dict:
        return await self.get(
            "tools/call", name="execute_code", arguments={"code": code} | arguments
        )


@pytest.fixture(scope="module")
def url():
    pytest.importorskip("jupyter_client")
    from cci_plugins.pools.local.pool import LocalSessionPool

    with running_server(LocalSessionPool, execute_code=True, file_links=True) as url:
        yield url


@asynccontextmanager
async def pinned_client(url: str):
    """The official client, told to speak this revision only."""
    import httpx2
    from mcp import Client as OfficialClient
    from mcp.client.streamable_http import streamable_http_client

    async with (
        httpx2.AsyncClient(headers=HEADERS, timeout=60) as http,
        OfficialClient(streamable_http_client(url, http_client=http), mode=VERSION) as client,
    ):
        yield client


@needs_mcp_2
async def test_the_server_describes_itself_without_a_handshake(url):
    async with Client(url) as client:
        found = await client.get("server/discover")
        assert found["supportedVersions"] == [VERSION]
        assert "environmentId" in found["instructions"]
        tool, *others = (await client.get("tools/list"))["tools"]
        assert tool["name"] == "execute_code"
        assert list(tool["inputSchema"]["properties"]) == ["code", "environmentId"]
        assert tool["inputSchema"]["required"] == ["code"]
        assert next(other["name"] for other in others) == "launchShell"


@needs_mcp_2
async def test_execute_code_keeps_state_in_the_environment_that_its_answer_names(url):
    async with Client(url) as client, Client(url) as other:
        first = await client.run("x = 41")
        environment = first["_meta"]["cci_plugins/environmentId"]
        assert first["content"][-1]["text"] == f"environmentId: {environment}"
        again = await client.run("x + 1", environmentId=environment)
        assert [block["text"] for block in again["content"]] == ["42"]
        assert "NameError" in (await client.run("x"))["content"][0]["text"]
        assert (await other.run("x", environmentId=environment))["content"][0]["text"] == "41"
        where = {"environmentId": environment, "pythonCode": "x + 2"}
        ran = await client.get("tools/call", name=RUN, arguments=where)
        assert ran["structuredContent"]["executionResult"] == 43


@needs_mcp_2
async def test_a_launched_environment_is_one_for_every_tool(url):
    async with Client(url) as client:
        launched = await client.get("tools/call", name="launchShell", arguments={})
        environment = launched["structuredContent"]["environmentId"]
        where = {"environmentId": environment, "pythonCode": "y = 'kept'"}
        await client.get("tools/call", name=RUN, arguments=where)
        result = await client.run("y", environmentId=environment)
        assert result["content"][0]["text"] == "'kept'"
        refused = await client.run("y", environmentId="no")
        assert refused["isError"]
        assert "Leave environmentId out" in refused["content"][0]["text"]


@needs_mcp_2
async def test_the_files_of_an_environment_are_resources_that_name_it(url):
    async with Client(url) as client:
        result = await client.run("open('a b.txt', 'w').write('text')")
        link = next(one for one in result["content"] if one["type"] == "resource_link")
        assert link["uri"].startswith("sandbox://")
        read = await client.get("resources/read", uri=link["uri"])
        assert read["contents"][0]["text"] == "text"
        assert (await client.get("resources/list"))["resources"] == []


@needs_mcp_2
async def test_progress_comes_before_the_answer(url):
    code = "import time\nfor n in range(2):\n    print('step', n, flush=True)\n    time.sleep(0.3)"
    async with Client(url) as client:
        response = await client.send(
            "tools/call", name="execute_code", arguments={"code": code}, _meta={"progressToken": 1}
        )
    assert response.headers["content-type"].startswith("text/event-stream")
    assert '"notifications/progress"' in response.text
    assert "step 1" in response.text


@needs_mcp_2
@pytest.mark.parametrize("accept", ["application/json", "application/json, text/event-stream"])
async def test_closing_the_connection_cancels_and_a_notification_does_not(accept):
    started, cancelled = anyio.Event(), anyio.Event()

    class WaitingPool(FakeSessionPool):
        async def execute(self, *_, **__):
            started.set()
            try:
                await anyio.sleep_forever()
            finally:
                cancelled.set()

    with anyio.fail_after(60):
        async with (
            serving(WaitingPool(), execute_code=True) as url,
            Client(url, accept=accept) as client,
        ):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(client.run, "x")
                await started.wait()
                note = {"jsonrpc": "2.0", "method": "notifications/cancelled"}
                note["params"] = {"requestId": 1}
                assert (await client.http.post("", json=note)).status_code == 202
                await anyio.sleep(0.2)
                assert not cancelled.is_set()
                tasks.cancel_scope.cancel()
            await cancelled.wait()


@needs_mcp_2
async def test_a_gateway_answers_too_and_knows_only_its_own_environments():
    from cci_plugins.server import SignedEnvironments

    async def admit(*_, **__):
        raise PoolExhaustedError("too many")

    environments = SignedEnvironments(b"x" * 32)
    with anyio.fail_after(30):
        async with (
            serving(FakeSessionPool(), environments=environments, rest=False) as url,
            Client(url) as client,
        ):
            tools = [tool["name"] for tool in (await client.get("tools/list"))["tools"]]
            assert tools[0] == "launchShell"
            assert "execute_code" not in tools
            where = {"environmentId": "environment-1", "pythonCode": "1"}
            refused = await client.get("tools/call", name=RUN, arguments=where)
            assert refused["isError"]
            where["environmentId"] = environments.mint()
            assert not (await client.get("tools/call", name=RUN, arguments=where))["isError"]


@needs_mcp_2
@pytest.mark.parametrize("make_client", [pinned_client, official_client], ids=["pinned", "default"])
async def test_the_official_client_needs_no_handshake(make_client, url):
    with anyio.fail_after(60):
        async with make_client(url) as client:
            first = await client.call_tool("execute_code", {"code": "z = 6"})
            environment = first.content[-1].text.removeprefix("environmentId: ")
            second = await client.call_tool(
                "execute_code", {"code": "z * 7", "environmentId": environment}
            )
            assert [block.text for block in second.content] == ["42"]
            assert not is_error(second)
            launched = await client.call_tool("launchShell", {})
            assert structured(launched)["environmentId"]


@needs_mcp_2
async def test_a_request_that_does_not_fit_is_refused_with_what_is_spoken(url):
    async with Client(url) as client:
        client.http.headers["mcp-protocol-version"] = "2030-01-01"
        response = await client.send("tools/list")
        assert response.status_code == 400
        client.http.headers["mcp-protocol-version"] = VERSION
        wrong = await client.http.post("", json=message("tools/list"), headers={"mcp-method": "x"})
        assert wrong.status_code == 400
        assert (await client.send("no/such/method")).status_code == 404
        for method in ("GET", "DELETE"):
            assert (await client.http.request(method, "")).status_code == 405


@pytest.mark.skipif(major("mcp") >= 2, reason="mcp 2 speaks this revision")
async def test_an_sdk_without_this_revision_leads_clients_to_the_handshake():
    with anyio.fail_after(30):
        async with serving(FakeSessionPool(), execute_code=True) as url, Client(url) as client:
            found = await client.send("server/discover")
            assert found.json()["error"]["code"] == -32601
            refused = await client.send("tools/list")
            assert refused.status_code == 400
            assert "2025-06-18" in refused.text

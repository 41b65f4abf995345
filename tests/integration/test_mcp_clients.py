"""Widely used MCP clients, each against a running server with real kernels."""

import json
from contextlib import asynccontextmanager
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version

import anyio
import pytest

from ._server import KEY, running_server

pytest.importorskip("mcp")
pytest.importorskip("uvicorn")

pytestmark = [
    pytest.mark.anyio,
    # the clients' own use of their dependencies, not ours
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

HEADERS = {"x-ms-apikey": KEY}
RUN = "runPythonCodeInRemoteEnvironment"
PICTURE = (
    "from base64 import b64decode\nfrom IPython.display import Image, display\n"
    "display(Image(b64decode('iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk"
    "+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==')))"
)


def major(package: str) -> int:
    return int(version(package).partition(".")[0])


def agent_framework_fits() -> bool:
    """Return whether mcp has the major that Agent Framework's MCP tool needs.

    That is 2.x since Agent Framework 1.23, and 1.x before.
    """
    try:
        parts = version("agent-framework-core").split(".")
    except PackageNotFoundError:
        return False
    return ((int(parts[0]), int(parts[1])) >= (1, 23)) == (major("mcp") >= 2)


@pytest.fixture(scope="module")
def url():
    from cci_plugins.pools.local.pool import LocalSessionPool

    with running_server(LocalSessionPool) as url:
        yield url


@asynccontextmanager
async def official_client(url: str):
    if major("mcp") >= 2:
        import httpx2
        from mcp import Client
        from mcp.client.streamable_http import streamable_http_client

        async with (
            httpx2.AsyncClient(headers=HEADERS, timeout=60) as http,
            Client(streamable_http_client(url, http_client=http)) as client,
        ):
            yield client
        return
    from mcp import ClientSession
    from mcp.client.streamable_http import streamablehttp_client

    async with (
        streamablehttp_client(url, headers=HEADERS) as (read, write, _),
        ClientSession(read, write) as session,
    ):
        await session.initialize()
        yield session


def structured(result) -> dict:
    return getattr(result, "structured_content", None) or result.structuredContent


def is_error(result) -> bool:
    return bool(getattr(result, "is_error", getattr(result, "isError", None)))


async def test_the_official_client_launches_runs_and_keeps_state(url):
    with anyio.fail_after(60):
        async with official_client(url) as client:
            names = {tool.name for tool in (await client.list_tools()).tools}
            assert names == {"launchShell", RUN, "runShellCommandInRemoteEnvironment"}
            launched = await client.call_tool("launchShell", {})
            where = {"environmentId": structured(launched)["environmentId"]}
            await client.call_tool(RUN, {**where, "pythonCode": "x = 6"})
            result = await client.call_tool(RUN, {**where, "pythonCode": "print('hi')\nx * 7"})
            assert structured(result)["stdout"] == "hi\n"
            assert structured(result)["executionResult"] == 42
            assert json.loads(result.content[0].text) == structured(result)
            assert not is_error(result)


async def test_the_official_client_receives_the_progress_of_a_run(url):
    received = []

    async def take(progress, total, message):
        received.append((progress, message))

    code = (
        "import time\nfor n in range(3):\n    print('step', n, flush=True)\n    time.sleep(0.2)\n42"
    )
    with anyio.fail_after(60):
        async with official_client(url) as client:
            where = {"environmentId": "progress-1", "pythonCode": code}
            result = await client.call_tool(RUN, where, progress_callback=take)
    assert structured(result)["executionResult"] == 42
    counts = [progress for progress, _ in received]
    assert counts == sorted(set(counts))
    assert received[-1] == (21, "step 2")


async def test_the_official_client_sees_a_traceback_as_an_error_it_can_read(url):
    with anyio.fail_after(60):
        async with official_client(url) as client:
            arguments = {"environmentId": "clients-error", "pythonCode": "1/0"}
            result = await client.call_tool(RUN, arguments)
            assert is_error(result)
            assert "ZeroDivisionError: division by zero" in result.content[0].text


async def test_the_official_client_gets_images_as_images(url):
    with anyio.fail_after(60):
        async with official_client(url) as client:
            arguments = {"environmentId": "clients-image", "pythonCode": PICTURE}
            result = await client.call_tool(RUN, arguments)
            assert [block.type for block in result.content] == ["text", "image"]
            assert getattr(result, "structured_content", None) is None


async def test_langchain_adapters_launch_and_run(url):
    adapters = pytest.importorskip("langchain_mcp_adapters.client")
    client = adapters.MultiServerMCPClient(
        {"ci": {"transport": "streamable_http", "url": url, "headers": HEADERS}}
    )
    with anyio.fail_after(60):
        tools = {tool.name: tool for tool in await client.get_tools()}
        launched = await call_langchain(tools["launchShell"], {})
        where = {"environmentId": json.loads(text_of(launched.content))["environmentId"]}
        message = await call_langchain(tools[RUN], {**where, "pythonCode": "print(6 * 7)"})
        assert json.loads(text_of(message.content))["stdout"] == "42\n"
        assert message.status == "success"
        message = await call_langchain(tools[RUN], {**where, "pythonCode": PICTURE})
        assert [block["type"] for block in message.content] == ["text", "image"]


async def call_langchain(tool, arguments: dict):
    return await tool.ainvoke(
        {"type": "tool_call", "id": "1", "name": tool.name, "args": arguments}
    )


def text_of(content) -> str:
    return content if isinstance(content, str) else content[0]["text"]


async def test_semantic_kernels_plugin_launches_and_runs(url):
    mcp_plugins = pytest.importorskip("semantic_kernel.connectors.mcp")
    plugin = mcp_plugins.MCPStreamableHttpPlugin(name="ci", url=url, headers=HEADERS)
    with anyio.fail_after(60):
        async with plugin:
            launched = await plugin.call_tool("launchShell")
            where = json.loads(launched[0].text)
            contents = await plugin.call_tool(RUN, **where, pythonCode="print(6 * 7)")
            assert json.loads(contents[0].text)["stdout"] == "42\n"


async def test_agent_frameworks_tool_launches_runs_and_keeps_images(url):
    pytest.importorskip("agent_framework")
    if not agent_framework_fits():
        pytest.skip("this Agent Framework wants the other major of mcp")
    tool_class = import_module("agent_framework").MCPStreamableHTTPTool
    with anyio.fail_after(60):
        async with agent_framework_tool(tool_class, url) as tool:
            launched = await tool.call_tool("launchShell")
            where = json.loads(text_content(launched))
            result = await tool.call_tool(RUN, **where, pythonCode="print(6 * 7)")
            assert json.loads(text_content(result))["stdout"] == "42\n"
            result = await tool.call_tool(RUN, **where, pythonCode=PICTURE)
            assert any((c.uri or "").startswith("data:image/png") for c in result)


@asynccontextmanager
async def agent_framework_tool(tool_class, url: str):
    if major("mcp") >= 2:
        async with tool_class("ci", url, static_headers=HEADERS) as tool:
            yield tool
        return
    import httpx

    async with (
        httpx.AsyncClient(headers=HEADERS, timeout=60) as http,
        tool_class("ci", url, http_client=http) as tool,
    ):
        yield tool


def text_content(result) -> str:
    return result if isinstance(result, str) else next(c.text for c in result if c.text)

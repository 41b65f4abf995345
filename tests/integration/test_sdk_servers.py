"""Our MCP client against servers built with the installed major of the official SDK."""

from datetime import timedelta
from importlib.metadata import version
from typing import Any

import anyio
import httpx
import pytest

from cci_plugins.errors import ProtocolError
from cci_plugins.mcp_client.client import McpClient

pytest.importorskip("mcp")

from ._azure import listening

pytestmark = pytest.mark.anyio

MINUTE = timedelta(seconds=60)
MAJOR = int(version("mcp").partition(".")[0])


def sdk_app(*, as_json: bool, stateless: bool) -> Any:
    options = {"json_response": as_json, "stateless_http": stateless}
    if MAJOR == 1:
        from mcp.server.fastmcp import FastMCP, Image
        from mcp.server.fastmcp.exceptions import ToolError

        server: Any = FastMCP("sdk", **options)
    else:
        from mcp.server.mcpserver import Image, MCPServer
        from mcp.server.mcpserver.exceptions import ToolError

        server = MCPServer("sdk")

    @server.tool()
    def add(a: int, b: int) -> int:
        return a + b

    @server.tool()
    def fail() -> str:
        raise ToolError("on purpose")

    @server.tool()
    def picture() -> Image:
        return Image(data=b"\x89PNG", format="png")

    return server.streamable_http_app() if MAJOR == 1 else server.streamable_http_app(**options)


@pytest.fixture(scope="module", params=["json", "sse"])
def replies(request):
    return request.param


@pytest.fixture(scope="module", params=["stateful", "stateless"])
def url(request, replies):
    app = sdk_app(as_json=replies == "json", stateless=request.param == "stateless")
    with listening(app) as url:
        yield f"{url}/mcp"


async def test_tools_are_listed_and_called(url):
    with anyio.fail_after(30):
        client = McpClient(url)
        server = await client.initialize()
        assert server["serverInfo"]["name"] == "sdk"
        names = sorted(tool["name"] for tool in await client.list_tools())
        assert names == ["add", "fail", "picture"]
        answer = await client.call_tool("add", {"a": 40, "b": 2}, timeout=MINUTE)
        assert (answer.text, answer.is_error) == ("42", False)
        image = (await client.call_tool("picture", {}, timeout=MINUTE)).content[0]
        assert (image["type"], image["mimeType"]) == ("image", "image/png")
        await client.aclose()


async def test_a_failing_tool_returns_an_error(url):
    with anyio.fail_after(30):
        client = McpClient(url)
        answer = await client.call_tool("fail", {}, timeout=MINUTE)
        assert answer.is_error
        assert "on purpose" in answer.text
        await client.aclose()


@pytest.mark.quick("sse")
async def test_many_calls_at_once_each_get_their_own_answer(url):
    client = McpClient(url)
    sums: dict[int, str] = {}

    async def add(number: int) -> None:
        answer = await client.call_tool("add", {"a": number, "b": 0}, timeout=MINUTE)
        sums[number] = answer.text

    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            for number in range(32):
                tasks.start_soon(add, number)
    assert sums == {number: str(number) for number in range(32)}
    await client.aclose()


async def test_a_session_that_the_server_forgot_is_renewed(url):
    with anyio.fail_after(30):
        client = McpClient(url)
        await client.initialize()
        session = client._session.get("mcp-session-id")
        if session is None:
            pytest.skip("this server keeps no MCP sessions")
        async with httpx.AsyncClient() as http:
            await http.delete(url, headers={"mcp-session-id": session})
        answer = await client.call_tool("add", {"a": 1, "b": 1}, timeout=MINUTE)
        assert answer.text == "2"
        await client.aclose()


async def test_an_address_that_does_not_speak_mcp_is_an_error(url):
    client = McpClient(url.replace("/mcp", "/other"))
    with pytest.raises(Exception, match="the endpoint was not found") as caught:
        await client.initialize()
    assert not isinstance(caught.value, ProtocolError)
    await client.aclose()

"""The official suite `@modelcontextprotocol/conformance`, with our server and our client."""

import shlex
import sys
from pathlib import Path

import anyio
import pytest
from tests.integration._server import serving
from tests.node import installed

from cci_plugins.testing import FakeSessionPool

pytest.importorskip("mcp")
pytest.importorskip("uvicorn")

pytestmark = [pytest.mark.conformance, pytest.mark.slow, pytest.mark.anyio]

HERE = Path(__file__).parent
SUITE = HERE / "node_modules" / "@modelcontextprotocol" / "conformance" / "dist" / "index.js"
PNG = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk"
    "+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
WAV = "UklGRiQAAABXQVZFZm10IBAAAAABAAEAQB8AAEAfAAABAAgAZGF0YQAAAAA="

# The other scenarios need what a server of code sessions does not have: completion, logging,
# prompts, resources, sampling, elicitation, progress, and MCP sessions with streams to resume.
ON_OUR_TOOLS = ("server-initialize", "ping", "tools-list", "dns-rebinding-protection")
ON_THE_SUITES_TOOLS = (
    "tools-call-simple-text",
    "tools-call-image",
    "tools-call-audio",
    "tools-call-embedded-resource",
    "tools-call-mixed-content",
    "tools-call-error",
    "json-schema-2020-12",
)
ON_OUR_CLIENT = ("initialize", "tools_call")


@pytest.fixture(scope="module")
def node() -> str:
    return installed(HERE, SUITE)


async def run_suite(node: str, *arguments: str) -> None:
    with anyio.fail_after(60):
        done = await anyio.run_process([node, str(SUITE), *arguments], check=False)
    assert done.returncode == 0, (done.stdout + done.stderr).decode()[-3000:]


@pytest.mark.parametrize("execute_code", [False, True], ids=["platform", "execute_code"])
@pytest.mark.parametrize("scenario", ON_OUR_TOOLS)
async def test_our_server_passes(node, scenario, execute_code):
    async with serving(FakeSessionPool(), api_key=None, execute_code=execute_code) as url:
        await run_suite(node, "server", "--url", url, "--scenario", scenario)


@pytest.mark.parametrize("scenario", ON_THE_SUITES_TOOLS)
async def test_our_server_passes_with_the_suites_own_tools(node, scenario, monkeypatch):
    monkeypatch.setattr("cci_plugins.server.app.PlatformTools", SuiteTools)
    async with serving(FakeSessionPool(), api_key=None) as url:
        await run_suite(node, "server", "--url", url, "--scenario", scenario)


@pytest.mark.parametrize("scenario", ON_OUR_CLIENT)
async def test_our_client_passes(node, scenario, tmp_path):
    command = shlex.join([sys.executable, str(HERE / "client.py")])
    await run_suite(
        node, "client", "--command", command, "--scenario", scenario, "-o", str(tmp_path)
    )


class SuiteTools:
    """The tools that the suite's scenarios call, served by this package's endpoint."""

    def __init__(self, *_, **__):
        from cci_plugins.server.mcp.answers import ToolCallResult

        text = {"type": "text", "text": "This is a simple text response for testing."}
        image = {"type": "image", "data": PNG, "mimeType": "image/png"}
        self._answers = {
            "test_simple_text": ToolCallResult([text]),
            "test_image_content": ToolCallResult([image]),
            "test_audio_content": ToolCallResult(
                [{"type": "audio", "data": WAV, "mimeType": "audio/wav"}]
            ),
            "test_embedded_resource": ToolCallResult(
                [resource("text/plain", "This is an embedded resource content.")]
            ),
            "test_multiple_content_types": ToolCallResult(
                [text, image, resource("application/json", '{"test":"data","value":123}')]
            ),
            "test_error_handling": ToolCallResult(
                [{"type": "text", "text": "This tool intentionally returns an error for testing"}],
                is_error=True,
            ),
            "json_schema_2020_12_tool": ToolCallResult([text]),
        }

    def list_tools(self):
        address = {
            "type": "object",
            "properties": {"street": {"type": "string"}, "city": {"type": "string"}},
        }
        schema = {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "type": "object",
            "$defs": {"address": address},
            "properties": {"name": {"type": "string"}, "address": {"$ref": "#/$defs/address"}},
            "additionalProperties": False,
        }
        return [
            {"name": name, "description": name, "inputSchema": schema} for name in self._answers
        ]

    async def call(self, name, arguments, meta, on_output=None):
        return self._answers.get(name)


def resource(kind: str, text: str) -> dict:
    uri = "test://embedded-resource"
    return {"type": "resource", "resource": {"uri": uri, "mimeType": kind, "text": text}}

"""The platform pool against the shapes that Azure's own MCP server is reported to give."""

import json
from datetime import timedelta

import anyio
import httpx
import pytest

from cci_plugins.errors import (
    AuthenticationError,
    PoolError,
    PoolExhaustedError,
    ProtocolError,
    SessionFileNotFoundError,
)
from cci_plugins.pools.azure.platform import PlatformSessionPool
from cci_plugins.pools.azure.replies import read_execution
from cci_plugins.pools.azure.rest import RestClient, file_info
from cci_plugins.wire import http as wire_http
from cci_plugins.wire.messages import ToolResult

pytestmark = pytest.mark.anyio

SECOND = timedelta(seconds=1)
RUN = "runPythonCodeInRemoteEnvironment"
TRACEBACK = "Traceback (most recent call last):\n  File ...\npkg.OddError: it is odd\n"


def structured(**fields: object) -> ToolResult:
    return ToolResult(structured=fields)


def as_text(**fields: object) -> ToolResult:
    return ToolResult(content=({"type": "text", "text": json.dumps(fields)},))


@pytest.mark.parametrize("shape", [structured, as_text])
def test_the_documented_fields_are_read_from_either_place(shape):
    answer = shape(stdout="hi\n", stderr="warn", executionResult=42, executionTimeInMilliseconds=7)
    execution = read_execution(answer, "session-1")
    assert (execution.stdout, execution.stderr, execution.text) == ("hi\n", "warn", "42")
    assert execution.duration == timedelta(milliseconds=7)
    assert (execution.session_id, execution.state) == ("session-1", "unknown")
    assert execution.status == "succeeded"


def test_a_data_plane_object_inside_is_read_too():
    answer = structured(status="Failed", result={"stdout": "a", "stderr": TRACEBACK})
    execution = read_execution(answer, "session-1")
    assert execution.stdout == "a"
    assert execution.error is not None
    assert (execution.error.name, execution.error.message) == ("OddError", "it is odd")
    assert execution.status == "failed"


def test_plain_text_is_what_was_printed():
    answer = ToolResult(content=({"type": "text", "text": "just text"},))
    assert read_execution(answer, "session-1").stdout == "just text"


def test_a_traceback_without_a_status_is_an_error_of_the_code():
    assert read_execution(structured(stdout="", stderr=TRACEBACK), "s").error is not None
    logged = structured(stdout="", stderr=TRACEBACK, status="Succeeded")
    assert read_execution(logged, "s").error is None


def test_images_are_results_in_both_forms():
    value = {"type": "image", "format": "png", "base64_data": "iVBORw0KGgo="}
    execution = read_execution(structured(stdout="", executionResult=value), "s")
    assert execution.results[0].png is not None
    block = {"type": "image", "data": "iVBORw0KGgo=", "mimeType": "image/png"}
    execution = read_execution(ToolResult(content=({"type": "text", "text": "x"}, block)), "s")
    assert execution.results[0].png is not None


def test_a_cut_is_told():
    assert "cut standard output" in read_execution(structured(stdout="x" * 4096), "s").notes[0]
    assert read_execution(structured(stdout="x" * 4095), "s").notes == ()


def test_an_error_in_words_is_a_failure_of_the_pool():
    full = ToolResult(
        content=({"type": "text", "text": "SessionsCountExceedsLimit"},), is_error=True
    )
    with pytest.raises(PoolExhaustedError):
        read_execution(full, "s")
    with pytest.raises(PoolError, match="without saying why"):
        read_execution(ToolResult(is_error=True), "s")


@pytest.mark.parametrize(
    "fields", [{"executionTimeInMilliseconds": "7"}, {"executionResult": ""}, {"stderr": None}]
)
def test_odd_fields_count_as_missing(fields):
    execution = read_execution(ToolResult(structured={"stdout": "a"} | fields), "s")
    assert (execution.stdout, execution.results, execution.error) == ("a", (), None)


class Pool:
    """A platform pool whose server is a function."""

    def __init__(self, monkeypatch, tools: list[dict]):
        self.calls: list[dict] = []
        self.rest: list[httpx.Request] = []
        self._tools = tools
        client = httpx.AsyncClient(transport=httpx.MockTransport(self._answer))
        monkeypatch.setattr("cci_plugins.pools.azure.platform.make_http", lambda: client)
        self.pool = PlatformSessionPool("https://x.example/sessionPools/p/mcp/", key="key-key")

    def _answer(self, request: httpx.Request) -> httpx.Response:
        if not request.url.path.endswith("/mcp"):
            self.rest.append(request)
            return httpx.Response(401, json={"error": {"code": "Unauthorized", "message": "no"}})
        message = json.loads(request.content)
        result: dict = {"tools": self._tools}
        if message["method"] == "tools/call":
            self.calls.append(message["params"])
            result = {"structuredContent": {"stdout": "hi\n"}}
        return httpx.Response(
            200, json={"jsonrpc": "2.0", "id": message.get("id"), "result": result}
        )


@pytest.mark.parametrize("name", [RUN, "runPythonCode", "run_python_code_in_remote_environment"])
async def test_the_tool_is_found_under_its_names(monkeypatch, name):
    server = Pool(monkeypatch, [{"name": "launchPythonEnvironment"}, {"name": name}])
    with anyio.fail_after(10):
        execution = await server.pool.execute("session-1", "x", timeout=SECOND)
    assert execution.stdout == "hi\n"
    arguments = {"environmentId": "session-1", "pythonCode": "x"}
    assert server.calls == [{"name": name, "arguments": arguments}]


async def test_the_limit_is_sent_where_the_tool_takes_one(monkeypatch):
    schema = {"type": "object", "properties": {"timeoutSeconds": {}}}
    server = Pool(monkeypatch, [{"name": RUN, "inputSchema": schema}])
    await server.pool.execute("session-1", "x", timeout=SECOND)
    assert server.calls[0]["arguments"]["timeoutSeconds"] == 1


async def test_a_pool_that_runs_no_python_says_what_it_has(monkeypatch):
    server = Pool(monkeypatch, [{"name": "launchShell"}])
    with pytest.raises(ProtocolError, match="only launchShell"):
        await server.pool.start()


async def test_files_go_beside_mcp_and_a_refusal_is_told(monkeypatch):
    server = Pool(monkeypatch, [])
    with pytest.raises(AuthenticationError):
        await server.pool.list_files("a/b c?")
    url = server.rest[0].url
    assert url.path == "/sessionPools/p/files"
    assert url.params["identifier"] == "a/b c?"


def rest(*responses: httpx.Response) -> RestClient:
    answers = list(responses)
    transport = httpx.MockTransport(lambda _: answers.pop(0))
    client = httpx.AsyncClient(transport=transport)
    return RestClient("https://x.example/p", headers={}, http=client)


async def test_a_list_of_files_goes_on_over_pages_of_the_same_server_only():
    one = {"name": "b", "type": "file", "sizeInBytes": 1, "directory": "/mnt/data/sub"}
    two = {"properties": {"filename": "a", "size": 2}}
    folder = {"name": "sub", "type": "directory"}
    first = httpx.Response(200, json={"value": [one, folder], "nextLink": "https://x.example/p/2"})
    pages = rest(first, httpx.Response(200, json={"value": [two]}))
    assert [file.name for file in await pages.list_files("s")] == ["a", "sub/b"]
    evil = httpx.Response(200, json={"value": [], "nextLink": "https://evil.example/"})
    with pytest.raises(ProtocolError):
        await rest(evil).list_files("s")


@pytest.mark.parametrize(
    "body", [b"<html>", b"[]", b'{"value": 7}', b'{"value": [{"name": "a"}]}', b'{"value": [7]}']
)
async def test_a_list_that_makes_no_sense_is_a_protocol_error(body):
    with pytest.raises(ProtocolError):
        await rest(httpx.Response(200, content=body)).list_files("s")


async def test_a_missing_file_is_named_and_a_missing_session_is_no_error():
    await rest(httpx.Response(404)).delete_session("s")
    with pytest.raises(SessionFileNotFoundError, match=r"a\.txt"):
        await rest(httpx.Response(404)).delete_file("s", "a.txt")


@pytest.mark.parametrize("folder", [None, "", ".", "/", "/mnt/data", "/mnt/data/"])
def test_the_root_folder_is_told_in_many_ways(folder):
    assert file_info({"name": "a", "sizeInBytes": 1, "directory": folder}).name == "a"


def test_a_client_follows_no_redirect_which_would_hand_the_key_on():
    assert wire_http.make_http().follow_redirects is False

"""The platform pool against the shapes that Azure's own MCP server is reported to give."""

import json
from datetime import timedelta

import httpx
import pytest

from cci_plugins.errors import (
    PoolError,
    PoolExhaustedError,
    ProtocolError,
    SessionFileNotFoundError,
    SessionLostError,
)
from cci_plugins.mcp_client import http as wire_http
from cci_plugins.mcp_client.messages import ToolResult
from cci_plugins.pools.azure.mcp_pool import find_python_tool
from cci_plugins.pools.azure.replies import read_execution, read_rest
from cci_plugins.pools.azure.rest_client import NoRouteError, RestClient, parse_file_info

pytestmark = pytest.mark.anyio

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


@pytest.mark.parametrize(
    ("text", "is_lost"),
    [
        ("Environment not found: 0d72ca36", True),
        ("Error: the session 'abc' does not exist", True),
        ("EnvironmentNotFound: The environment does not exist: its environmentId is", True),
        ("Traceback (most recent call last):\nKeyError: 'environment not found'", False),
        ("ValueError: this session was not found", False),
    ],
)
def test_only_the_pools_own_words_say_that_a_session_is_gone(text, is_lost):
    answer = ToolResult(content=({"type": "text", "text": text},), is_error=True)
    with pytest.raises(PoolError if not is_lost else SessionLostError) as caught:
        read_execution(answer, "s")
    assert caught.value.retryable is is_lost


def test_images_are_results_in_both_forms():
    value = {"type": "image", "format": "png", "base64_data": "iVBORw0KGgo="}
    execution = read_execution(structured(stdout="", executionResult=value), "s")
    assert execution.results[0].png is not None
    block = {"type": "image", "data": "iVBORw0KGgo=", "mimeType": "image/png"}
    execution = read_execution(ToolResult(content=({"type": "text", "text": "x"}, block)), "s")
    assert execution.results[0].png is not None


def test_an_error_in_words_is_a_failure_of_the_pool():
    full = ToolResult(
        content=({"type": "text", "text": "SessionsCountExceedsLimit"},), is_error=True
    )
    with pytest.raises(PoolExhaustedError):
        read_execution(full, "s")
    with pytest.raises(PoolError, match="it gave no reason"):
        read_execution(ToolResult(is_error=True), "s")


@pytest.mark.parametrize(
    "fields", [{"executionTimeInMilliseconds": "7"}, {"executionResult": ""}, {"stderr": None}]
)
def test_odd_fields_count_as_missing(fields):
    execution = read_execution(ToolResult(structured={"stdout": "a"} | fields), "s")
    assert (execution.stdout, execution.results, execution.error) == ("a", (), None)


@pytest.mark.parametrize("name", [RUN, "runPythonCode", "run_python_code_in_remote_environment"])
def test_the_tool_is_found_under_its_names(name):
    assert find_python_tool([{"name": "launchPythonEnvironment"}, {"name": name}]) == name


def test_a_pool_that_runs_no_python_says_what_it_has():
    with pytest.raises(ProtocolError, match="only launchShell"):
        find_python_tool([{"name": "launchShell"}])


@pytest.mark.parametrize(
    "body",
    [
        {"properties": {"$id": "1", "status": "Success", "stdout": "hi\n", "result": 2}},
        {"status": "Succeeded", "result": {"stdout": "hi\n", "executionResult": 2}},
        {"stdout": "hi\n", "executionResult": 2},
    ],
)
def test_the_rest_api_answers_in_its_older_and_newer_form(body):
    execution = read_rest(body, "s")
    assert (execution.stdout, execution.text, execution.status) == ("hi\n", "2", "succeeded")


def rest(*responses: httpx.Response) -> RestClient:
    answers = list(responses)
    transport = httpx.MockTransport(lambda _: answers.pop(0))
    client = httpx.AsyncClient(transport=transport)
    return RestClient("https://x.example/p", http=client)


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
    gone = {"error": {"code": "NoSessionFoundError", "message": "no"}}
    await rest(httpx.Response(404, json=gone)).delete_session("s")
    with pytest.raises(NoRouteError):
        await rest(httpx.Response(404)).delete_session("s")
    with pytest.raises(SessionFileNotFoundError, match=r"a\.txt"):
        await rest(httpx.Response(404)).delete_file("s", "a.txt")


@pytest.mark.parametrize("folder", [None, "", ".", "/", "/mnt/data", "/mnt/data/"])
def test_the_root_folder_is_told_in_many_ways(folder):
    assert parse_file_info({"name": "a", "sizeInBytes": 1, "directory": folder}).name == "a"


def test_a_client_follows_no_redirect_which_would_hand_the_key_on():
    assert wire_http.make_http().follow_redirects is False

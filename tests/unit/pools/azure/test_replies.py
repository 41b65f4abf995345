"""Answers to runs, in the forms that Azure's own servers are reported to send."""

import json
from datetime import timedelta

import pytest

from cci_plugins.errors import PoolError, PoolExhaustedError, ProtocolError, SessionLostError
from cci_plugins.mcp_client import messages
from cci_plugins.mcp_client.messages import ToolResult, parse_tool_result
from cci_plugins.pools.azure.replies import read_execution, read_rest

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
def test_only_an_error_of_the_pool_itself_means_a_lost_session(text, is_lost):
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


def test_an_error_as_text_is_a_failure_of_the_pool():
    full = ToolResult(
        content=({"type": "text", "text": "SessionsCountExceedsLimit"},), is_error=True
    )
    with pytest.raises(PoolExhaustedError):
        read_execution(full, "s")
    with pytest.raises(PoolError, match="it gave no reason"):
        read_execution(ToolResult(is_error=True), "s")


def test_text_that_would_take_too_much_memory_as_json_stays_text(monkeypatch):
    text = json.dumps({"stdout": "a", "x": [[]] * 10_000})
    answer = ToolResult(content=({"type": "text", "text": text},))
    assert read_execution(answer, "s").stdout == "a"
    monkeypatch.setattr(messages, "MAX_MEMORY", 100_000)
    assert read_execution(answer, "s").stdout == text


@pytest.mark.parametrize(
    "fields", [{"executionTimeInMilliseconds": "7"}, {"executionResult": ""}, {"stderr": None}]
)
def test_odd_fields_count_as_missing(fields):
    execution = read_execution(ToolResult(structured={"stdout": "a"} | fields), "s")
    assert (execution.stdout, execution.results, execution.error) == ("a", (), None)


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


@pytest.mark.parametrize(
    ("error", "name", "message"),
    [
        (
            {"error": {"code": "ExecutionTimeout", "message": "too long"}},
            "ExecutionTimeout",
            "too long",
        ),
        ({"code": "Odd", "message": 7}, "Odd", ""),
        ("text", "Error", "the pool reported that the run failed"),
        ([], "Error", "the pool reported that the run failed"),
        (None, "Error", "the pool reported that the run failed"),
    ],
)
def test_a_failed_run_without_a_traceback_is_described_by_the_pools_error(error, name, message):
    execution = read_rest({"status": "Failed", "stdout": "", "error": error}, "s")
    assert execution.error is not None
    assert (execution.error.name, execution.error.message) == (name, message)
    assert execution.status == ("timed_out" if name == "ExecutionTimeout" else "failed")


@pytest.mark.parametrize("result", [{"content": []}, {"structuredContent": {}}, {"content": [{}]}])
def test_empty_content_is_a_run_that_printed_nothing(result: dict[str, object]) -> None:
    execution = read_execution(parse_tool_result(result), "session")
    assert (execution.stdout, execution.status, execution.error) == ("", "succeeded", None)


@pytest.mark.parametrize("result", [{}, {"content": "text"}, {"structuredContent": None}])
def test_an_answer_without_content_is_not_a_run(result: dict[str, object]) -> None:
    with pytest.raises(ProtocolError, match="does not report"):
        read_execution(parse_tool_result(result), "session")

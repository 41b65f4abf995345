"""JSON-RPC messages and event streams, without a connection."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cci_plugins.errors import ProtocolError
from cci_plugins.mcp_client import messages
from cci_plugins.mcp_client.messages import EventReader, RpcReply, ToolResult

ANSWER = {"jsonrpc": "2.0", "id": 7, "result": {"a": 1}}
PROGRESS = {"jsonrpc": "2.0", "method": "notifications/progress", "params": {"progress": 1}}


def encoded(value: object) -> bytes:
    return json.dumps(value).encode()


def events(*pieces: bytes) -> list[object]:
    reader = EventReader()
    return [message for piece in pieces for message in reader.feed(piece)]


def test_a_request_has_its_id_and_method():
    assert json.loads(messages.build_request(1, "ping")) == {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "ping",
    }


def test_a_lone_surrogate_in_the_code_can_be_sent():
    body = messages.build_request(1, "tools/call", {"code": "\ud800 é"})
    assert json.loads(body)["params"] == {"code": "\ud800 é"}


def test_a_notification_has_no_id():
    assert "id" not in json.loads(messages.build_notification("notifications/initialized", {}))


@pytest.mark.parametrize(
    "body",
    [
        ANSWER,
        ANSWER | {"id": "7"},
        {"jsonrpc": "2.0", "result": {"a": 1}},
        {"id": 7, "result": {"a": 1}, "error": None},
        [PROGRESS, ANSWER],
    ],
)
def test_an_answer_is_found_in_every_form_that_servers_give(body):
    assert messages.parse_body(encoded(body), 7) == RpcReply({"a": 1})


@pytest.mark.parametrize(
    "body",
    [
        b"<html><title>Gateway</title></html>",
        b'{"jsonrpc": "2.0", "id": 7, "result": {"a"',
        b"",
        b"[" * 100_000,
        b"\xff\xfe",
        encoded(PROGRESS),
        encoded(ANSWER | {"id": 8}),
        encoded([{"result": {}}, {"result": {}}]),
        encoded({"id": 7, "result": "text"}),
        encoded({"id": 7, "error": None}),
        b"7",
    ],
)
def test_a_body_that_is_not_the_answer_is_a_protocol_error(body):
    with pytest.raises(ProtocolError):
        messages.parse_body(body, 7)


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        ({"code": -32601, "message": "no such method"}, -32601, "no such method"),
        (
            {"code": "SessionsCountExceedsLimit", "message": "full"},
            0,
            "SessionsCountExceedsLimit: full",
        ),
        ({"message": "only words"}, 0, "only words"),
        ("just text", 0, "just text"),
    ],
)
def test_an_error_is_read_in_every_form(error, code, words):
    reply = messages.parse_body(encoded({"id": None, "error": error}), 7)
    assert reply.error is not None
    assert (reply.error.code, reply.error.message) == (code, words)


def test_a_tool_result_ignores_missing_and_malformed_fields():
    assert messages.parse_tool_result({}) == ToolResult()
    result = messages.parse_tool_result(
        {
            "content": [{"type": "text", "text": "a"}, 7, {"type": "text", "text": "b"}],
            "isError": True,
        }
    )
    assert (result.text, result.is_error) == ("a\nb", True)
    odd = {"content": "text", "structuredContent": [], "_meta": 1, "isError": "yes"}
    assert messages.parse_tool_result(odd) == ToolResult()


def test_comments_and_unknown_fields_of_an_event_stream_are_skipped():
    stream = (
        b"\xef\xbb\xbf: a comment\r\n\r\n"
        b"event: message\r\ndata: " + encoded(PROGRESS) + b"\r\n\r\n"
        b"id: 5\r\nretry: 10\r\nnonsense\r\ndata:\r\n\r\n"
        b"data:" + encoded(ANSWER) + b"\r\n\r\n"
    )
    assert events(stream) == [PROGRESS, ANSWER]


def test_several_data_lines_are_one_message():
    assert events(b'data: {"a":\ndata: 1}\n\n') == [{"a": 1}]


def test_an_event_without_its_blank_line_is_not_complete():
    assert events(b"data: {}\n") == []


def test_an_event_that_is_not_json_is_a_protocol_error():
    with pytest.raises(ProtocolError):
        events(b"data: <html>\n\n")


@given(
    values=st.lists(
        st.dictionaries(st.text(max_size=5), st.text(max_size=9), max_size=3), max_size=4
    ),
    newline=st.sampled_from([b"\n", b"\r\n", b"\r"]),
    size=st.integers(1, 40),
)
def test_an_event_stream_can_be_cut_into_chunks_of_any_size(values, newline, size):
    lines = [b": hello", b""]
    for value in values:
        lines += [b"data: " + json.dumps(value, ensure_ascii=False).encode(), b""]
    stream = newline.join([*lines, b""])
    pieces = [stream[start : start + size] for start in range(0, len(stream), size)]
    assert events(*pieces, b"\n") == values

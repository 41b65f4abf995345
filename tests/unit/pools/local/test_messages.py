"""Tests of Jupyter's messages: signed like Jupyter's, and read without trust."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cci_plugins.pools.local import messages
from cci_plugins.pools.local.messages import MalformedMessageError, MessageCodec, read_headers

KEY = "00112233"


def forge(content: bytes, header: Any = None, parent: Any = None) -> list[bytes]:
    """Sign a message as code in a session can."""
    session = pytest.importorskip("jupyter_client.session").Session(key=KEY.encode())
    header = {"msg_type": "stream"} if header is None else header
    parts = [json.dumps(header).encode(), json.dumps(parent or {}).encode(), b"{}", content]
    return [b"topic", b"<IDS|MSG>", session.sign(parts), *parts]


def read(frames: list[bytes]) -> tuple[dict[str, Any], int]:
    return MessageCodec(KEY).read_content(read_headers(frames))


def test_a_request_is_what_jupyter_reads() -> None:
    session = pytest.importorskip("jupyter_client.session").Session(key=KEY.encode())
    identifier, frames = MessageCodec(KEY).build("execute_request", {"code": "é\ud800"[:1]})
    _, parts = session.feed_identities(frames)
    message = session.deserialize(parts)
    assert message["header"]["msg_id"] == identifier
    assert message["msg_type"] == "execute_request"
    assert message["content"] == {"code": "é"}


def test_a_message_of_jupyter_is_read() -> None:
    content, size = read(forge(b'{"data": {"text/plain": "42"}}', parent={"msg_id": "a"}))
    assert content == {"data": {"text/plain": "42"}}
    assert size == len("text/plain") + len("42")


@pytest.mark.parametrize(
    "frames",
    [
        [],
        [b"<IDS|MSG>"],
        [b"x"] * 10_000,
        forge(b"{}", header=[]),
        forge(b"{}", header={"msg_type": ["stream"]}),
        forge(b"{}", header={"msg_type": "x" * 100_000}),
        forge(b"[1]"),
        forge(b"not JSON"),
        forge(b"[" * 100_000),
        [*forge(b"{}")[:-1], b'{"text": "changed"}'],
        [b"<IDS|MSG>", b"", b"[" * 60_000, b"{}", b"{}", b"{}"],
    ],
)
def test_an_odd_message_is_malformed_and_raises_nothing_else(frames: list[bytes]) -> None:
    with pytest.raises(MalformedMessageError):
        read(frames)


def test_odd_parents_are_no_request_of_ours() -> None:
    for parent in ([], 3, {"msg_id": {"a": 1}}, {"msg_id": None}):
        assert read_headers(forge(b"{}", parent=parent)).parent == ""


def test_more_values_than_could_be_kept_are_refused_before_they_are_decoded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(messages, "MAX_VALUES", 1000)
    dense = json.dumps({"data": {"a": [[]] * 2000}}).encode()
    with pytest.raises(MalformedMessageError, match="1,000 values"):
        read(forge(dense))
    text = json.dumps({"data": {"text/csv": '1,2,"3\\"",' * 2000}}).encode()
    assert read(forge(text))[0]["data"]["text/csv"].startswith("1,2")


def test_lists_count_more_than_numbers_and_texts_are_bounded_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(messages, "MAX_VALUES", 1000)
    for body in (b'{"a": [' + b"[]," * 250 + b"1]}", b'{"a": "' + b"," * 1001 + b'"' * 2003):
        with pytest.raises(MalformedMessageError, match="1,000 values"):
            read(forge(body))
    assert len(read(forge(b'{"a": [' + b"1," * 900 + b"1]}"))[0]["a"]) == 901


def test_the_search_for_values_gives_way_and_reads_escapes_that_a_slice_cuts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    turns: list[int] = []
    monkeypatch.setattr(messages, "MAX_VALUES", 20_000)
    monkeypatch.setattr(messages, "give_way", lambda: turns.append(1))
    monkeypatch.setattr(messages, "_SLICE", 101)
    text = json.dumps({"a": '"\\,' * 20_001, "b": ["[", "\\", ""]}).encode()
    assert read(forge(text))[0]["b"] == ["[", "\\", ""]
    assert len(turns) > 100
    with pytest.raises(MalformedMessageError):
        read(forge(b'{"a": "' + b"," * 20_001 + b"\\"))
    turns.clear()
    with pytest.raises(MalformedMessageError):
        read(forge(b'{"a": "' + b"," * 20_001 + b'"' * 30_000))
    assert len(turns) >= 2

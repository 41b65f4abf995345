"""Executions as JSON and back."""

import json
from datetime import UTC, datetime, timedelta
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cci_plugins.errors import ProtocolError
from cci_plugins.mcp_client.executions import (
    check_files,
    dump_execution,
    load_execution,
    load_file,
)
from cci_plugins.models import ErrorInfo, Execution, ExecutionStatus, FileInfo, Result, SessionState

files = st.builds(
    FileInfo,
    name=st.text(max_size=5),
    size=st.integers(0, 2**40),
    media_type=st.just("text/csv"),
    modified_at=st.none() | st.just(datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC)),
    sha256=st.none() | st.just("00"),
)

results = st.builds(
    Result,
    data=st.dictionaries(st.text(max_size=5), st.text(max_size=5) | st.integers() | st.none()),
    is_main=st.booleans(),
)

executions = st.builds(
    Execution,
    stdout=st.text(),
    stderr=st.text(),
    results=st.lists(results, max_size=3).map(tuple),
    error=st.none() | st.builds(ErrorInfo, st.text(), st.text(), st.text()),
    files=st.lists(files, max_size=3).map(tuple),
    session_id=st.just("session-1"),
    status=st.sampled_from(get_args(ExecutionStatus)),
    state=st.sampled_from(get_args(SessionState)),
    duration=st.integers(0, 10**9).map(lambda n: timedelta(milliseconds=n)),
    isolation=st.text(max_size=5),
    dropped_characters=st.integers(0, 10**9),
    notes=st.lists(st.text(), max_size=2).map(tuple),
)


@given(executions)
def test_an_execution_survives_the_round_trip(execution):
    assert (
        load_execution(json.loads(json.dumps(dump_execution(execution))), "session-1") == execution
    )


@pytest.mark.parametrize(
    "change",
    [
        {"status": "odd"},
        {"duration": "long"},
        {"duration": float("inf")},
        {"duration": float("nan")},
        {"duration": 1e300},
        {"results": [{"data": "text", "isMain": True}]},
        {"files": [{}]},
        {"error": "text"},
        {"notes": None},
    ],
)
def test_a_malformed_key_is_a_protocol_error(change):
    with pytest.raises(ProtocolError):
        load_execution(dump_execution(Execution()) | change, "session-1")


@pytest.mark.parametrize("key", sorted(dump_execution(Execution()).keys() - {"instance"}))
def test_every_key_but_the_instance_is_required(key):
    value = dump_execution(Execution())
    del value[key]
    with pytest.raises(ProtocolError, match=f"invalid execution .{key}: Field required"):
        load_execution(value, "session-1")


def test_an_execution_of_an_older_server_has_no_instance():
    value = dump_execution(Execution())
    del value["instance"]
    assert load_execution(value, "session-1").instance == ""


def test_lone_surrogates_of_the_output_survive_the_round_trip():
    result = Result({"text/plain": "\ud800"}, is_main=True)
    error = ErrorInfo("Odd", "\ud800", "\ud800")
    execution = Execution(stdout="\ud800", stderr="\udfff", results=(result,), error=error)
    value = json.loads(json.dumps(dump_execution(execution)))
    assert load_execution(value, "") == execution


@pytest.mark.parametrize("key", ["name", "size", "mediaType", "modifiedAt", "sha256"])
def test_every_key_of_a_file_is_required(key):
    (value,) = dump_execution(Execution(files=(FileInfo("a.csv", 1),)))["files"]
    assert load_file(value) == FileInfo("a.csv", 1)
    del value[key]
    with pytest.raises(ProtocolError, match=f"invalid file description .{key}: "):
        load_file(value)


@pytest.mark.parametrize("name", ["", "/etc/passwd", "../x", "a//b", "a/./b", "a/.."])
def test_a_file_name_outside_the_session_folder_is_a_protocol_error(name):
    with pytest.raises(ProtocolError, match="invalid file name"):
        check_files(Execution(files=(FileInfo(name, 1),)))


def test_odd_characters_in_a_file_name_are_escaped():
    checked = check_files(Execution(files=(FileInfo("a\n\x1b\udce9.csv", 1),)))
    assert checked.files[0].name == r"a\n\x1b\xe9.csv"


@pytest.mark.parametrize("change", [{"size": -1}, {"size": 2**63}, {"size": True}])
def test_a_wrong_size_of_a_file_is_a_protocol_error(change):
    value = dump_execution(Execution(files=(FileInfo("a", 1),)))
    value["files"][0] |= change
    with pytest.raises(ProtocolError, match="size"):
        load_execution(value, "session-1")


@pytest.mark.parametrize("value", [None, [], "text", {}])
def test_a_value_that_is_not_an_execution_is_a_protocol_error(value):
    with pytest.raises(ProtocolError):
        load_execution(value, "session-1")

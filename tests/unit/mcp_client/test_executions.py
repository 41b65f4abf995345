"""Executions and failures, to JSON and back."""

import json
from datetime import UTC, datetime, timedelta
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cci_plugins import errors
from cci_plugins.errors import CodeInterpreterError, PoolError, PoolExhaustedError, ProtocolError
from cci_plugins.mcp_client import failures
from cci_plugins.mcp_client.executions import dump_execution, load_execution
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
def test_an_execution_comes_back_as_it_was(execution):
    assert (
        load_execution(json.loads(json.dumps(dump_execution(execution))), "session-1") == execution
    )


@pytest.mark.parametrize(
    "change",
    [
        {"status": "odd"},
        {"duration": "long"},
        {"duration": float("inf")},
        {"results": [{"data": "text", "isMain": True}]},
        {"files": [{}]},
        {"error": "text"},
        {"notes": None},
    ],
)
def test_what_was_not_written_by_us_is_a_protocol_error(change):
    with pytest.raises(ProtocolError):
        load_execution(dump_execution(Execution()) | change, "session-1")


@pytest.mark.parametrize("value", [None, [], "text", {}])
def test_what_is_no_execution_is_a_protocol_error(value):
    with pytest.raises(ProtocolError):
        load_execution(value, "session-1")


def every_error() -> list[CodeInterpreterError]:
    found = []
    for kind in vars(errors).values():
        if isinstance(kind, type) and issubclass(kind, CodeInterpreterError):
            extra = {"size": 1, "limit": 2} if kind is errors.FileTooLargeError else {}
            found.append(kind("words", hint="do this", **extra))
    return found


@pytest.mark.parametrize("error", every_error(), ids=lambda error: type(error).__name__)
def test_every_exception_crosses_the_wire_as_one_of_ours(error):
    code, status = failures.get_code_and_status(error)
    assert code.isalnum()
    assert 400 <= status < 600
    arrived = failures.load_error(json.loads(json.dumps(failures.dump_error(error))))
    assert (str(arrived), arrived.hint) == ("words", "do this")
    assert (
        type(arrived) is type(error)
        or type(arrived) in {PoolError, errors.ProtocolError}
        or (code == "FileNotFound")
    )


@pytest.mark.parametrize(
    "value", [{}, {"code": 7}, {"code": "Unknown", "message": None, "hint": 3}]
)
def test_an_unknown_failure_is_a_pool_error(value):
    assert type(failures.load_error(value)) is PoolError


@pytest.mark.parametrize(
    ("value", "expected"),
    [("7", 7.0), (7, 7.0), ("soon", None), (None, None), ("-1", None), ("inf", None)],
)
def test_retry_after_is_a_number_of_seconds_or_nothing(value, expected):
    assert failures.parse_seconds(value) == expected


def test_words_of_a_pool_are_cut():
    error = failures.build_error_from_text(
        "SessionsCountExceedsLimit " + "x" * 10_000, started=True
    )
    assert isinstance(error, PoolExhaustedError)
    assert len(str(error)) < 600

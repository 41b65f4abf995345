"""Failures as JSON and back."""

import json
import tracemalloc
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from cci_plugins import errors
from cci_plugins.errors import CodeInterpreterError, PoolError, PoolExhaustedError
from cci_plugins.mcp_client import failures
from cci_plugins.mcp_client.failures import parse_retry_after


def every_error() -> list[CodeInterpreterError]:
    found = []
    for kind in vars(errors).values():
        if isinstance(kind, type) and issubclass(kind, CodeInterpreterError):
            extra = {"size": 1, "limit": 2} if kind is errors.FileTooLargeError else {}
            found.append(kind("words", hint="do this", **extra))
    return found


@pytest.mark.parametrize("error", every_error(), ids=lambda error: type(error).__name__)
def test_every_exception_survives_the_round_trip(error):
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


def test_the_text_of_a_pool_is_cut():
    error = failures.build_error_from_text(
        "SessionsCountExceedsLimit " + "x" * 10_000, started=True
    )
    assert isinstance(error, PoolExhaustedError)
    assert len(str(error)) < 600


def test_a_text_of_very_many_words_takes_no_memory_of_its_own():
    text = "ab " * 1_000_000
    tracemalloc.start()
    try:
        error = failures.build_error_from_rpc(1, text, starts_code=True)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()
    assert str(error).startswith("the pool failed: ab ab ")


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "7"}, 7),
        (
            {
                "retry-after": "Fri, 27 Nov 2026 10:00:09 GMT",
                "date": "Fri, 27 Nov 2026 10:00:00 GMT",
            },
            9,
        ),
        (
            {
                "retry-after": "Fri, 27 Nov 2026 09:00:00 GMT",
                "date": "Fri, 27 Nov 2026 10:00:00 GMT",
            },
            0,
        ),
        ({"retry-after": "Thu, 01 Jan 1970 00:00:00 GMT"}, 0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": f"Fri, 31 Dec {10**20} 23:59:59 GMT"}, None),
        ({"retry-after": f"Fri, 31 Dec 1999 23:59:59 +{10**14}", "date": "1999"}, None),
        ({"retry-after": "Thu, 01 Jan 1970 00:00:00 GMT", "date": f"{10**20} Dec 1999 1:1"}, 0),
        ({}, None),
    ],
)
def test_retry_after_is_a_number_or_a_date(headers, seconds):
    assert parse_retry_after(headers) == seconds


def test_a_date_without_the_servers_clock_is_compared_with_ours():
    later = format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True)
    assert 50 < (parse_retry_after({"retry-after": later}) or 0) <= 60

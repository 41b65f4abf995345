"""Results give each of their forms, and executions raise for their errors."""

from __future__ import annotations

from base64 import b64encode

import pytest

from cci_plugins.errors import ExecutionFailedError, ExecutionTimeoutError, SessionLostError
from cci_plugins.models import ErrorInfo, Execution, ExecutionStatus, Result


def test_text_is_the_main_result_or_else_the_printed_text() -> None:
    displayed = Result({"text/plain": "displayed"})
    main = Result({"text/plain": "main"}, is_main=True)
    assert Execution(stdout="printed", results=(displayed, main)).text == "main"
    assert Execution(stdout="printed", results=(displayed,)).text == "printed"


def test_a_result_returns_each_form_in_its_own_type() -> None:
    data = {
        "text/plain": "p",
        "text/html": "<b>",
        "text/markdown": "*m*",
        "text/latex": "$x$",
        "image/svg+xml": "<svg/>",
        "image/png": b64encode(b"png").decode(),
        "image/jpeg": b64encode(b"jpg").decode(),
        "application/json": {"a": [1]},
        "application/vnd.dataresource+json": {"data": []},
    }
    result = Result(data)
    assert (result.text, result.html, result.markdown) == ("p", "<b>", "*m*")
    assert (result.latex, result.svg) == ("$x$", "<svg/>")
    assert (result.png, result.jpeg) == (b"png", b"jpg")
    assert (result.json, result.table) == ({"a": [1]}, None)  # it has no schema


def test_missing_or_invalid_forms_return_none() -> None:
    result = Result({"image/png": "!", "text/html": 3, "application/vnd.dataresource+json": "x"})
    assert (result.png, result.html, result.table, result.text) == (None, None, None, None)


def test_a_successful_execution_raises_nothing() -> None:
    execution = Execution(stdout="x")
    assert execution.raise_for_error() is execution


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        ("failed", ExecutionFailedError),
        ("timed_out", ExecutionTimeoutError),
        ("died", SessionLostError),
    ],
)
def test_a_failed_execution_raises_by_its_status(
    status: ExecutionStatus, kind: type[Exception]
) -> None:
    with pytest.raises(kind, match="Name: why"):
        Execution(error=ErrorInfo("Name", "why"), status=status).raise_for_error()

"""What Azure's own MCP server answers to a run, as an execution.

The fields are those of the data plane (learn.microsoft.com, Container Apps sessions, Python and
shell MCP tutorials); none is certain to be there.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from typing import Any

from cci_plugins.mcp_client.failures import build_error_from_text
from cci_plugins.mcp_client.messages import ToolResult
from cci_plugins.models import ErrorInfo, Execution, ExecutionStatus, Result

_MAX_MILLISECONDS = 1e9  # milliseconds
_FAILED = frozenset({"failed", "failure", "canceled", "cancelled"})
_FIELDS = frozenset({"stdout", "stderr", "executionResult", "result"})
_LAST_LINE = re.compile(r"^([A-Za-z_][\w.]*)(?:: (.*))?$")


def read_execution(answer: ToolResult, session_id: str) -> Execution:
    """Read the answer of a tool that runs code.

    Raises:
        PoolError: The answer tells a failure of the pool.
    """
    body = _find_run_fields(answer)
    if body is None:
        if answer.is_error:
            raise build_error_from_text(answer.text, started=True)
        body = {"stdout": answer.text}
    execution = read_run(body, session_id, is_error=answer.is_error)
    return replace(execution, results=(*execution.results, *_parse_images(answer)))


def read_rest(body: Mapping[str, Any], session_id: str) -> Execution:
    """Read the answer of the REST API to a run, in its newer or older form."""
    inner = body.get("properties")
    return read_run(_merge_result(inner if isinstance(inner, Mapping) else body) or {}, session_id)


def read_run(body: Mapping[str, Any], session_id: str, *, is_error: bool = False) -> Execution:
    """Read the fields of a run.

    Args:
        body: The fields, none of which is certain to be there.
        session_id: The session.
        is_error: Whether the pool says beside them that the run failed.
    """
    stdout, stderr = _coerce_text(body.get("stdout")), _coerce_text(body.get("stderr"))
    status = _coerce_text(body.get("status")).lower()
    failed = is_error or status in _FAILED or (not status and _is_traceback(stderr))
    error = _parse_error(stderr, body) if failed else None
    return Execution(
        stdout=stdout,
        stderr="" if error is not None and error.traceback == stderr else stderr,
        results=tuple(_parse_main_result(body)),
        error=error,
        session_id=session_id,
        status="succeeded" if error is None else _derive_status(error),
        state="unknown",
        duration=_parse_duration(body.get("executionTimeInMilliseconds")),
    )


def _find_run_fields(answer: ToolResult) -> Mapping[str, Any] | None:
    """The object with the run's fields, wherever the server put it."""
    candidates: list[Any] = [answer.structured]
    with suppress(ValueError, RecursionError):
        candidates.append(json.loads(answer.text))
    return next(filter(None, map(_merge_result, candidates)), None)


def _merge_result(candidate: object) -> Mapping[str, Any] | None:
    """An object's fields with those of its `result`, when they are those of a run."""
    if isinstance(candidate, Mapping):
        inner = candidate.get("result")
        for value in (inner, candidate):
            if isinstance(value, Mapping) and _FIELDS & value.keys():
                return {**candidate, **value}
    return None


def _parse_main_result(body: Mapping[str, Any]) -> Iterator[Result]:
    value = body.get("executionResult", body.get("result"))
    if value is None or value == "" or value is body.get("stdout"):
        return
    if isinstance(value, Mapping) and {"stdout", "stderr"} & value.keys():
        return
    if isinstance(value, Mapping) and value.get("type") == "image":
        kind, data = str(value.get("format") or "png"), value.get("base64_data")
        if isinstance(data, str):
            yield Result({f"image/{kind.lower().replace('jpg', 'jpeg')}": data}, is_main=True)
        return
    if isinstance(value, str):
        yield Result({"text/plain": value}, is_main=True)
    else:
        text = str(value) if isinstance(value, (bool, int, float)) else json.dumps(value)
        yield Result({"text/plain": text, "application/json": value}, is_main=True)


def _parse_images(answer: ToolResult) -> Iterator[Result]:
    for block in answer.content:
        data, kind = block.get("data"), block.get("mimeType")
        if block.get("type") == "image" and isinstance(data, str) and isinstance(kind, str):
            yield Result({kind: data})


def _parse_error(stderr: str, body: Mapping[str, Any]) -> ErrorInfo:
    details = body.get("error")
    details = details.get("error", details) if isinstance(details, Mapping) else None
    lines = [line for line in stderr.splitlines() if line and not line[0].isspace()]
    match = _LAST_LINE.match(lines[-1]) if lines else None
    if match is not None:
        return ErrorInfo(match[1].rpartition(".")[2], match[2] or "", stderr)
    if isinstance(details, Mapping):
        return ErrorInfo(
            _coerce_text(details.get("code")) or "Error",
            _coerce_text(details.get("message")),
            stderr,
        )
    return ErrorInfo("Error", lines[-1] if lines else "the pool says that the run failed", stderr)


def _derive_status(error: ErrorInfo) -> ExecutionStatus:
    timed_out = error.name in {"Timeout", "ExecutionTimeout", "TimeoutExceeded"}
    return "timed_out" if timed_out else "failed"


def _is_traceback(stderr: str) -> bool:
    return "Traceback (most recent call last)" in stderr and bool(
        _LAST_LINE.match(stderr.strip().rpartition("\n")[2])
    )


def _parse_duration(value: object) -> timedelta:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return timedelta(0)
    return timedelta(milliseconds=value) if 0 <= value < _MAX_MILLISECONDS else timedelta(0)


def _coerce_text(value: object) -> str:
    return value if isinstance(value, str) else ""

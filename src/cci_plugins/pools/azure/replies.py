"""Answers of Azure's own servers to a run, read as an `Execution`.

The fields are those of the data plane (learn.microsoft.com, Container Apps sessions, Python and
shell MCP tutorials). No field is certain to be there, and one of the wrong type counts as missing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from typing import Any

from pydantic import AliasChoices, AliasPath, Field

from cci_plugins.errors import CodeInterpreterError, PoolExhaustedError, ProtocolError
from cci_plugins.mcp_client.failures import META_KEY, build_error_from_text, load_error
from cci_plugins.mcp_client.messages import ToolResult, decode_json
from cci_plugins.mcp_client.wire_model import Text, TolerantModel
from cci_plugins.models import ErrorInfo, Execution, ExecutionStatus, Result

_FAILED = frozenset({"failed", "failure", "canceled", "cancelled"})
_TIMED_OUT = frozenset({"Timeout", "ExecutionTimeout", "TimeoutExceeded"})
_FIELDS = frozenset({"stdout", "stderr", "executionResult", "result"})
_LAST_LINE = re.compile(r"^([A-Za-z_][\w.]*)(?:: (.*))?$")


def _find_in_error(key: str) -> tuple[AliasPath, AliasPath]:
    return AliasPath("error", "error", key), AliasPath("error", key)


class _Run(TolerantModel):
    stdout: Text = ""
    stderr: Text = ""
    status: Text = ""
    value: Any = Field(None, validation_alias=AliasChoices("executionResult", "result"))
    milliseconds: float = Field(0, validation_alias="executionTimeInMilliseconds", ge=0, lt=1e9)
    error_code: Text = Field("", validation_alias=AliasChoices(*_find_in_error("code")))
    error_message: Text = Field("", validation_alias=AliasChoices(*_find_in_error("message")))


def read_execution(answer: ToolResult, session_id: str) -> Execution:
    """Read the answer of a tool that runs code.

    Args:
        answer: The answer.
        session_id: The session that the code ran in.

    Raises:
        PoolError: The answer reports a failure of the pool.
        ProtocolError: It reports nothing. Content, even if it is empty, is a report: servers leave
            out what has no value, and code may print nothing.
    """
    fields = _find_run_fields(answer)
    if fields is None:
        if answer.is_error:
            raise _build_failure(answer)
        fields = {"stdout": _find_text(answer)}
    execution = _build_execution(fields, session_id, is_error=answer.is_error)
    return replace(execution, results=(*execution.results, *_parse_images(answer)))


def _find_text(answer: ToolResult) -> str:
    """Return the text of an answer that has no run's fields."""
    texts = (block.get("text") for block in answer.content if block.get("type") == "text")
    if any(isinstance(text, str) for text in texts) or any(_parse_images(answer)):
        return answer.text
    if answer.structured:
        return json.dumps(answer.structured, ensure_ascii=False)
    if not answer.has_result:
        raise build_unreported_error()
    return ""


def _build_failure(answer: ToolResult) -> CodeInterpreterError:
    """Build the exception for a failed call. A gateway's answer adds a wait and a hint."""
    error = build_error_from_text(answer.text, started=True)
    details = answer.meta.get(META_KEY)
    if isinstance(error, PoolExhaustedError) and isinstance(details, Mapping):
        loaded = load_error(details)
        return loaded if isinstance(loaded, PoolExhaustedError) else error
    return error


def read_rest(body: Mapping[str, Any], session_id: str) -> Execution:
    """Read the answer of the REST API to a run, in its newer or older form.

    Args:
        body: The answer.
        session_id: The session that the code ran in.

    Raises:
        ProtocolError: The answer reports nothing about the run.
    """
    inner = body.get("properties")
    whole = inner if isinstance(inner, Mapping) else body
    return _build_execution(_merge_result(whole) or whole, session_id)


def build_unreported_error() -> ProtocolError:
    """Build the error for a well-formed answer that reports nothing about the run."""
    return ProtocolError(
        "the pool's answer does not report how the run ended",
        hint="check that the endpoint is that of a session pool",
    )


def _build_execution(
    fields: Mapping[str, Any], session_id: str, *, is_error: bool = False
) -> Execution:
    run = _Run.load(fields, "run")
    if not (is_error or _has_report(run, fields)):
        raise build_unreported_error()
    status = run.status.lower()
    failed = is_error or status in _FAILED or (not status and _is_traceback(run.stderr))
    error = _build_error(run) if failed else None
    return Execution(
        stdout=run.stdout,
        stderr="" if error is not None and error.traceback == run.stderr else run.stderr,
        results=tuple(_parse_main_result(run.value)),
        error=error,
        session_id=session_id,
        status="succeeded" if error is None else _derive_status(error),
        state="unknown",
        duration=timedelta(milliseconds=run.milliseconds),
    )


def _has_report(run: _Run, fields: Mapping[str, Any]) -> bool:
    """Return whether any field of a run has a value, and not only a default of this module."""
    texts = (fields.get(name) for name in ("stdout", "stderr", "status"))
    has_text = any(isinstance(text, str) for text in texts)
    return has_text or run.value is not None or bool(run.error_code or run.error_message)


def _find_run_fields(answer: ToolResult) -> Mapping[str, Any] | None:
    """Return the object with the run's fields, wherever the server put it."""
    fields = _merge_result(answer.structured)
    if fields is None:
        with suppress(ProtocolError):  # it is not JSON, or too much of it
            fields = _merge_result(decode_json(answer.text.encode("utf-8", "surrogatepass")))
    return fields


def _merge_result(candidate: object) -> dict[str, Any] | None:
    """Return an object's fields with those of its `result`, if they are those of a run."""
    if isinstance(candidate, Mapping):
        for value in (candidate.get("result"), candidate):
            if isinstance(value, Mapping) and _FIELDS & value.keys():
                return {**candidate, **value}
    return None


def _parse_main_result(value: Any) -> Iterator[Result]:
    if value is None or value == "":
        return
    if isinstance(value, Mapping) and {"stdout", "stderr"} & value.keys():
        return  # not a value: the run's own fields, which `_merge_result` has merged
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


def _build_error(run: _Run) -> ErrorInfo:
    """Describe the error by the last line of the traceback, or else by the pool's own fields."""
    lines = [line for line in run.stderr.splitlines() if line and not line[0].isspace()]
    match = _LAST_LINE.match(lines[-1]) if lines else None
    if match is not None:
        return ErrorInfo(match[1].rpartition(".")[2], match[2] or "", run.stderr)
    if run.error_code or run.error_message:
        return ErrorInfo(run.error_code or "Error", run.error_message, run.stderr)
    message = lines[-1] if lines else "the pool reported that the run failed"
    return ErrorInfo("Error", message, run.stderr)


def _derive_status(error: ErrorInfo) -> ExecutionStatus:
    return "timed_out" if error.name in _TIMED_OUT else "failed"


def _is_traceback(stderr: str) -> bool:
    return "Traceback (most recent call last)" in stderr and bool(
        _LAST_LINE.match(stderr.strip().rpartition("\n")[2])
    )

"""An execution in the words of the platform: the same fields for MCP and REST."""

from __future__ import annotations

import ast
import json
from typing import Any

from cci_plugins.models import Execution, Result
from cci_plugins.rendering import clip

_LITERAL_CHARACTERS = 10_000
PICTURES = ("image/png", "image/jpeg", "image/gif", "image/webp")


def main_value(execution: Execution) -> Any:
    """The value of the last expression as JSON; a plain literal as itself, else its text."""
    for result in reversed(execution.results):
        if result.is_main:
            return _value(result)
    return None


def picture(execution: Execution) -> dict[str, str] | None:
    """The first image, as the data plane tells it: type, format and base64 data."""
    for result in execution.results:
        for kind in PICTURES:
            data = result.data.get(kind)
            if isinstance(data, str):
                return {"type": "image", "format": kind.partition("/")[2], "base64_data": data}
    return None


def pictures(execution: Execution) -> list[tuple[str, str]]:
    """Every image: MIME type and base64, the best form of each."""
    found = []
    for result in execution.results:
        kind = next((kind for kind in PICTURES if isinstance(result.data.get(kind), str)), None)
        if kind is not None:
            found.append((kind, result.data[kind].replace("\n", "")))
    return found


def error_text(execution: Execution) -> str:
    """Standard error, and after it the traceback or what else ended the code."""
    error = execution.error
    if error is None:
        return execution.stderr
    ending = error.traceback or f"{error.name}: {error.message}"
    return "\n".join(part for part in (execution.stderr.rstrip("\n"), ending) if part)


def run_fields(execution: Execution, limit: int, value: Any) -> dict[str, Any]:
    """`stdout`, `stderr`, `executionResult` and the time of a run.

    Args:
        execution: The run.
        limit: Most characters of each stream; a cut is marked where it is.
        value: What to tell as the result.
    """
    return {
        "stdout": clip(execution.stdout, limit),
        "stderr": clip(error_text(execution), limit),
        "executionResult": value,
        "executionTimeInMilliseconds": milliseconds(execution),
    }


def milliseconds(execution: Execution) -> int:
    """How long the code ran."""
    return round(execution.duration.total_seconds() * 1000)


def _value(result: Result) -> Any:
    text = result.text
    if text is None:
        return result.json
    if len(text) <= _LITERAL_CHARACTERS:
        try:
            value = ast.literal_eval(text)
            if value is None or isinstance(value, (str, int, float, list, dict)):
                json.dumps(value, allow_nan=False)
                return value
        except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
            pass
    return text

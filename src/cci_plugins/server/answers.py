"""Executions in the platform's fields, the same for MCP and REST."""

from __future__ import annotations

import ast
import json
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from cci_plugins.common.image_data import IMAGE_TYPES, decode_image
from cci_plugins.core.rendering import clip
from cci_plugins.models import Execution, Result, transform_execution

_MAX_LITERAL_CHARACTERS = 10_000


def sanitize_execution(execution: Execution) -> Execution:
    """Return the execution with lone surrogates, NaN and infinity replaced for JSON in UTF-8."""
    clean = transform_execution(execution, sanitize_json, sanitize_json)
    files = tuple(replace(file, name=sanitize_json(file.name)) for file in execution.files)
    return replace(clean, files=files)


def sanitize_json(value: Any) -> Any:
    """Return a JSON value with lone surrogates, NaN and infinity replaced."""
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    elif isinstance(value, float):
        return value if math.isfinite(value) else None
    elif isinstance(value, Mapping):
        return {sanitize_json(name): sanitize_json(item) for name, item in value.items()}
    elif isinstance(value, list):
        return [sanitize_json(item) for item in value]
    return value


def get_main_value(execution: Execution) -> Any:
    """Return the value of the last expression: a plain literal as JSON, anything else as text."""
    for result in reversed(execution.results):
        if result.is_main:
            return _parse_value(result)
    return None


def find_image(execution: Execution) -> dict[str, str] | None:
    """Return the first image in the data plane's form: type, format and base64 data."""
    for kind, data in find_images(execution):
        return {"type": "image", "format": kind.partition("/")[2], "base64_data": data}
    return None


def find_images(execution: Execution) -> list[tuple[str, str]]:
    """Return the MIME type and base64 data of every image, each in its best form.

    A malformed image is left out, because a model's API would refuse the whole request.
    """
    images = []
    for result in execution.results:
        for kind in IMAGE_TYPES:
            if decode_image(kind, result.data.get(kind)) is not None:
                images.append((kind, "".join(result.data[kind].split())))
                break
    return images


def _format_error(execution: Execution) -> str:
    """Return standard error, followed by the traceback or by what else ended the code."""
    error = execution.error
    if error is None:
        return execution.stderr
    ending = error.traceback or f"{error.name}: {error.message}"
    return "\n".join(part for part in (execution.stderr.rstrip("\n"), ending) if part)


def build_run_fields(execution: Execution, limit: int, value: Any) -> dict[str, Any]:
    """Return `stdout`, `stderr`, `executionResult` and the duration of a run.

    Args:
        execution: The run.
        limit: Most characters of each stream. A note stands where text was cut.
        value: The result to report.
    """
    return {
        "stdout": clip(execution.stdout, limit),
        "stderr": clip(_format_error(execution), limit),
        "executionResult": value,
        "executionTimeInMilliseconds": round(execution.duration.total_seconds() * 1000),
    }


def _parse_value(result: Result) -> Any:
    text = result.text
    if text is None:
        return result.json
    if len(text) <= _MAX_LITERAL_CHARACTERS:
        try:
            value = ast.literal_eval(text)
            if value is None or isinstance(value, (str, int, float, list, dict)):
                json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
                return value
        except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
            pass
    return text

"""The history of a session as a Jupyter notebook."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Mapping
from typing import Any

from cci_plugins.models import Execution, Result, ToolCall

MAX_BYTES = 16 * 1024**2  # characters of all cells, as JSON
MAX_CHARACTERS = 200_000  # of one stream of one run
MAX_TOOL_CALLS = 200  # of one run
MAX_ARGUMENTS = 2_000  # characters of the arguments of one call
METADATA_KEY = "cci_plugins"  # in the metadata of a cell
TOOL_CALLS_KEY = "tool_calls"
REDACTED_KEY = "redacted"


class Notebook:
    """The runs of one session. The oldest are dropped beyond `MAX_BYTES`.

    The format is nbformat 4.5 (nbformat.readthedocs.io). It is written without the package
    `nbformat`, so that the history needs no dependency. Tests check it with `nbformat.validate`.
    """

    def __init__(self) -> None:
        self._cells: deque[str] = deque()
        self._bytes = 0
        self._count = 0

    def add(self, code: str, execution: Execution, *, is_redacted: bool = False) -> None:
        """Append one run.

        Args:
            code: Its code, without secrets.
            execution: Its outcome.
            is_redacted: Whether redaction changed the code.
        """
        self._count += 1
        cell = json.dumps(
            _build_cell(self._count, code, execution, is_redacted=is_redacted), ensure_ascii=False
        )
        self._cells.append(cell)
        self._bytes += len(cell)
        while self._bytes > MAX_BYTES and len(self._cells) > 1:
            self._bytes -= len(self._cells.popleft())

    def replace(self, text: str) -> None:
        """Replace the history by a saved one. What is not a cell of a notebook is left out.

        Args:
            text: The text of a notebook file, which may have been changed.
        """
        cells = load_cells(text)
        self._cells = deque(json.dumps(cell, ensure_ascii=False) for cell in cells)
        self._bytes = sum(map(len, self._cells))
        self._count = max(map(get_count, cells), default=0)
        while self._bytes > MAX_BYTES and len(self._cells) > 1:
            self._bytes -= len(self._cells.popleft())

    def to_json(self) -> str:
        """Return the text of the notebook file."""
        notebook = {
            "nbformat": 4,
            "nbformat_minor": 5,
            "metadata": {
                "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"},
                "language_info": {"name": "python"},
            },
            "cells": [json.loads(cell) for cell in self._cells],
        }
        return json.dumps(notebook, indent=1, ensure_ascii=False)


def load_cells(text: str) -> list[dict[str, Any]]:
    """Return the code cells of a saved history, without what is not one.

    Args:
        text: The text of a notebook file, which may have been changed.
    """
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return []
    cells = content.get("cells") if isinstance(content, dict) else None
    return [cell for cell in cells if _is_cell(cell)] if isinstance(cells, list) else []


def get_count(cell: Mapping[str, Any]) -> int:
    """Return the number of the run that a cell shows."""
    return int(cell["execution_count"])


def _is_cell(cell: object) -> bool:
    return (
        isinstance(cell, dict)
        and cell.get("cell_type") == "code"
        and isinstance(cell.get("source"), str)
        and isinstance(cell.get("outputs"), list)
        and isinstance(cell.get("metadata"), dict)
        and type(cell.get("execution_count")) is int
        and cell.get("id") == f"run-{cell['execution_count']}"
    )


def _build_cell(
    count: int, code: str, execution: Execution, *, is_redacted: bool
) -> dict[str, Any]:
    calls = [_build_tool_call(call) for call in execution.tool_calls[:MAX_TOOL_CALLS]]
    ours: dict[str, Any] = {TOOL_CALLS_KEY: calls} if calls else {}
    if is_redacted:
        ours[REDACTED_KEY] = True
    return {
        "cell_type": "code",
        "id": f"run-{count}",
        "metadata": {METADATA_KEY: ours} if ours else {},
        "execution_count": count,
        "source": code,
        "outputs": list(_build_outputs(count, execution)),
    }


def calls_host_tools(cell: Mapping[str, Any]) -> bool:
    """Return whether the code of a cell called host tools, so that a replay would call them again.

    Args:
        cell: A cell of the notebook.
    """
    ours = cell.get("metadata", {}).get(METADATA_KEY)
    return isinstance(ours, Mapping) and bool(ours.get(TOOL_CALLS_KEY))


def is_redacted(cell: Mapping[str, Any]) -> bool:
    """Return whether redaction changed the code of a cell, so that it is not what ran.

    Args:
        cell: A cell of the notebook.
    """
    ours = cell.get("metadata", {}).get(METADATA_KEY)
    return isinstance(ours, Mapping) and bool(ours.get(REDACTED_KEY))


def _build_tool_call(call: ToolCall) -> dict[str, Any]:
    arguments = json.dumps(call.arguments, ensure_ascii=False)
    return {
        "name": call.name,
        "arguments": call.arguments if len(arguments) <= MAX_ARGUMENTS else None,
        "status": call.status,
        "error": call.error,
        "seconds": round(call.duration.total_seconds(), 6),
    }


def _build_outputs(count: int, execution: Execution) -> list[dict[str, Any]]:
    outputs: list[dict[str, Any]] = []
    remaining = {"stdout": MAX_CHARACTERS, "stderr": MAX_CHARACTERS}
    for event in execution.outputs:
        if event.result is not None:
            outputs.append(_build_display(count, event.result))
        elif text := event.text[: remaining[event.stream]]:
            remaining[event.stream] -= len(text)
            outputs.append({"output_type": "stream", "name": event.stream, "text": text})
    if execution.error is not None:
        outputs.append(
            {
                "output_type": "error",
                "ename": execution.error.name,
                "evalue": execution.error.message,
                "traceback": execution.error.traceback.splitlines(),
            }
        )
    return outputs


def _build_display(count: int, result: Result) -> dict[str, Any]:
    display: dict[str, Any] = {
        "output_type": "execute_result" if result.is_main else "display_data",
        "data": dict(result.data),
        "metadata": {},
    }
    if result.is_main:
        display["execution_count"] = count
    return display

"""Reporters that print executions, as streams and results for people or as JSON for programs."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections import Counter, deque
from typing import Any

from typing_extensions import override

from cci_plugins.common.image_data import find_image_type
from cci_plugins.core.rendering import get_readable_text
from cci_plugins.models import Execution, OutputEvent, Result

from . import console
from .saving import Saver

_MAX_PENDING_IMAGES = 20
_SUCCESS_MESSAGES = ("", "None", "False")


class Reporter(ABC):
    """Base of the reporters, which print one execution after the other."""

    def __init__(self, saver: Saver) -> None:
        self._saver = saver

    @abstractmethod
    def handle_output(self, event: OutputEvent) -> None:
        """Print a chunk of output while the code runs."""

    @abstractmethod
    def finish(self, execution: Execution, position: int | None) -> None:
        """Print what is left of an execution once it has ended.

        Args:
            execution: Whole execution.
            position: Index of its cell in the notebook, or None outside of a notebook.
        """

    @abstractmethod
    def abort(self) -> None:
        """Show what came so far of a run that has no execution."""


class StreamReporter(Reporter):
    """Reporter for people: the code's stdout and results on stdout, everything else on stderr."""

    def __init__(self, saver: Saver) -> None:
        super().__init__(saver)
        self._counts: Counter[str] = Counter()
        self._shown: list[Result] = []
        self._images: deque[Result] = deque(maxlen=_MAX_PENDING_IMAGES)

    @override
    def handle_output(self, event: OutputEvent) -> None:
        self._counts[event.stream] += 1
        if event.stream == "stdout":
            console.write_stdout(event.text)
        elif event.stream == "stderr":
            console.write_stderr(event.text)
        elif event.result is not None and find_image_type(event.result.data):
            # A later output may replace it, as in an animation.
            self._images.append(event.result)
        elif event.result is not None:
            self._shown.append(event.result)
            self._show(event.result)

    @override
    def abort(self) -> None:
        for result in self._images:
            self._show(result)
        self._reset()

    @override
    def finish(self, execution: Execution, position: int | None) -> None:
        streamed = self._counts["stdout"] + self._counts["stderr"]
        if not self._counts["stdout"] and execution.stdout:
            console.write_stdout(execution.stdout)
        if not self._counts["stderr"] and execution.stderr:
            console.write_stderr(execution.stderr)
        for result in execution.results:
            if result in self._shown:
                self._shown.remove(result)
            else:
                self._show(result)
        self._reset()
        if execution.dropped_characters and not streamed:
            console.print_warning(
                f"{execution.dropped_characters:,} characters of output were dropped"
            )
        for note in execution.notes:
            console.print_warning(note)
        _print_error(execution, position)

    def _reset(self) -> None:
        self._counts.clear()
        self._shown.clear()
        self._images.clear()

    def _show(self, result: Result) -> None:
        if (path := self._saver.save_image(result)) is not None:
            console.print_message(f"saved {path}")
        elif text := get_readable_text(result):
            console.write_stdout(text if text.endswith("\n") else f"{text}\n")
        elif find_image_type(result.data):
            return  # malformed, and a note of the execution reports it
        elif kinds := [kind for kind in result.data if kind != "text/plain"]:
            console.print_message(
                f"displayed {', '.join(kinds)} (use --save-notebook or --json to see it)"
            )


class JsonLinesReporter(Reporter):
    """Reporter for programs: one line of JSON for each execution, once it has ended."""

    @override
    def handle_output(self, event: OutputEvent) -> None:
        pass

    @override
    def abort(self) -> None:
        pass

    @override
    def finish(self, execution: Execution, position: int | None) -> None:
        facts = _to_dict(execution)
        if execution.error is not None and execution.error.name == "SystemExit":
            facts["exit_status"] = get_exit_status(execution)
        facts["results"] = [self._result_to_dict(result) for result in execution.results]
        if position is not None:
            facts["cell"] = position
        console.write_stdout(json.dumps(facts, ensure_ascii=False, default=str) + "\n")

    def _result_to_dict(self, result: Result) -> dict[str, Any]:
        """Return a result as JSON values, with the path of its saved image instead of the bytes."""
        path = self._saver.save_image(result)
        data = {kind: value for kind, value in result.data.items() if not kind.startswith("image/")}
        return {
            "is_main": result.is_main,
            "data": data,
            "image": None if path is None else str(path),
        }


def _to_dict(execution: Execution) -> dict[str, Any]:
    error = execution.error
    return {
        "status": execution.status,
        "text": execution.text,
        "stdout": execution.stdout,
        "stderr": execution.stderr,
        "error": error
        and {"name": error.name, "message": error.message, "traceback": error.traceback},
        "files": [
            {"name": file.name, "size": file.size, "media_type": file.media_type}
            for file in execution.files
        ],
        "state": execution.state,
        "duration_seconds": round(execution.duration.total_seconds(), 6),
        "isolation": execution.isolation,
        "dropped_characters": execution.dropped_characters,
        "notes": list(execution.notes),
    }


def get_exit_status(execution: Execution) -> int | None:
    """Return the status of code that called `sys.exit`. Return None for other code."""
    error = execution.error
    if execution.status == "succeeded":
        return 0
    if error is None or error.name != "SystemExit" or execution.status != "failed":
        return None
    if error.message in _SUCCESS_MESSAGES:
        return 0
    try:
        return int(error.message) & 0xFF
    except ValueError:
        return 1


def _print_error(execution: Execution, position: int | None) -> None:
    if execution.error is None or get_exit_status(execution) == 0:
        return
    headline = f"{execution.error.name}: {execution.error.message}".strip()
    trace = execution.error.traceback.rstrip()
    if trace:
        console.print_traceback(trace)
    if not any(line.startswith(execution.error.name) for line in trace.splitlines()):
        console.print_error(headline)  # a limit or a crash ended it, not the traceback's error
    if position is not None:
        console.print_message(f"cell {position + 1} failed")

"""What a person or a program sees of a run: streams and results as they come, or JSON."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections import Counter
from typing import Any

from typing_extensions import override

from cci_plugins.core.rendering import readable
from cci_plugins.models import Execution, OutputEvent, Result

from . import console
from .saving import Saver

_SUCCESSES = ("", "0", "None", "False")


class Reporter(ABC):
    """Tells one execution after the other."""

    def __init__(self, saver: Saver) -> None:
        self._saver = saver

    @abstractmethod
    def output(self, event: OutputEvent) -> None:
        """Take a piece of output while the code runs."""

    @abstractmethod
    def finish(self, execution: Execution, position: int | None) -> None:
        """Take the whole execution; `position` is its cell's in a notebook."""


class Streams(Reporter):
    """The code's stdout and results on stdout, everything else on stderr."""

    def __init__(self, saver: Saver) -> None:
        super().__init__(saver)
        self._told: Counter[str] = Counter()

    @override
    def output(self, event: OutputEvent) -> None:
        self._told[event.stream] += 1
        if event.stream == "stdout":
            console.out(event.text)
        elif event.stream == "stderr":
            console.err(event.text)
        elif event.result is not None:
            self._show(event.result)

    @override
    def finish(self, execution: Execution, position: int | None) -> None:
        streamed = self._told["stdout"] + self._told["stderr"]
        if not self._told["stdout"] and execution.stdout:
            console.out(execution.stdout)
        if not self._told["stderr"] and execution.stderr:
            console.err(execution.stderr)
        for result in execution.results[self._told["result"] :]:
            self._show(result)
        self._told.clear()
        if execution.dropped_characters and not streamed:
            console.warn(f"{execution.dropped_characters:,} characters of output were not kept")
        for note in execution.notes:
            console.warn(note)
        _tell_error(execution, position)

    def _show(self, result: Result) -> None:
        if (path := self._saver.image(result)) is not None:
            console.say(f"saved {path}")
        elif text := readable(result):
            console.out(text if text.endswith("\n") else f"{text}\n")
        elif kinds := [kind for kind in result.data if kind != "text/plain"]:
            console.say(f"displayed {', '.join(kinds)}; see it with --save-notebook or --json")


class JsonLines(Reporter):
    """One line of JSON for each execution, when it has ended."""

    @override
    def output(self, event: OutputEvent) -> None:
        pass

    @override
    def finish(self, execution: Execution, position: int | None) -> None:
        facts = _facts(execution)
        facts["results"] = [self._result(result) for result in execution.results]
        if position is not None:
            facts["cell"] = position
        console.out(json.dumps(facts, ensure_ascii=False, default=str) + "\n")

    def _result(self, result: Result) -> dict[str, Any]:
        """A result without the bytes of its images, which are saved and named."""
        path = self._saver.image(result)
        data = {kind: value for kind, value in result.data.items() if not kind.startswith("image/")}
        return {
            "is_main": result.is_main,
            "data": data,
            "image": None if path is None else str(path),
        }


def _facts(execution: Execution) -> dict[str, Any]:
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


def exited_with_success(execution: Execution) -> bool:
    """Whether the code ended itself by `sys.exit()` with nothing wrong, as scripts do."""
    error = execution.error
    return error is not None and error.name == "SystemExit" and error.message in _SUCCESSES


def _tell_error(execution: Execution, position: int | None) -> None:
    if execution.error is None or exited_with_success(execution):
        return
    headline = f"{execution.error.name}: {execution.error.message}".strip()
    trace = execution.error.traceback.rstrip()
    if trace:
        console.err(f"{trace}\n")
    if not any(line.startswith(execution.error.name) for line in trace.splitlines()):
        console.fail(headline)  # a limit or a crash ended it, whatever it was just doing
    if position is not None:
        console.say(f"cell {position + 1} failed")

"""Executions and their output without secrets, even those that the session's own code printed."""

from __future__ import annotations

from dataclasses import replace

from cci_plugins.models import ErrorInfo, Execution, OutputEvent, Result
from cci_plugins.pools.base import OutputHandler
from cci_plugins.redaction import Redactor, redact, redact_value


def redact_execution(execution: Execution) -> Execution:
    """The execution as it may leave the package; the same one when there is nothing to cover."""
    error = execution.error
    if error is not None:
        error = ErrorInfo(redact(error.name), redact(error.message), redact(error.traceback))
    clean = replace(
        execution,
        stdout=redact(execution.stdout),
        stderr=redact(execution.stderr),
        results=tuple(map(_redact_result, execution.results)),
        error=error,
        notes=tuple(map(redact, execution.notes)),
    )
    return execution if clean == execution else clean


def _redact_result(result: Result) -> Result:
    return replace(result, data=redact_value(result.data))


class RedactingOutput:
    """Hands output on without secrets, though its pieces may cut them.

    Args:
        handler: Who listens.
    """

    def __init__(self, handler: OutputHandler) -> None:
        self._handler = handler
        self._streams = {"stdout": Redactor(), "stderr": Redactor()}

    def handle(self, event: OutputEvent) -> None:
        """Take a piece of output."""
        if event.result is not None:
            self._handler(replace(event, result=_redact_result(event.result)))
        elif event.stream == "result":
            self._handler(event)
        elif text := self._streams[event.stream].feed(event.text):
            self._handler(OutputEvent(event.stream, text))

    def finish(self) -> None:
        """Hand on what was held back."""
        if text := self._streams["stdout"].finish():
            self._handler(OutputEvent("stdout", text))
        if text := self._streams["stderr"].finish():
            self._handler(OutputEvent("stderr", text))

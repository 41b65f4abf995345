"""Executions and their output without secrets, also those that the code itself printed."""

from __future__ import annotations

from dataclasses import replace

from cci_plugins.models import Execution, OutputEvent, Result, transform_execution
from cci_plugins.pools.base import OutputHandler
from cci_plugins.redaction import Redactor, redact, redact_value


def redact_execution(execution: Execution) -> Execution:
    """Return the execution with secrets redacted, or the same object if it has none."""
    clean = transform_execution(execution, redact, redact_value)
    return execution if clean == execution else clean


def _redact_result(result: Result) -> Result:
    return replace(result, data=redact_value(result.data))


class RedactingOutput:
    """Forwards output with secrets redacted, even when a secret spans two chunks.

    Args:
        handler: Called with the redacted output.
    """

    def __init__(self, handler: OutputHandler) -> None:
        self._handler = handler
        self._streams = {"stdout": Redactor(), "stderr": Redactor()}

    def handle(self, event: OutputEvent) -> None:
        """Forward a chunk of output, except its end if that may be the start of a secret."""
        if event.result is not None:
            self._handler(replace(event, result=_redact_result(event.result)))
        elif event.stream == "result":
            self._handler(event)
        elif text := self._streams[event.stream].feed(event.text):
            self._handler(OutputEvent(event.stream, text))

    def finish(self) -> None:
        """Forward what was held back."""
        if text := self._streams["stdout"].finish():
            self._handler(OutputEvent("stdout", text))
        if text := self._streams["stderr"].finish():
            self._handler(OutputEvent("stderr", text))

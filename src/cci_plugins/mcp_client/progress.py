"""Output of a run that is still going on, inside MCP's progress notifications.

The notification's `message` is one line that any client can show. Our client reads the chunks of
output under a key of `_meta`, the place that MCP reserves for extensions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

from pydantic import ValidationError

from cci_plugins.common.log import logger
from cci_plugins.models import Execution, OutputEvent

from .messages import get_notification_params
from .wire_model import Text, WireModel

OUTPUT_KEY = "cci_plugins/output"
PROGRESS_METHOD = "notifications/progress"
StreamName = Literal["stdout", "stderr"]
ProgressHandler = Callable[[Mapping[str, Any]], None]
"""Called with the parameters of each progress notification."""


def dump_output(chunks: Iterable[tuple[StreamName, str]]) -> list[dict[str, str]]:
    """Write chunks of output as JSON, in their order."""
    return [{"stream": stream, "text": text} for stream, text in chunks]


def load_output(params: Mapping[str, Any]) -> list[OutputEvent]:
    """Read the chunks in a notification's parameters, without what is malformed.

    Another server may use the same key in its own way, so that is not an error.
    """
    meta = params.get("_meta")
    chunks = meta.get(OUTPUT_KEY) if isinstance(meta, Mapping) else None
    if not isinstance(chunks, list):
        return []
    return [event for chunk in chunks if (event := _parse_event(chunk)) is not None]


class StreamedOutput:
    """Progress handler that emits each character of a run's output exactly once.

    A server may stream all of the output, its beginning or nothing. `finish` emits the rest.

    Args:
        on_output: Called with each chunk of output.
    """

    def __init__(self, on_output: Callable[[OutputEvent], None]) -> None:
        self._on_output = on_output
        self._emitted_chars: dict[StreamName, int] = {"stdout": 0, "stderr": 0}
        self._has_gap = False

    def __call__(self, params: Mapping[str, Any]) -> None:
        """Emit the output in a progress notification's parameters."""
        for event in load_output(params):
            self.emit(event)

    def emit(self, event: OutputEvent) -> None:
        """Emit a chunk of output that came while the code runs."""
        if event.stream != "result":
            self._emitted_chars[event.stream] += len(event.text)
        self._on_output(event)

    def skip(self, count: int) -> None:
        """Emit a line instead of text that the server no longer has."""
        self._has_gap = True
        self._on_output(OutputEvent("stdout", f"\n[{count:,} characters are missing here]\n"))

    def finish(self, execution: Execution) -> None:
        """Emit the text that no notification carried, and every result."""
        if not self._has_gap:
            self._finish("stdout", execution.stdout)
            self._finish("stderr", execution.stderr)
        for result in execution.results:
            self._on_output(OutputEvent("result", result=result))

    def _finish(self, stream: StreamName, text: str) -> None:
        if rest := text[self._emitted_chars[stream] :]:
            self._on_output(OutputEvent(stream, rest))


class ProgressDispatcher:
    """Filter that passes the progress of one call to its handler.

    Args:
        token: The `progressToken` of the call.
        handler: Called for each notification. After it raises once it is not called again,
            because the call itself must go on.
    """

    def __init__(self, token: str, handler: ProgressHandler) -> None:
        self.token = token
        self._handler: ProgressHandler | None = handler

    def dispatch(self, message: object) -> None:
        """Call the handler if the message is a progress notification of this call."""
        params = get_notification_params(message, PROGRESS_METHOD)
        if self._handler is None or params is None or params.get("progressToken") != self.token:
            return
        try:
            self._handler(params)
        except Exception:  # noqa: BLE001 - the host's callback may raise anything
            logger.exception("on_progress failed; the call goes on without it")
            self._handler = None


class _Chunk(WireModel):
    stream: StreamName
    text: Text


def _parse_event(value: object) -> OutputEvent | None:
    try:
        chunk = _Chunk.model_validate(value)
    except ValidationError:
        return None
    return OutputEvent(chunk.stream, chunk.text) if chunk.text else None

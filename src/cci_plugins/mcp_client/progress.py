"""Output of a run that is still going on, inside of MCP's progress notifications.

The notification's `message` is a line for any client to show; the pieces of output for ours are
under a key of `_meta`, where MCP keeps room for what is not in it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

from cci_plugins.models import Execution, OutputEvent

OUTPUT_KEY = "cci_plugins/output"
PROGRESS_METHOD = "notifications/progress"
StreamName = Literal["stdout", "stderr"]


def dump_output(chunks: Iterable[tuple[StreamName, str]]) -> list[dict[str, str]]:
    """Write pieces of output, in their order."""
    return [{"stream": stream, "text": text} for stream, text in chunks]


def load_output(params: Mapping[str, Any]) -> list[OutputEvent]:
    """Read the pieces out of a notification's parameters; nothing out of anybody else's."""
    meta = params.get("_meta")
    chunks = meta.get(OUTPUT_KEY) if isinstance(meta, Mapping) else None
    if not isinstance(chunks, list):
        return []
    return [event for chunk in chunks if (event := _parse_event(chunk)) is not None]


class StreamedOutput:
    """Tells each piece of a run's output once: while it runs where the server streams, else after.

    Args:
        on_output: Whom to tell.
    """

    def __init__(self, on_output: Callable[[OutputEvent], None]) -> None:
        self._on_output = on_output
        self._emitted_chars: dict[StreamName, int] = {"stdout": 0, "stderr": 0}

    def __call__(self, params: Mapping[str, Any]) -> None:
        """Tell the output in a progress notification's parameters."""
        for event in load_output(params):
            if event.stream != "result":
                self._emitted_chars[event.stream] += len(event.text)
            self._on_output(event)

    def finish(self, execution: Execution) -> None:
        """Tell what the notifications had not: the rest of the text, and every result."""
        self._finish("stdout", execution.stdout)
        self._finish("stderr", execution.stderr)
        for result in execution.results:
            self._on_output(OutputEvent("result", result=result))

    def _finish(self, stream: StreamName, text: str) -> None:
        if rest := text[self._emitted_chars[stream] :]:
            self._on_output(OutputEvent(stream, rest))


def _parse_event(chunk: object) -> OutputEvent | None:
    if not isinstance(chunk, Mapping):
        return None
    stream, text = chunk.get("stream"), chunk.get("text")
    if not isinstance(text, str) or not text:
        return None
    if stream == "stdout":
        return OutputEvent("stdout", text)
    return OutputEvent("stderr", text) if stream == "stderr" else None

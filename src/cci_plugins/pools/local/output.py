"""The output of one run, collected from Jupyter's messages and bounded while it streams."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from cci_plugins.common.limits import SandboxLimits
from cci_plugins.common.log import logger
from cci_plugins.in_session.streams import StreamBuffer
from cci_plugins.models import ErrorInfo, OutputEvent, Result
from cci_plugins.pools.base import OutputHandler

_MAIN = "execute_result"
_DISPLAYS = (_MAIN, "display_data", "update_display_data")


class Collector:
    """A collector that turns the messages of one run into streams, results and an error.

    Untrusted code writes the messages. So the type of every value is checked.

    Attributes:
        error: The exception that ended the code, once reported.
        dropped_results: Number of displayed results that exceeded the limit.
    """

    def __init__(self, limits: SandboxLimits, on_output: OutputHandler | None) -> None:
        self._limits = limits
        self._on_output = on_output
        self._streams = {
            name: StreamBuffer(limits.stream_characters) for name in ("stdout", "stderr")
        }
        self._results: list[Result] = []
        self._result_bytes = 0
        self.dropped_results = 0
        self.error: ErrorInfo | None = None

    def handle_message(self, kind: str, content: Mapping[str, Any]) -> None:
        """Add one message of the run."""
        if kind == "stream":
            self._add_stream(content)
        elif kind in _DISPLAYS:
            self._add_result(content, is_main=kind == _MAIN)
        elif kind == "error":
            self.error = parse_error(content)

    @property
    def is_runaway(self) -> bool:
        """True if the run produced more output than its limit."""
        return sum(buffer.total for buffer in self._streams.values()) > self._limits.runaway_bytes

    @property
    def stdout(self) -> str:
        """Standard output so far."""
        return self._streams["stdout"].get_text()

    @property
    def stderr(self) -> str:
        """Standard error so far."""
        return self._streams["stderr"].get_text()

    @property
    def dropped_characters(self) -> int:
        """Characters of both streams that were not kept."""
        return sum(buffer.dropped_characters for buffer in self._streams.values())

    @property
    def results(self) -> tuple[Result, ...]:
        """Results displayed so far."""
        return tuple(self._results)

    def _add_stream(self, content: Mapping[str, Any]) -> None:
        name: Literal["stdout", "stderr"] = (
            "stderr" if content.get("name") == "stderr" else "stdout"
        )
        text = content.get("text")
        if isinstance(text, str) and text:
            self._streams[name].add(text)
            self._emit(OutputEvent(name, text))

    def _add_result(self, content: Mapping[str, Any], *, is_main: bool) -> None:
        data = content.get("data")
        if not isinstance(data, dict) or not data:
            return
        size = sum(
            len(value) if isinstance(value, str) else len(repr(value)) for value in data.values()
        )
        if self._result_bytes + size > self._limits.result_bytes:
            self.dropped_results += 1
            return
        self._result_bytes += size
        result = Result(data, is_main)
        self._results.append(result)
        self._emit(OutputEvent("result", result=result))

    def _emit(self, event: OutputEvent) -> None:
        if self._on_output is None:
            return
        try:
            self._on_output(event)
        except Exception:  # noqa: BLE001 - the host's callback may raise anything
            logger.exception("on_output failed, so the run continues without it")
            self._on_output = None


def parse_error(content: Mapping[str, Any]) -> ErrorInfo:
    """Read the error of a message or a reply."""
    trace = content.get("traceback")
    lines = [line for line in trace if isinstance(line, str)] if isinstance(trace, list) else []
    return ErrorInfo(
        name=str(content.get("ename") or "Error"),
        message=str(content.get("evalue") or ""),
        traceback="\n".join(lines),
    )

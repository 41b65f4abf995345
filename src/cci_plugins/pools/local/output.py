"""The output of one run, collected from Jupyter's messages and bounded while it streams."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from cci_plugins.common.limits import SandboxLimits
from cci_plugins.common.log import logger
from cci_plugins.in_session.message_bounds import (
    COUNTS_KEY,
    MAX_CUT_CHARACTERS,
    MAX_NOTES,
    cut_text,
    measure_forms,
)
from cci_plugins.in_session.output_log import OutputLog
from cci_plugins.models import ErrorInfo, OutputEvent, Result, build_outputs
from cci_plugins.pools.base import OutputHandler

_MAIN = "execute_result"
_UPDATE = "update_display_data"
_DISPLAYS = (_MAIN, "display_data", _UPDATE)
_MAX_NOTE_CHARACTERS = 300
_MAX_ID_CHARACTERS = 1000  # of a display: a longer id is ignored
_MAX_ERROR_CHARACTERS = 2 * MAX_CUT_CHARACTERS  # more than the kernel sends
_MAX_NAME_CHARACTERS = 200  # of an exception's class


class Collector:
    """A collector that turns the messages of one run into streams, results and an error.

    Untrusted code writes the messages. So the type of every value is checked.

    Attributes:
        error: The exception that ended the code, once reported.
        execution_count: The kernel's number of the run, once reported.
        notes: Sentences of the kernel about output that it cut.
        is_flooding: The kernel sends more than a run may, of any kind of message.
    """

    def __init__(self, limits: SandboxLimits, on_output: OutputHandler | None) -> None:
        self._limits = limits
        self._on_output = on_output
        self._log = OutputLog(limits.stream_characters, limits.result_bytes)
        self._lost_displays = 0
        self.error: ErrorInfo | None = None
        self.execution_count: int | None = None
        self.notes: tuple[str, ...] = ()
        self.is_flooding = False

    def handle_message(
        self, kind: str, content: Mapping[str, Any], size: int | None = None
    ) -> None:
        """Add one message of the run.

        Args:
            kind: Its type.
            content: Its content.
            size: Size of the forms of a display. None if it was not measured yet.
        """
        if kind == "stream":
            self._add_stream(content)
        elif kind in _DISPLAYS:
            self._add_result(kind, content, size)
        elif kind == "clear_output":
            self._log.clear(wait=content.get("wait") is True)
        elif kind == "error":
            self.error = parse_error(content)

    def finish(self, reply: Mapping[str, Any]) -> None:
        """Read the counts that the reply of the run reports.

        Call it when no more messages arrive. The output channel may lose messages in a flood, so
        the kernel's own counts are the true ones.
        """
        self.execution_count = _read_count(reply.get("execution_count"))
        counts = reply.get(COUNTS_KEY)
        if not isinstance(counts, Mapping):
            return
        for name in ("stdout", "stderr"):
            self._log.set_sent(name, _read_count(counts.get(name)) or 0)
        displays = _read_count(counts.get("displays")) or 0
        self._lost_displays = max(displays - self._log.display_count, 0)
        notes = counts.get("notes")
        self.notes = tuple(
            note[:_MAX_NOTE_CHARACTERS]
            for note in (notes[:MAX_NOTES] if isinstance(notes, list) else ())
            if isinstance(note, str)
        )

    @property
    def is_runaway(self) -> bool:
        """True if the run produced more output than its limit."""
        return self.is_flooding or sum(self._log.received.values()) > self._limits.runaway_bytes

    @property
    def stdout(self) -> str:
        """Standard output so far."""
        return self._log.get_stream("stdout").get_text()

    @property
    def stderr(self) -> str:
        """Standard error so far."""
        return self._log.get_stream("stderr").get_text()

    @property
    def dropped_characters(self) -> int:
        """Characters of both streams that were not kept."""
        return sum(self._log.get_stream(name).dropped_characters for name in ("stdout", "stderr"))

    @property
    def dropped_results(self) -> int:
        """Number of displayed results that exceeded the limit or were lost."""
        return self._log.dropped_displays + self._lost_displays

    @property
    def results(self) -> tuple[Result, ...]:
        """Results displayed so far, without those that were replaced or cleared."""
        return tuple(
            Result(display["data"], display["is_main"]) for display in self._log.get_displays()
        )

    def build_outputs(self) -> tuple[OutputEvent, ...]:
        """Return streams and results in the order in which they came."""
        order = self._log.build_order()
        return build_outputs(order, self.stdout, self.stderr, self.results)

    def _add_stream(self, content: Mapping[str, Any]) -> None:
        name: Literal["stdout", "stderr"] = (
            "stderr" if content.get("name") == "stderr" else "stdout"
        )
        text = content.get("text")
        if isinstance(text, str) and text:
            self._log.add_text(name, text)
            self._emit(OutputEvent(name, text))

    def _add_result(self, kind: str, content: Mapping[str, Any], size: int | None) -> None:
        data = content.get("data")
        if not isinstance(data, dict) or not data:
            self._log.display_count += 1
            return
        if size is None:
            size = measure_forms(data)
        transient = content.get("transient")
        display_id = transient.get("display_id") if isinstance(transient, Mapping) else None
        is_usable = isinstance(display_id, str) and len(display_id) <= _MAX_ID_CHARACTERS
        display_id = str(display_id) if is_usable else ""
        if kind == _UPDATE and display_id:
            self._log.update_display(data, size, display_id)
        else:
            is_main = kind == _MAIN
            self._log.add_display(data, size, is_main=is_main, display_id=display_id)
        if size <= self._limits.result_bytes:
            self._emit(OutputEvent("result", result=Result(data, kind == _MAIN)))

    def _emit(self, event: OutputEvent) -> None:
        if self._on_output is None:
            return
        try:
            self._on_output(event)
        except Exception:  # noqa: BLE001 - the host's callback may raise anything
            logger.exception("on_output failed, so the run continues without it")
            self._on_output = None


def _read_count(value: object) -> int | None:
    return value if type(value) is int and value >= 0 else None


def parse_error(content: Mapping[str, Any]) -> ErrorInfo:
    """Read the error of a message or a reply. Long texts are cut, because it may be forged."""
    trace = content.get("traceback")
    lines = [line for line in trace if isinstance(line, str)] if isinstance(trace, list) else []
    return ErrorInfo(
        name=_read_text(content.get("ename"))[:_MAX_NAME_CHARACTERS] or "Error",
        message=cut_text(_read_text(content.get("evalue")), _MAX_ERROR_CHARACTERS),
        traceback=cut_text("\n".join(lines), _MAX_ERROR_CHARACTERS),
    )


def _read_text(value: object) -> str:
    return str(value) if isinstance(value, str | int | float) else ""

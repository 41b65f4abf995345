"""Capture of what one run prints, displays and raises, for the session agent."""

from __future__ import annotations

import base64
import io
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from cci_plugins.in_session.background_output import BackgroundOutput, CellWatch
from cci_plugins.in_session.data import escape_surrogates, escape_values
from cci_plugins.in_session.message_bounds import (
    MAX_NOTES,
    bound_forms,
    bound_traceback,
    cut_text,
    measure_forms,
)
from cci_plugins.in_session.output_log import OutputLog, StreamWriter
from cci_plugins.in_session.terminal_streams import TerminalStream, find_descriptor

RESULT_CHARACTERS = 32 << 20  # of all displays of one run
STREAM_CHARACTERS = 6_000_000
COLOURS = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


class CapturingStream(TerminalStream, io.TextIOBase):
    """Replacement of `sys.stdout` or `sys.stderr` that keeps what is written.

    It is installed once for all runs, since loggers keep the stream that they were made with.

    Args:
        original: The kernel's stream, which leads to the pool.
        name: `stdout` or `stderr`.
        background: Keeps what is written while no run captures it.
        cells: Recognizes the cells of other clients, whose output passes through.
    """

    def __init__(
        self, original: Any, name: str, background: BackgroundOutput, cells: CellWatch
    ) -> None:
        self.original = original
        self.name = f"<{name}>"
        self.capture_buffer: StreamWriter | None = None
        self._stream_name = name
        self._background = background
        self._cells = cells
        self._pid = os.getpid()

    def write(self, text: str) -> int:
        """Keep a chunk for the run, or for the next one."""
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        self.check_open()
        buffer = self.capture_buffer
        if os.getpid() != self._pid:  # the buffer of a forked child would be lost with it
            self.original.write(text)
        elif buffer is not None:
            buffer.add(escape_surrogates(text))
        elif self._cells.is_foreign:
            self.original.write(text)
        else:
            self._background.add(self._stream_name, escape_surrogates(text))
        return len(text)

    def flush(self) -> None:
        """Flush the original stream."""
        self.original.flush()

    def writable(self) -> bool:
        """Return True."""
        return True

    def fileno(self) -> int:
        """Return the descriptor. What is written there goes to the pool."""
        return find_descriptor(self.original)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.original, name)


class RunCapture:
    """Streams, displays and error of one run.

    Attributes:
        stdout: Where standard output is written.
        stderr: Where standard error is written.
        error: The exception that ended the code, once it was shown.
        timed_out: Whether the code was interrupted.
    """

    def __init__(self, shell: Any) -> None:
        self._shell = shell
        self._log = OutputLog(STREAM_CHARACTERS, RESULT_CHARACTERS)
        self._notes: list[str] = []
        self.stdout = StreamWriter(self._log, "stdout")
        self.stderr = StreamWriter(self._log, "stderr")
        self.error: dict[str, str] | None = None
        self.timed_out = False

    @contextmanager
    def replace_displays(self) -> Iterator[None]:
        """Receive what IPython displays, clears and raises."""
        shell = self._shell
        shell._showtraceback = self.set_error  # noqa: SLF001 - IPython has no public hook
        shell.display_pub.publish = self.publish
        shell.display_pub.clear_output = self.clear_output
        shell.displayhook.write_format_data = self.add_main_result
        try:
            yield
        finally:
            del shell._showtraceback, shell.display_pub.publish  # noqa: SLF001 - the same
            del shell.display_pub.clear_output, shell.displayhook.write_format_data

    def publish(
        self,
        data: dict[str, Any],
        *_: Any,
        transient: dict[str, Any] | None = None,
        update: bool = False,
        **__: Any,
    ) -> None:
        """Replace `display_pub.publish`."""
        display_id = str((transient or {}).get("display_id") or "")
        forms, size = self._encode_forms(data)
        if not forms:
            return
        if update and display_id:
            self._log.update_display(forms, size, display_id)
        else:
            self._log.add_display(forms, size, display_id=display_id)

    def add_main_result(self, data: dict[str, Any], *_: Any, **__: Any) -> None:
        """Replace `displayhook.write_format_data`."""
        forms, size = self._encode_forms(data)
        if forms:
            self._log.add_display(forms, size, is_main=True)

    def clear_output(self, wait: bool = False) -> None:  # noqa: FBT001, FBT002 - IPython's
        """Replace `display_pub.clear_output`."""
        self._shell.cci_shown_images.forget()
        self._log.clear(wait=wait)

    def set_error(self, kind: type[BaseException], value: object, lines: list[str]) -> None:
        """Replace `shell._showtraceback`."""
        self.error = {
            "name": kind.__name__,
            "message": escape_surrogates(cut_text(str(value))),
            "traceback": escape_surrogates(COLOURS.sub("", "\n".join(bound_traceback(lines)))),
        }

    def build_report(self, timeout: float) -> dict[str, Any]:
        """Build this part of the run's report."""
        status = "succeeded" if self.error is None else "failed"
        if self.timed_out:
            status = "timed_out"
            self.error = {
                "name": "TimeoutError",
                "message": f"the code ran longer than {timeout:g} s and was interrupted; "
                "variables and files are kept",
                "traceback": "" if self.error is None else self.error["traceback"],
            }
        dropped = self._log.dropped_displays
        if dropped:
            self._notes.append(f"{dropped} displayed results were too large to keep")
        return {
            "stdout": self.stdout.get_text(),
            "stderr": self.stderr.get_text(),
            "results": [
                {"data": display["data"], "isMain": display["is_main"]}
                for display in self._log.get_displays()
            ],
            "order": self._log.build_order(),
            "error": self.error,
            "status": status,
            "state": "kept",
            "isolation": "",
            "droppedCharacters": self.stdout.dropped_characters + self.stderr.dropped_characters,
            "notes": self._notes,
        }

    def _encode_forms(self, data: dict[str, Any]) -> tuple[dict[str, Any], int]:
        """Return the forms that fit as JSON values, and their characters."""
        forms = escape_values(
            {kind: _encode_value(value) for kind, value in data.items() if value is not None}
        )
        forms, notes = bound_forms(forms)
        if len(self._notes) < MAX_NOTES:
            self._notes += notes
        return forms, measure_forms(forms)


def _encode_value(value: Any) -> Any:
    return base64.b64encode(value).decode() if isinstance(value, bytes) else value

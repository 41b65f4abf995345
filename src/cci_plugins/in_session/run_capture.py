"""Capture of what one run prints, displays and raises, for the session agent."""

from __future__ import annotations

import base64
import io
import os
import re
from typing import Any

from cci_plugins.in_session.background_output import BackgroundOutput
from cci_plugins.in_session.data import escape_surrogates, escape_values
from cci_plugins.in_session.streams import StreamBuffer
from cci_plugins.in_session.terminal_streams import TerminalStream, find_descriptor

RESULT_CHARACTERS = 32 << 20  # of all displays of one run
COLOURS = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


class CapturingStream(TerminalStream, io.TextIOBase):
    """Replacement of `sys.stdout` or `sys.stderr` that keeps what is written.

    It is installed once for all runs, since loggers keep the stream that they were made with.

    Args:
        original: The kernel's stream, which leads to the pool.
        name: `stdout` or `stderr`.
        background: Keeps what is written while no run captures it.
    """

    def __init__(self, original: Any, name: str, background: BackgroundOutput) -> None:
        self.original = original
        self.name = f"<{name}>"
        self.capture_buffer: StreamBuffer | None = None
        self._stream_name = name
        self._background = background
        self._pid = os.getpid()

    def write(self, text: str) -> int:
        """Keep a chunk for the run, or for the next one."""
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        self.check_open()
        if os.getpid() != self._pid:  # the buffer of a forked child would be lost with it
            self.original.write(text)
        elif self.capture_buffer is None:
            self._background.add(self._stream_name, escape_surrogates(text))
        else:
            self.capture_buffer.add(escape_surrogates(text))
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
    """Displays and error of one run."""

    def __init__(self) -> None:
        self.results: list[dict[str, Any]] = []
        self.error: dict[str, str] | None = None
        self.budget = RESULT_CHARACTERS
        self.dropped = 0
        self.timed_out = False

    def add_result(self, data: dict[str, Any], *, is_main: bool) -> None:
        """Keep a display, as far as the budget allows."""
        encoded = escape_values(
            {kind: _encode_value(value) for kind, value in data.items() if value is not None}
        )
        size = sum(
            len(value if isinstance(value, str) else repr(value)) for value in encoded.values()
        )
        if size > self.budget:
            self.dropped += 1
        elif encoded:
            self.budget -= size
            self.results.append({"data": encoded, "isMain": is_main})

    def publish(self, data: dict[str, Any], *_: Any, **__: Any) -> None:
        """Replace `display_pub.publish`."""
        self.add_result(data, is_main=False)

    def add_main_result(self, data: dict[str, Any], *_: Any, **__: Any) -> None:
        """Replace `displayhook.write_format_data`."""
        self.add_result(data, is_main=True)

    def set_error(self, kind: type[BaseException], value: object, lines: list[str]) -> None:
        """Replace `shell._showtraceback`."""
        self.error = {
            "name": kind.__name__,
            "message": escape_surrogates(str(value)),
            "traceback": escape_surrogates(COLOURS.sub("", "\n".join(lines))),
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
        note = f"{self.dropped} displayed results were too large to keep"
        return {
            "results": self.results,
            "error": self.error,
            "status": status,
            "state": "kept",
            "isolation": "",
            "notes": [note] if self.dropped else [],
        }


def _encode_value(value: Any) -> Any:
    return base64.b64encode(value).decode() if isinstance(value, bytes) else value

"""Standard streams of a session that behave as those of a terminal program.

User code may replace, close or reconfigure `sys.stdout` and `sys.stderr`. The session's own streams
are put back before each run, so that no run loses the output of the next one.
"""

from __future__ import annotations

import codecs
import io
import sys
from contextlib import suppress
from typing import Any


class TerminalStream:
    """Attributes and methods of a text stream of a terminal, for streams without a file."""

    encoding = "utf-8"
    errors: str | None = "backslashreplace"
    mode = "w"
    newlines: Any = None
    line_buffering = True
    write_through = False
    _is_closed = False
    _byte_stream: Any = None

    def reconfigure(self, **options: Any) -> None:
        """Accept what `io.TextIOWrapper.reconfigure` accepts. The text stays Unicode."""
        if unknown := set(options) - {"newline", *_STREAM_OPTIONS}:
            raise TypeError(f"reconfigure() got an unexpected keyword argument {min(unknown)!r}")
        for name in _STREAM_OPTIONS:
            if options.get(name) is not None:
                setattr(self, name, options[name])

    @property
    def buffer(self) -> Any:
        """The same stream for bytes."""
        if self._byte_stream is None:
            self._byte_stream = _ByteStream(self)
        return self._byte_stream

    @property
    def closed(self) -> bool:
        """True from `close` until the next run."""
        return self._is_closed

    def close(self) -> None:
        """Refuse further writes of this run."""
        self._is_closed = True

    def reopen(self) -> None:
        """Accept writes again."""
        self._is_closed = False

    def check_open(self) -> None:
        """Raise the error of a closed file."""
        if self._is_closed:
            raise ValueError("I/O operation on closed file.")


_STREAM_OPTIONS = ("encoding", "errors", "line_buffering", "write_through")


class _ByteStream(io.BufferedIOBase):
    """Bytes for a text stream, decoded as UTF-8."""

    mode = "wb"

    def __init__(self, text_stream: Any) -> None:
        self._text_stream = text_stream
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self.name = getattr(text_stream, "name", "<stdout>")

    @property
    def raw(self) -> Any:
        """The unbuffered stream, which is this one."""
        return self

    def writable(self) -> bool:
        """Return True."""
        return True

    def write(self, data: Any) -> int:
        """Write bytes. An incomplete character waits for its other bytes."""
        if isinstance(data, str):
            raise TypeError("a bytes-like object is required, not 'str'")
        content = bytes(data)
        if text := self._decoder.decode(content):
            self._text_stream.write(text)
        return len(content)

    def flush(self) -> None:
        """Flush the text stream."""
        self._text_stream.flush()

    def fileno(self) -> int:
        """Return the descriptor of the text stream."""
        return int(self._text_stream.fileno())

    def isatty(self) -> bool:
        """Return False."""
        return False

    def close(self) -> None:
        """Do nothing: the garbage collector calls it, too."""


def find_descriptor(stream: Any) -> int:
    """Return the descriptor whose output the kernel captures, which a terminal program also has.

    Args:
        stream: ipykernel's stream. Its own `fileno` is a copy that nobody captures.
    """
    number = getattr(stream, "_original_stdstream_fd", None)
    return int(stream.fileno() if number is None else number)


def adopt_streams(out: Any, err: Any) -> None:
    """Make two streams those of the session, also under the names that scripts restore from."""
    sys.stdout = sys.__stdout__ = out  # type: ignore[misc]
    sys.stderr = sys.__stderr__ = err  # type: ignore[misc]


def restore_streams(out: Any, err: Any, parent: Any = None) -> None:
    """Put the session's streams back before a run.

    Args:
        out: Standard output of the session.
        err: Standard error of the session.
        parent: Jupyter's message of the run, for streams that were replaced when it arrived.
    """
    for stream in (out, err):
        stream.reopen()
        if parent is not None:
            with suppress(Exception):
                stream.set_parent(parent)
    adopt_streams(out, err)

"""Public value types: `Execution`, `Result`, `FileInfo` and others."""

from __future__ import annotations

import binascii
from base64 import b64decode
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Literal, Self

from .common.structured import CHART, TABLE, Chart, Table, read_charts, read_table
from .common.urls import SecretUrl
from .errors import ExecutionFailedError, ExecutionTimeoutError, SessionLostError

SessionState = Literal["kept", "lost", "unknown"]
"""Whether the variables and files of earlier runs still exist after this one."""

ExecutionStatus = Literal["succeeded", "failed", "timed_out", "died"]
"""How a run ended.

* `succeeded`: the code ran to its end.
* `failed`: the code raised an exception.
* `timed_out`: the pool stopped the code. The state is `kept` when an interrupt was enough.
* `died`: the kernel ended under the code, by `os._exit`, lack of memory or a crash.
"""


@dataclass(frozen=True, slots=True)
class ErrorInfo:
    """The exception, limit or crash that ended the code.

    Attributes:
        name: Class name of the exception, for example `ZeroDivisionError`.
        message: Text of the exception.
        traceback: The whole traceback without colour codes, or empty.
    """

    name: str
    message: str
    traceback: str = ""


Route = Literal["endpoint", "inline", "pieces", "blob", "direct", "relayed"]
"""The route that a file took.

* `endpoint`: the pool's own files API.
* `inline`: one call of code. `pieces`: several calls.
* `blob`: Azure Blob Storage.
* `direct`: the session fetched it. `relayed`: this machine fetched it and sent it on.
"""


@dataclass(frozen=True, slots=True)
class FileInfo:
    """A file in a session, without its bytes.

    Attributes:
        name: Path below the session's folder `/mnt/data`, with `/` between its parts.
        size: Bytes.
        media_type: MIME type guessed from the name.
        modified_at: Last change, with time zone, where the pool reports it.
        sha256: Hex digest, where the pool or the transfer knows it.
        route: The route of the transfer that returned this value, or None.
    """

    name: str
    size: int
    media_type: str = "application/octet-stream"
    modified_at: datetime | None = None
    sha256: str | None = None
    route: Route | None = None


@dataclass(frozen=True, slots=True)
class SharedFile:
    """A copy of a session's file that anyone with its link can read.

    Attributes:
        name: File name.
        size: Bytes.
        url: The link. Only `url.reveal()` returns all of it.
        expires_at: When the link stops working.
        blob: Name of the copy in the storage container.
    """

    name: str
    size: int
    url: SecretUrl
    expires_at: datetime
    blob: str


@dataclass(frozen=True, slots=True)
class SessionInfo:
    """A live session, as its pool reports it."""

    identifier: str
    created_at: datetime
    last_accessed_at: datetime
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class Result:
    """One value that the code displayed, in every form it offered.

    Attributes:
        data: MIME type to value, as in Jupyter's display protocol. Text is `str`, JSON types
            are Python values, images are base64 `str` except SVG, which is text.
        is_main: True for the value of the cell's last expression, False for `display(...)`.

    Example:
        ```python
        from cci_plugins import Result

        result = Result({"text/plain": "42", "application/json": {"answer": 42}})
        print(result.text, result.json["answer"])
        ```
    """

    data: Mapping[str, Any]
    is_main: bool = False

    def _get_text(self, media_type: str) -> str | None:
        value = self.data.get(media_type)
        return value if isinstance(value, str) else None

    def _decode_bytes(self, media_type: str) -> bytes | None:
        value = self._get_text(media_type)
        try:
            return None if value is None else b64decode("".join(value.split()), validate=True)
        except binascii.Error:
            return None

    @property
    def text(self) -> str | None:
        """The plain-text form, if there is one."""
        return self._get_text("text/plain")

    @property
    def html(self) -> str | None:
        """The HTML form, if there is one."""
        return self._get_text("text/html")

    @property
    def markdown(self) -> str | None:
        """The Markdown form, if there is one."""
        return self._get_text("text/markdown")

    @property
    def latex(self) -> str | None:
        """The LaTeX form, if there is one."""
        return self._get_text("text/latex")

    @property
    def svg(self) -> str | None:
        """The SVG document, if there is one."""
        return self._get_text("image/svg+xml")

    @property
    def png(self) -> bytes | None:
        """The PNG image, if there is one."""
        return self._decode_bytes("image/png")

    @property
    def jpeg(self) -> bytes | None:
        """The JPEG image, if there is one."""
        return self._decode_bytes("image/jpeg")

    @property
    def json(self) -> Any:
        """The JSON form as Python values, or None."""
        return self.data.get("application/json")

    @property
    def table(self) -> Table | None:
        """The first rows and the whole shape of a DataFrame or Series of pandas or polars."""
        return read_table(self.data.get(TABLE))

    @property
    def charts(self) -> tuple[Chart, ...]:
        """The data that a matplotlib figure plots, one chart for each pair of axes."""
        return read_charts(self.data.get(CHART))


@dataclass(frozen=True, slots=True)
class Execution:
    """The outcome of one run of code.

    Attributes:
        stdout: Text that was printed, at most `Limits.stream_characters` of it.
        stderr: The same for standard error.
        results: Values that the code displayed, in order.
        error: Why the code ended early, or None.
        files: Files that the run created or changed.
        session_id: Identifier of the session in its pool. It is derived, never the user's own id.
        instance: Identifier of this instance of the session. It changes when the pool replaces
            the session. Empty when the session ended or its pool cannot report it.
        status: How the run ended.
        state: Whether earlier variables and files still exist.
        duration: Time from start to end of the code.
        isolation: Isolation backend of the session, for example `bwrap`, or empty when unknown.
        dropped_characters: Characters of output beyond the limit, which were not kept.
        notes: Sentences about the session that a reader must know, such as a loss or a cut.

    Example:
        ```python
        from cci_plugins import ErrorInfo, Execution

        execution = Execution(stdout="41", error=ErrorInfo("ValueError", "no rows"))
        if execution.error is not None:
            print(execution.error.name)
        ```
    """

    stdout: str = ""
    stderr: str = ""
    results: tuple[Result, ...] = ()
    error: ErrorInfo | None = None
    files: tuple[FileInfo, ...] = ()
    session_id: str = ""
    instance: str = ""
    status: ExecutionStatus = "succeeded"
    state: SessionState = "kept"
    duration: timedelta = timedelta(0)
    isolation: str = ""
    dropped_characters: int = 0
    notes: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """The main result as text, or else the text that was printed."""
        for result in reversed(self.results):
            if result.is_main and result.text is not None:
                return result.text
        return self.stdout

    def raise_for_error(self) -> Self:
        """Return self, or raise an exception for the error that ended the code.

        Raises:
            ExecutionFailedError: The code raised an exception.
            ExecutionTimeoutError: The code ran past its limit.
            SessionLostError: The kernel ended under the code.
        """
        if self.error is None:
            return self
        message = f"{self.error.name}: {self.error.message}"
        if self.status == "timed_out":
            raise ExecutionTimeoutError(message, hint="give the run a longer timeout")
        if self.status == "died":
            raise SessionLostError(message, hint="run the earlier steps again")
        raise ExecutionFailedError(message)


@dataclass(frozen=True, slots=True)
class OutputEvent:
    """A chunk of output, reported while the code still runs: text of a stream, or a result."""

    stream: Literal["stdout", "stderr", "result"]
    text: str = ""
    result: Result | None = field(default=None, repr=False)

"""The values that travel through the house: an execution and what it left behind."""

from __future__ import annotations

import binascii
from base64 import b64decode
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Literal, Protocol, Self

from .common.structured import CHART, TABLE, Chart, Table, read_charts, read_table
from .errors import ExecutionFailedError, ExecutionTimeoutError, SessionLostError

SessionState = Literal["kept", "lost", "unknown"]
"""Whether the variables and files of earlier runs are still there after this one."""

ExecutionStatus = Literal["succeeded", "failed", "timed_out", "died"]
"""How a run ended: `failed`, the code raised; `timed_out`, we stopped it (the state tells whether
an interrupt was enough); `died`, the kernel ended under it: os._exit, out of memory, a crash."""


@dataclass(frozen=True, slots=True)
class ErrorInfo:
    """What ended the code: its own exception, or the limit or crash that stopped it.

    Attributes:
        name: Class name of the exception, for example `ZeroDivisionError`.
        message: Text of the exception.
        traceback: The whole traceback without colour codes; empty when there is none.
    """

    name: str
    message: str
    traceback: str = ""


Route = Literal["endpoint", "inline", "pieces", "blob", "direct", "relayed"]
"""How a file travelled: by the pool's own files API; within one call of code, or several; through
Blob Storage; fetched by the session itself; or fetched here and sent on."""


@dataclass(frozen=True, slots=True)
class FileInfo:
    """A file in a session, without its bytes.

    Attributes:
        name: Path below the session's folder `/mnt/data`, with `/` between its parts.
        size: Bytes.
        media_type: MIME type guessed from the name.
        modified_at: Last change, with time zone, where the pool tells it.
        sha256: Hex digest, where the pool or the transfer knows it.
        route: How it travelled, when this tells of a transfer.
    """

    name: str
    size: int
    media_type: str = "application/octet-stream"
    modified_at: datetime | None = None
    sha256: str | None = None
    route: Route | None = None


class SecretText(Protocol):
    """An address that shows itself without its signature."""

    def reveal(self) -> str:
        """The whole address."""
        ...


@dataclass(frozen=True, slots=True)
class SharedFile:
    """A copy of a session's file that a link leads to; whoever has the link can read it.

    Attributes:
        name: File name.
        size: Bytes.
        url: The link; only `url.reveal()` shows all of it.
        expires_at: When it stops working.
        blob: The copy's name in the storage container.
    """

    name: str
    size: int
    url: SecretText
    expires_at: datetime
    blob: str


@dataclass(frozen=True, slots=True)
class SessionInfo:
    """A live session of a pool, as far as the pool tells."""

    identifier: str
    created_at: datetime
    last_accessed_at: datetime
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class Result:
    """One value the code displayed, in every form it offered.

    Attributes:
        data: MIME type to value, as Jupyter's display protocol has it: text as `str`, images
            but SVG as base64 `str`, JSON types as Python values.
        is_main: True for the value of the cell's last expression, False for `display(...)`.
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
        """The first rows of a DataFrame or Series of pandas or polars, and its whole shape."""
        return read_table(self.data.get(TABLE))

    @property
    def charts(self) -> tuple[Chart, ...]:
        """What a matplotlib figure plots, one for each pair of axes, beside its image."""
        return read_charts(self.data.get(CHART))


@dataclass(frozen=True, slots=True)
class Execution:
    """What became of one run of code.

    Attributes:
        stdout: What was printed, at most `Limits.stream_characters` of it.
        stderr: The same for standard error.
        results: What the code displayed, in order.
        error: Why the code ended early, or None.
        files: Files the run created or changed.
        session_id: Identifier of the session in its pool (derived; never the user's own id).
        instance: Which instance of that session this is: another one after the pool replaced it;
            empty when the session is gone, or its pool cannot tell.
        status: How the run ended.
        state: Whether earlier variables and files are still there.
        duration: Time from start to end of the code.
        isolation: The fence the code ran behind, for example `bwrap`; empty when unknown.
        dropped_characters: Output beyond the limit that was not kept.
        notes: Plain sentences about the session that a reader must know (a loss, a cut).
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
        """The main result as text, or what was printed when there is none."""
        for result in reversed(self.results):
            if result.is_main and result.text is not None:
                return result.text
        return self.stdout

    def raise_for_error(self) -> Self:
        """Return self, or raise what ended the code.

        Raises:
            ExecutionFailedError: The code raised.
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
    """A piece of output, told while the code still runs: text of a stream, or a result."""

    stream: Literal["stdout", "stderr", "result"]
    text: str = ""
    result: Result | None = field(default=None, repr=False)

"""Public value types: `Execution`, `Result`, `FileInfo` and others."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import datetime, timedelta
from typing import Any, Literal, Self

from .common import html
from .common.image_data import SVG, decode_base64, find_image_type, has_valid_image
from .common.structured import CHART, TABLE, Chart, Table, read_charts, read_table
from .common.urls import SecretUrl
from .errors import ExecutionFailedError, ExecutionTimeoutError, SessionLostError

_MAX_REPR = 80  # characters of one text in a `repr`
_MAX_ITEMS = 3

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


@dataclass(frozen=True, slots=True, repr=False)
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

    def __repr__(self) -> str:
        forms = ", ".join(
            f"{kind!r}: {_describe_form(kind, value)}" for kind, value in self.data.items()
        )
        return f"Result({{{forms}}}{', is_main=True' if self.is_main else ''})"

    def _repr_mimebundle_(self, **_: object) -> dict[str, Any]:
        """Return this result for a notebook of the host."""
        return {"text/plain": repr(self), "text/html": html.build_result(self.data)}

    def _get_text(self, media_type: str) -> str | None:
        value = self.data.get(media_type)
        return value if isinstance(value, str) else None

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
        return decode_base64(self.data.get("image/png"))

    @property
    def jpeg(self) -> bytes | None:
        """The JPEG image, if there is one."""
        return decode_base64(self.data.get("image/jpeg"))

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


ToolCallStatus = Literal["succeeded", "failed", "rejected", "denied", "cancelled", "timed_out"]
"""How a call of a host tool ended.

* `succeeded`: the code got the result.
* `failed`: the tool raised an exception, or its result could not be sent.
* `rejected`: the name or the arguments were wrong, or a limit was reached. The tool did not run.
* `denied`: the approver or the tool did not allow it.
* `cancelled`: the run ended first.
* `timed_out`: the tool took longer than a limit.
"""


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One call of a host tool by the code of a run.

    Attributes:
        name: The tool, as the code named it.
        arguments: The arguments, as JSON values with secrets redacted. None if they were invalid
            or larger than 64 KiB.
        status: How the call ended.
        error: What the code was given as the reason, or None.
        duration: Time from the call to its end, with its approval.
        argument_bytes: Size of the arguments as JSON.
        result_bytes: Size of the result as JSON.
    """

    name: str
    arguments: Any = field(default=None, repr=False)
    status: ToolCallStatus = "succeeded"
    error: str | None = None
    duration: timedelta = timedelta(0)
    argument_bytes: int = 0
    result_bytes: int = 0


@dataclass(frozen=True, slots=True, repr=False)
class Execution:
    """The outcome of one run of code.

    Its `repr` is short. As the last expression of a notebook cell, it shows its output.

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
        outputs: The text of both streams and the results, in the order in which they came. Pools
            that do not report the order have standard output first, then standard error.
        execution_count: The kernel's number of the run, or None where the pool has none.
        tool_calls: Calls of host tools by the code, in the order in which they began.

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
    outputs: tuple[OutputEvent, ...] = ()
    execution_count: int | None = None
    tool_calls: tuple[ToolCall, ...] = ()

    def __post_init__(self) -> None:
        """Let `outputs` agree with the streams and results, which may have been replaced."""
        object.__setattr__(self, "outputs", _align_outputs(self))

    def __repr__(self) -> str:
        parts = [
            f"{one.name}={_shorten(getattr(self, one.name))}"
            for one in fields(self)
            if one.name != "outputs" and getattr(self, one.name) != one.default
        ]
        return f"Execution({', '.join(parts)})"

    def _repr_mimebundle_(self, **_: object) -> dict[str, Any]:
        """Return the output for a notebook of the host."""
        parts = [html.build_text(f"[{note}]") for note in self.notes]
        for event in self.outputs:
            if event.result is not None:
                parts.append(html.build_result(event.result.data))
            else:
                parts.append(html.build_text(event.text, is_error=event.stream == "stderr"))
        if self.error is not None:
            text = self.error.traceback or f"{self.error.name}: {self.error.message}"
            parts.append(html.build_text(text, is_error=True))
        return {"text/plain": repr(self), "text/html": "\n".join(parts)}

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


def build_outputs(
    order: Sequence[Sequence[Any]], stdout: str, stderr: str, results: Sequence[Result]
) -> tuple[OutputEvent, ...]:
    """Cut streams and results into the order in which they came.

    Args:
        order: Pairs of a stream and the number of its next characters, or of `result` and 1. What
            does not fit is left out, because a session may claim anything.
        stdout: Standard output.
        stderr: Standard error.
        results: The results.
    """
    streams = {"stdout": stdout, "stderr": stderr}
    positions = {"stdout": 0, "stderr": 0}
    remaining = iter(results)
    outputs: list[OutputEvent] = []
    for kind, length in order:
        if kind == "result":
            result = next(remaining, None)
            if result is not None:
                outputs.append(OutputEvent("result", result=result))
        elif kind in streams and length > 0:
            start = positions[kind]
            positions[kind] += length
            text = streams[kind][start : start + length]
            if text:
                outputs.append(OutputEvent("stderr" if kind == "stderr" else "stdout", text))
    return tuple(outputs)


def build_order(execution: Execution) -> list[list[Any]]:
    """Return the order of an execution's output, from which `build_outputs` restores it."""
    return [[event.stream, len(event.text) or 1] for event in execution.outputs]


def transform_execution(
    execution: Execution, text: Callable[[str], str], data: Callable[[Any], Any]
) -> Execution:
    """Return the execution with all text and data from its code replaced.

    Args:
        execution: The run.
        text: Replaces a text.
        data: Replaces the forms of a result.
    """
    error = execution.error
    results = tuple(Result(data(result.data), result.is_main) for result in execution.results)
    changed = replace(
        execution,
        stdout=text(execution.stdout),
        stderr=text(execution.stderr),
        results=results,
        error=error and ErrorInfo(text(error.name), text(error.message), text(error.traceback)),
        notes=tuple(map(text, execution.notes)),
        tool_calls=tuple(
            replace(
                call,
                name=text(call.name),
                arguments=data(call.arguments),
                error=call.error and text(call.error),
            )
            for call in execution.tool_calls
        ),
    )
    unchanged = {
        name for name in ("stdout", "stderr") if getattr(changed, name) == getattr(execution, name)
    }
    order = [
        [event.stream, len(event.text if event.stream in unchanged else text(event.text)) or 1]
        for event in execution.outputs
    ]
    outputs = build_outputs(order, changed.stdout, changed.stderr, results)
    return replace(changed, outputs=outputs)


def note_malformed_images(execution: Execution) -> Execution:
    """Return the execution with a note if it has images that nobody can show."""
    malformed = [
        find_image_type(result.data)
        for result in execution.results
        if find_image_type(result.data) and not has_valid_image(result.data)
    ]
    if not malformed:
        return execution
    kinds = ", ".join(sorted({str(kind)[:100] for kind in malformed}))
    note = f"displayed images that are malformed and cannot be shown: {len(malformed)} ({kinds})"
    return replace(execution, notes=(*execution.notes, note))


def _align_outputs(execution: Execution) -> tuple[OutputEvent, ...]:
    """Return the outputs, completed by what they lack, or in the default order if they differ."""
    outputs, results = execution.outputs, execution.results
    rest: list[OutputEvent] = []
    names: tuple[Literal["stdout", "stderr"], ...] = ("stdout", "stderr")
    for name in names:
        text = getattr(execution, name)
        known = "".join(event.text for event in outputs if event.stream == name)
        if not text.startswith(known):
            outputs = ()
            break
        if len(text) > len(known):
            rest.append(OutputEvent(name, text[len(known) :]))
    shown = tuple(event.result for event in outputs if event.result is not None)
    if outputs and shown == results[: len(shown)]:
        rest += [OutputEvent("result", result=result) for result in results[len(shown) :]]
        return (*outputs, *rest)
    rest = [OutputEvent(name, text) for name in names if (text := getattr(execution, name))]
    return (*rest, *(OutputEvent("result", result=result) for result in results))


def _describe_form(kind: str, value: object) -> str:
    is_base64 = isinstance(value, str) and str(kind).startswith("image/") and kind != SVG
    return f"<{len(str(value)):,} characters>" if is_base64 else _shorten(value)


def _shorten(value: object) -> str:
    """Return a `repr` of at most some lines, without base64."""
    if isinstance(value, str) and len(value) > _MAX_REPR:
        return f"{value[:_MAX_REPR]!r}... ({len(value):,} characters)"
    if isinstance(value, ErrorInfo):
        return f"{value.name}: {_shorten(value.message)}"
    if isinstance(value, tuple) and len(value) > _MAX_ITEMS:
        shown = ", ".join(map(_shorten, value[:_MAX_ITEMS]))
        return f"({shown}, ... {len(value) - _MAX_ITEMS:,} more)"
    if isinstance(value, tuple):
        return f"({', '.join(map(_shorten, value))})"
    text = repr(value)
    return text if len(text) <= 2 * _MAX_REPR else f"{text[: 2 * _MAX_REPR]}..."

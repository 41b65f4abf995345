"""Runs as HTML: code, status, output, pictures, errors and notes."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import groupby

from cci_plugins.common.image_data import IMAGE_TYPES, decode_image
from cci_plugins.common.limits import MIB
from cci_plugins.models import Execution, OutputEvent, Result
from cci_plugins.redaction import redact

from .elements import Html, clip_text, join, tag

MAX_CODE = 20_000  # characters
MAX_TEXT = 30_000  # characters of one piece of output
MAX_PIECES = 100  # of output of one run
MAX_NOTES = 20
MAX_NOTE = 8_000  # characters
MAX_PAGE_CHARACTERS = 2_000_000  # of code and output
MAX_PICTURE_BYTES = 12 * MIB  # of one page
_MIN_TEXT = 300  # characters of a piece where the page has too much
_MAX_LINE = 300
_TEN = 10  # from here on without a decimal
_TEXT_FORMS = ("text/plain", "text/markdown", "text/latex")
_COLORS = {
    "running": "busy",
    "succeeded": "good",
    "failed": "bad",
    "died": "bad",
    "timed_out": "warn",
    "stopped": "warn",
}


@dataclass(frozen=True, slots=True)
class RunView:
    """A run, as it is when its page is built.

    Attributes:
        number: Its number.
        code: Its code.
        status: How it is or ended.
        started_at: When it began, if that is known.
        duration: How long it took, or has taken so far.
        entry: How it came to the server, or empty.
        outputs: Its output in order.
        execution: Its outcome, if it has one.
        error: Why it has none, or empty.
    """

    number: int
    code: str
    status: str
    started_at: datetime | None
    duration: timedelta
    entry: str = ""
    outputs: tuple[OutputEvent, ...] = ()
    execution: Execution | None = None
    error: str = ""


class PageBudget:
    """How much a page still takes, so that hostile output does not make it too long to show."""

    def __init__(self) -> None:
        self._characters = MAX_PAGE_CHARACTERS
        self._picture_bytes = MAX_PICTURE_BYTES

    def take_picture(self, size: int) -> bool:
        """Return whether a picture fits, and count it."""
        if size > self._picture_bytes:
            return False
        self._picture_bytes -= size
        return True

    def take_text(self, text: str, limit: int = MAX_TEXT) -> Html:
        """Return text as HTML, and count it. Long text keeps its head and tail."""
        limit = max(min(limit, self._characters), _MIN_TEXT)
        self._characters -= min(len(text), limit)
        return clip_text(text, limit)


def build_runs(runs: Sequence[RunView]) -> Html:
    """Return runs in the given order."""
    budget = PageBudget()
    return join(*(build_run(run, budget) for run in runs))


def view_execution(number: int, code: str, execution: Execution) -> RunView:
    """Return a run that has ended.

    Args:
        number: Its number.
        code: Its code, which is redacted here.
        execution: Its outcome.
    """
    return RunView(
        number,
        redact(code),
        execution.status,
        None,
        execution.duration,
        outputs=execution.outputs,
        execution=execution,
    )


def build_status(status: str) -> Html:
    """Return a status with its colour."""
    return tag("span", status.replace("_", " "), class_=f"status {_COLORS.get(status, 'idle')}")


def build_time(time: datetime, *, pattern: str = "%H:%M:%S") -> Html:
    """Return a time of day in UTC. Its title has the date."""
    time = time.astimezone(UTC)
    exact = time.isoformat(timespec="seconds")
    return tag("time", f"{time:{pattern}} UTC", datetime=exact, title=exact)


def format_duration(duration: timedelta) -> str:
    """Return a duration as people write it, such as `1.2 s` or `3 min`."""
    seconds = max(duration.total_seconds(), 0)
    for limit, unit, size in ((0.9995, "ms", 0.001), (9.95, "s", 1)):
        if seconds < limit:
            return f"{seconds / size:.{int(unit == 's')}f} {unit}"
    for limit, unit, size in ((100, "s", 1), (5400, "min", 60), (129_600, "h", 3600)):
        if seconds < limit:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds / 86_400:.0f} days"


def format_size(size: int) -> str:
    """Return a size as people write it, such as `12 KB`."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("KB", 1e3)):
        if size >= factor:
            number = size / factor
            return f"{number:.{int(number < _TEN)}f} {unit}"
    return "1 byte" if size == 1 else f"{size} bytes"


def build_run(run: RunView, budget: PageBudget) -> Html:
    """Return a run.

    Args:
        run: The run. Its execution is redacted.
        budget: How much its page still takes.
    """
    anchor = f"run-{run.number}"
    dot = " \N{MIDDLE DOT} "
    facts = dot.join(filter(None, (format_duration(run.duration), run.entry)))
    begin = "" if run.started_at is None else join(build_time(run.started_at), dot)
    head = tag(
        "div",
        tag("a", f"Run {run.number}", href=f"#{anchor}"),
        build_status(run.status),
        tag("small", begin, facts),
        class_="row",
    )
    code = tag("pre", budget.take_text(run.code, MAX_CODE), class_="code")
    parts = (*_build_outputs(run, budget), *_build_ending(run, budget))
    return tag("article", head, code, *parts, class_=f"card run {run.status}", id=anchor)


def _build_outputs(run: RunView, budget: PageBudget) -> Iterator[Html]:
    pieces = [list(group) for _, group in groupby(run.outputs, key=_get_group)]
    for piece in pieces[:MAX_PIECES]:
        if piece[0].result is not None:
            yield _build_result(piece[0].result, run, budget)
        else:
            text = budget.take_text("".join(event.text for event in piece).rstrip("\n"))
            kind = " stderr" if piece[0].stream == "stderr" else ""
            yield tag("pre", text, class_=f"output{kind}")
    if len(pieces) > MAX_PIECES:
        yield _build_note(f"{len(pieces) - MAX_PIECES:,} more pieces of output are not shown")


def _get_group(event: OutputEvent) -> object:
    """Return what joins text of one stream, and nothing else."""
    return event.stream if event.result is None else id(event)


def _build_result(result: Result, run: RunView, budget: PageBudget) -> Html:
    """Return a result as a picture or text. HTML and SVG of a session are never shown."""
    for kind in IMAGE_TYPES:
        image = decode_image(kind, result.data.get(kind))
        if image is None:
            continue
        if not budget.take_picture(len(image)):
            return _build_note("a picture is not shown, because this page has too many")
        source = Html(f"data:{kind};base64,{b64encode(image).decode()}")
        picture = tag("img", src=source, alt=f"picture that run {run.number} displayed")
        return tag("figure", picture, class_="output")
    text = next(
        (data for kind in _TEXT_FORMS if isinstance(data := result.data.get(kind), str)), None
    )
    if text is None:
        kinds = ", ".join(map(str, result.data))[:_MAX_LINE]
        return _build_note(f"a result that this page does not show: {kinds}")
    return tag("pre", budget.take_text(text), class_="output")


def _build_ending(run: RunView, budget: PageBudget) -> Iterator[Html]:
    """Return the error of a run, and what else is known about its end."""
    execution = run.execution
    if run.error:
        yield tag("pre", budget.take_text(run.error), class_="error")
    if execution is None:
        return
    if execution.error is not None:
        error = execution.error
        text = error.traceback or f"{error.name}: {error.message}"
        yield tag("pre", budget.take_text(text), class_="error")
    for note in execution.notes[:MAX_NOTES]:
        yield _build_note(note)
    if execution.dropped_characters:
        yield _build_note(f"{execution.dropped_characters:,} characters of output were not kept")
    if execution.tool_calls:
        calls = (f"{call.name} ({call.status})" for call in execution.tool_calls[:MAX_NOTES])
        yield _build_note(f"host tools: {_join_some(calls, len(execution.tool_calls))}")
    if execution.files:
        files = (f"{file.name} ({format_size(file.size)})" for file in execution.files[:MAX_NOTES])
        yield _build_note(f"new files: {_join_some(files, len(execution.files))}")


def _join_some(shown: Iterator[str], count: int) -> str:
    more = f" and {count - MAX_NOTES:,} more" if count > MAX_NOTES else ""
    return ", ".join(text[:_MAX_LINE] for text in shown) + more


def _build_note(text: str) -> Html:
    return tag("div", clip_text(text, MAX_NOTE), class_="note")

"""The text of an execution for a model: bounded, without base64, colours and control codes."""

from __future__ import annotations

import re
from collections.abc import Iterator

from cci_plugins.common.image_data import find_image_type, has_valid_image
from cci_plugins.models import Execution, FileInfo, Result
from cci_plugins.redaction import redact

_ANSI = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\-_])")
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]+|[\ud800-\udfff]+")
# The look-behind matters: without it, each place within a shorter word is tried, too.
_BASE64 = re.compile(r"(?<![A-Za-z0-9+/])(?:[A-Za-z0-9+/]{76,}[\r\n]*)+={0,2}")
_LONG_BASE64 = 512
_BASE64_LETTERS = 24
_MAX_LISTED_FILES = 20
_DISPLAY_OBJECT = "<IPython.core.display."
_ERROR_SHARE = 0.4
_MIN_PART = 200


def render_text(execution: Execution, budget: int) -> str:
    """Render an execution for a model.

    The order is: notes about losses, standard output and error, results, the error, new files.
    A long stream keeps its head and tail, with the count of omitted characters between them.
    Images are named, not included.

    Args:
        execution: The run.
        budget: Most characters of the whole text.
    """
    notes = [f"[{note}]" for note in _iter_notes(execution)]
    error = clip(_render_error(execution), int(budget * _ERROR_SHARE))
    files = _render_files(execution.files)
    rest = budget - sum(len(part) + 1 for part in (*notes, error, files) if part)
    results = [clip(text, max(rest // 2, _MIN_PART)) for text in _render_results(execution.results)]
    results_text = clip("\n".join(results), max(rest // 2, _MIN_PART)) if results else ""
    streams = _render_streams(execution, max(rest - len(results_text) - 1, _MIN_PART))
    parts = [*notes, *streams, results_text, error, files]
    text = "\n".join(part for part in parts if part)
    return clip(text or "(no output)", max(budget, _MIN_PART))


def clean(text: str) -> str:
    """Remove colour codes, overwritten progress lines, control characters and base64 blobs."""
    text = _ANSI.sub("", text).replace("\r\n", "\n")
    if "\r" in text:
        text = "\n".join(_get_last_overwrite(line) for line in text.split("\n"))
    text = _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)
    return _BASE64.sub(_replace_base64, text)


def clip(text: str, limit: int) -> str:
    """Cut a text to head and tail, with a line between them that counts the omitted characters.

    Args:
        text: Any text.
        limit: Most characters of the result.
    """
    if len(text) <= limit:
        return text
    marker = f"\n[... {len(text) - limit:,} of {len(text):,} characters left out ...]\n"
    available = max(limit - len(marker), 0)
    head = available * 2 // 3
    tail = available - head
    return text[:head] + marker + (text[-tail:] if tail else "")


def _get_last_overwrite(line: str) -> str:
    segments = [segment for segment in line.split("\r") if segment]
    return segments[-1] if segments else ""


def _replace_base64(match: re.Match[str]) -> str:
    """Name a blob by its length. Short or uniform text stays, such as `'x' * 5000`."""
    text = match[0]
    if len(text) < _LONG_BASE64 or len(set(text[:_LONG_BASE64])) < _BASE64_LETTERS:
        return text
    return f"[{len(text):,} characters of base64]"


def _iter_notes(execution: Execution) -> Iterator[str]:
    yield from execution.notes
    if execution.dropped_characters:
        yield f"{execution.dropped_characters:,} characters of output were not kept"
    if execution.state == "lost" and not execution.notes:
        yield "the session was lost: variables and files of earlier calls are gone"


def _render_streams(execution: Execution, budget: int) -> list[str]:
    """Render both streams. What a short one does not need is left to the other."""
    out = clean(execution.stdout).rstrip("\n")
    err = clean(execution.stderr).rstrip("\n")
    stderr_budget = min(len(err), max(budget // 3, budget - len(out)))
    return [
        clip(out, max(budget - stderr_budget, _MIN_PART)),
        f"[stderr]\n{clip(err, max(stderr_budget, _MIN_PART))}" if err else "",
    ]


def _render_results(results: tuple[Result, ...]) -> Iterator[str]:
    images = 0
    for result in results:
        image = find_image_type(result.data)
        if image is not None and not has_valid_image(result.data):
            yield f"[a malformed image: {image}, which cannot be shown]"
        elif image is not None:
            images += 1
            yield f"[image {images}: {image}, shown to the user]"
        elif text := get_readable_text(result):
            yield clean(text)
        elif kinds := [kind for kind in result.data if kind != "text/plain"]:
            yield f"[displayed: {', '.join(kinds)}]"


def get_readable_text(result: Result) -> str | None:
    """Return a result as text, or None if it can only be displayed.

    The text of IPython's own display objects is only a class name. Their source is more useful.
    """
    text = result.text
    if text is not None and text.startswith(_DISPLAY_OBJECT):
        text = None
    return next(filter(None, (text, result.markdown, result.latex)), None)


def _render_error(execution: Execution) -> str:
    if execution.error is None:
        return ""
    headline = f"{execution.error.name}: {execution.error.message}"
    trace = clean(execution.error.traceback).strip().lstrip("-\n")
    has_headline = trace.endswith(headline.strip()) or trace.rpartition("\n")[2].startswith(
        f"{execution.error.name}: "  # the message of a SyntaxError also names a file
    )
    return trace if has_headline else f"{trace}\n{headline}".strip()


def _render_files(files: tuple[FileInfo, ...]) -> str:
    if not files:
        return ""
    names = ", ".join(
        f"{redact(file.name)} ({file.size:,} bytes)" for file in files[:_MAX_LISTED_FILES]
    )
    more = f" and {len(files) - _MAX_LISTED_FILES} more" if len(files) > _MAX_LISTED_FILES else ""
    return f"[files created or changed: {clean(names)}{more}]"

"""Bounds of what a kernel sends: every message fits, and what was cut is counted.

Sent as source, standard library only. The host closes the connection to a kernel that sends a
message of more than 48 MiB, which costs the session. Code can make such a message by a value, a
display, an exception or a widget. So the kernel's own `Session.send` is replaced, by which all of
them leave. The reply of a run carries the counts of all that its code produced, because the
output channel may drop messages and the reply's channel does not.
"""

from __future__ import annotations

import json
from typing import Any

from cci_plugins.in_session.streams import format_gap

COUNTS_KEY = "cci_plugins"  # in the content of a reply
MAX_FORM_BYTES = 32 << 20  # of all forms of one display, as JSON
MAX_CUT_CHARACTERS = 1 << 20  # of a text that was cut, and of an exception's message
MAX_NOTES = 20
MAX_COUNTED_RUNS = 100
CUTTABLE_FORMS = ("text/plain", "text/markdown", "text/latex")
DISPLAY_MESSAGES = ("display_data", "update_display_data", "execute_result")
JSON_BYTES_OF_CHARACTER = 6  # at most
CONTAINER_BYTES = 64  # of an empty dict or list, and of an entry of a dict
USUAL_FORMS = 16  # of one display, whose entries cost nothing
VALUE_BYTES = 8  # of a number and of a place in a list


def cut_text(text: str, limit: int = MAX_CUT_CHARACTERS) -> str:
    """Cut a text to head and tail, with a line between them that counts the rest."""
    if len(text) <= limit:
        return text
    head = limit * 3 // 4
    return text[:head] + format_gap(len(text) - limit) + text[head - limit :]


def measure_json(value: Any) -> int:
    """Return the bytes of a value as JSON, or an upper bound of them."""
    if isinstance(value, bytes):
        return len(value) * 4 // 3 + 4
    if isinstance(value, str) and len(value) * JSON_BYTES_OF_CHARACTER < MAX_CUT_CHARACTERS:
        return len(value) * JSON_BYTES_OF_CHARACTER
    try:
        text = json.dumps(value, ensure_ascii=False, default=str)
    except (TypeError, ValueError, RecursionError):
        return len(repr(value))
    return len(text) if text.isascii() else len(text.encode("utf-8", "backslashreplace"))


def measure_forms(data: dict[str, Any]) -> int:
    """Return about how much memory the forms of a display take: texts, keys and containers."""
    size = CONTAINER_BYTES * max(len(data) - USUAL_FORMS, 0)
    return size + sum(len(str(kind)) + measure_value(value) for kind, value in data.items())


def measure_value(value: Any) -> int:
    """Return about how much memory a JSON value takes. A text counts by its characters."""
    size, waiting = 0, [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, str):
            size += len(item)
        elif isinstance(item, dict):
            size += CONTAINER_BYTES + sum(CONTAINER_BYTES + len(str(key)) for key in item)
            waiting += item.values()
        elif isinstance(item, (list, tuple)):
            size += CONTAINER_BYTES + VALUE_BYTES * len(item)
            waiting += item
        elif isinstance(item, int):
            size += VALUE_BYTES + item.bit_length() // 8
        else:
            size += VALUE_BYTES if item is None or isinstance(item, float) else len(repr(item))
    return size


def bound_forms(data: dict[str, Any], limit: int = MAX_FORM_BYTES) -> tuple[Any, list[str]]:
    """Return the forms of a display that fit, the small ones first, and notes about the others.

    Args:
        data: Its forms by MIME type.
        limit: Most bytes of all forms as JSON.
    """
    kept: dict[str, Any] = {}
    notes: list[str] = []
    sizes = {kind: measure_json(value) for kind, value in data.items()}
    for kind in sorted(sizes, key=sizes.__getitem__):
        value = data[kind]
        if sizes[kind] <= limit:
            kept[kind] = value
            limit -= sizes[kind]
            continue
        unit = f"{len(value):,} characters" if isinstance(value, str) else f"{sizes[kind]:,} bytes"
        if isinstance(value, str) and kind in CUTTABLE_FORMS:
            most = min(MAX_CUT_CHARACTERS, limit // JSON_BYTES_OF_CHARACTER)
            kept[kind] = cut_text(value, most)
            limit -= measure_json(kept[kind])
            notes.append(f"{str(kind)[:100]} of {unit} was cut to {most:,}")
        else:
            notes.append(f"{str(kind)[:100]} of {unit} was too large to keep")
    return {kind: kept[kind] for kind in data if kind in kept}, notes


def bound_traceback(lines: list[str]) -> list[str]:
    """Return the lines of a traceback, or one cut text if they are too long."""
    text = "\n".join(map(str, lines))
    return lines if len(text) <= MAX_CUT_CHARACTERS else [cut_text(text)]


def bound_value(value: Any) -> Any:
    """Return a JSON value whose texts are cut."""
    if isinstance(value, str):
        return cut_text(value)
    if isinstance(value, dict):
        return {key: bound_value(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [bound_value(item) for item in value]
    return value


class MessageBounds:
    """Bounds and counts of the messages of one kernel."""

    def __init__(self) -> None:
        self._counts: dict[Any, dict[str, Any]] = {}  # by the id of the request

    def get_counts(self, run: Any) -> dict[str, Any]:
        """Return the counts of a run, which the caller may change."""
        if run not in self._counts:
            while len(self._counts) >= MAX_COUNTED_RUNS:
                self._counts.pop(next(iter(self._counts)))
            self._counts[run] = {"stdout": 0, "stderr": 0, "displays": 0, "notes": []}
        return self._counts[run]

    def count_text(self, header: Any, name: str, text: str) -> None:
        """Count text of a stream, before any of it is dropped.

        Args:
            header: The header of the request that it belongs to.
            name: `stdout` or `stderr`.
            text: The text.
        """
        counts = self.get_counts(header.get("msg_id"))
        if name in counts:
            counts[name] += len(text)

    def bound(self, kind: str, content: Any, run: Any) -> Any:
        """Return the content of a message within its bounds."""
        if kind in {"stream", "status"} or not isinstance(content, dict):
            return content  # streams have bounds of their own
        if kind in DISPLAY_MESSAGES:
            return self._bound_display(content, run)
        content = {
            key: bound_traceback(value)
            if key == "traceback" and isinstance(value, list)
            else bound_value(value)
            for key, value in content.items()
        }
        if kind == "execute_reply":
            counts = self._counts.pop(run, None)
            return content if counts is None else {**content, COUNTS_KEY: counts}
        return content

    def refuses(self, kind: str, content: Any, buffers: Any, run: Any) -> bool:
        """Return whether a message of a widget is too large, and note it."""
        size = measure_json(content) + sum(memoryview(one).nbytes for one in buffers or ())
        if size > MAX_FORM_BYTES:
            self._add_note(run, f"a message of type {kind} was too large to send")
        return size > MAX_FORM_BYTES

    def _bound_display(self, content: dict[str, Any], run: Any) -> Any:
        counts = self.get_counts(run)
        counts["displays"] += 1
        data, notes = bound_forms(content.get("data") or {})
        for note in notes:
            self._add_note(run, note)
        metadata = content.get("metadata") or {}
        if measure_json(metadata) > MAX_CUT_CHARACTERS:
            metadata = {}
        return {**content, "data": data, "metadata": metadata}

    def _add_note(self, run: Any, note: str) -> None:
        notes = self.get_counts(run)["notes"]
        if len(notes) < MAX_NOTES:
            notes.append(note)


def bound_kernel_messages(session: Any) -> MessageBounds:
    """Bound what a kernel sends, and return the bounds, to which text of streams is reported.

    Args:
        session: The kernel's `Session` of `jupyter_client`.
    """
    bounds = MessageBounds()
    send = session.send

    def send_bounded(
        stream: Any,
        msg_or_type: Any,
        content: Any = None,
        parent: Any = None,
        *rest: Any,
        **options: Any,
    ) -> Any:
        message = msg_or_type
        if isinstance(message, dict):
            kind, content = message["header"]["msg_type"], message["content"]
            parent_header = message.get("parent_header") or {}
        else:
            kind, parent_header = message, (parent or {}).get("header") or parent or {}
        run = parent_header.get("msg_id")
        if kind.startswith("comm_") and bounds.refuses(kind, content, options.get("buffers"), run):
            return None
        content = bounds.bound(kind, content, run)
        if isinstance(message, dict):
            message = {**message, "content": content}
        return send(stream, message, content, parent, *rest, **options)

    session.send = send_bounded
    return bounds

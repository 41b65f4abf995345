"""An agent's reply: its text, the code it ran, and files in data URLs."""

from __future__ import annotations

import base64
import binascii
import json
import mimetypes
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .tool_names import RUN_PYTHON, RUN_SHELL, get_own_name

MCP_CALL, APPROVAL, MESSAGE = "mcp_call", "mcp_approval_request", "message"
_CODE_ARGUMENTS = ("pythonCode", "shellCommand", "execCommandAndArgs")
_DATA_URL = re.compile(
    r"data:(?P<type>[\w.+-]+/[\w.+-]+)(?:;[\w.+=-]+)*;base64,(?P<data>[A-Za-z0-9+/]+={0,2})"
)


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One call of the pool's tools.

    Attributes:
        tool: The tool's name.
        code: The Python code or the command that it ran. Empty for a launch.
        environment_id: The environment that it used or launched.
        output: The output that the model read.
        stdout: Standard output of the code, if the pool reports it separately.
        stderr: Standard error of the code, if the pool reports it separately.
        error: The reason of a failure, or None.
    """

    tool: str
    code: str
    environment_id: str
    output: str = field(repr=False)
    stdout: str = field(default="", repr=False)
    stderr: str = field(default="", repr=False)
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Annotation:
    """A reference in the agent's text.

    Attributes:
        kind: Foundry's name of the type, such as `url_citation` or `container_file_citation`.
        target: A URL, a file's id or its name.
        details: Everything that Foundry returned.
    """

    kind: str
    target: str
    details: Mapping[str, Any] = field(repr=False)


@dataclass(frozen=True, slots=True)
class DataFile:
    """A file from a data URL in a text.

    Attributes:
        name: A generated name, with the extension of its type.
        media_type: Its type.
        data: Its bytes.
    """

    name: str
    media_type: str
    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Reply:
    """The reply of an agent.

    Attributes:
        text: Its text.
        calls: Every call of the pool's tools, in order.
        annotations: References in the text.
        files: Files in data URLs of the text and of outputs. See `Environment` for other files.
        status: `completed`, or `incomplete` when the model had to stop.
        id: Foundry's id of the response, for the next turn.
    """

    text: str
    calls: tuple[ToolCall, ...] = ()
    annotations: tuple[Annotation, ...] = ()
    files: tuple[DataFile, ...] = ()
    status: str = "completed"
    id: str = ""

    def __str__(self) -> str:
        return self.text

    @property
    def environment_id(self) -> str | None:
        """The environment that the agent used last, or None if it ran nothing."""
        used = [call.environment_id for call in self.calls if call.environment_id]
        return used[-1] if used else None


def read_reply(responses: Sequence[Mapping[str, Any]]) -> Reply:
    """Combine the responses of one turn. The last one has the text."""
    items = [item for response in responses for item in _list_items(response)]
    last = responses[-1]
    contents = [part for item in _list_items(last) for part in _iter_texts(item)]
    text = "\n".join(str(part.get("text") or "") for part in contents)
    calls = tuple(_parse_call(item) for item in items if item.get("type") == MCP_CALL)
    return Reply(
        text=text,
        calls=calls,
        annotations=tuple(
            _parse_annotation(note) for part in contents for note in _list_annotations(part)
        ),
        files=tuple(_iter_files([*(call.stdout or call.output for call in calls), text])),
        status=str(last.get("status") or "completed"),
        id=str(last.get("id") or ""),
    )


def list_approval_requests(response: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the calls that wait for approval."""
    return [item for item in _list_items(response) if item.get("type") == APPROVAL]


def parse_arguments(item: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the arguments of a call, or none if the model did not write a JSON object."""
    value = _parse_json(item.get("arguments"))
    return value if isinstance(value, Mapping) else {}


def extract_code(arguments: Mapping[str, Any]) -> str:
    """Return the code or the command among a call's arguments."""
    for name in _CODE_ARGUMENTS:
        value = arguments.get(name)
        if isinstance(value, list):
            return " ".join(str(part) for part in value)
        if value:
            return str(value)
    return ""


def describe_call(tool: str, arguments: Mapping[str, Any]) -> str:
    """Return what an approver reads: the code, or the call of a tool that runs none."""
    code = extract_code(arguments)
    if code or get_own_name(tool) in {RUN_PYTHON, RUN_SHELL}:
        return code
    return f"{tool}({json.dumps(dict(arguments))})"


def _list_items(response: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    found = response.get("output")
    return [item for item in found if isinstance(item, Mapping)] if isinstance(found, list) else []


def _iter_texts(item: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    if item.get("type") == MESSAGE:
        for part in item.get("content") or []:
            if isinstance(part, Mapping) and part.get("type") == "output_text":
                yield part


def _list_annotations(part: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [note for note in part.get("annotations") or [] if isinstance(note, Mapping)]


def _parse_annotation(note: Mapping[str, Any]) -> Annotation:
    names = ("url", "file_id", "filename", "title")
    target = next((str(note[name]) for name in names if note.get(name)), "")
    return Annotation(str(note.get("type") or ""), target, dict(note))


def _parse_call(item: Mapping[str, Any]) -> ToolCall:
    arguments = parse_arguments(item)
    output = item.get("output")
    parsed = _parse_json(output)
    fields = parsed if isinstance(parsed, Mapping) else {}
    environment = arguments.get("environmentId") or fields.get("environmentId") or ""
    return ToolCall(
        tool=str(item.get("name") or ""),
        code=extract_code(arguments),
        environment_id=str(environment),
        output=str(output or ""),
        stdout=str(fields.get("stdout") or ""),
        stderr=str(fields.get("stderr") or ""),
        error=_format_error(item.get("error")),
    )


def _format_error(value: object) -> str | None:
    if isinstance(value, Mapping):
        value = value.get("message") or value.get("content") or json.dumps(dict(value))
    return None if not value else str(value)


def _iter_files(texts: Sequence[str]) -> Iterator[DataFile]:
    """Yield the files in the data URLs of texts, each once, without those that were cut."""
    seen: set[str] = set()
    for text in texts:
        for match in _DATA_URL.finditer(text):
            if match["data"] in seen:
                continue
            seen.add(match["data"])
            try:
                data = base64.b64decode(match["data"], validate=True)
            except binascii.Error:
                continue
            ending = mimetypes.guess_extension(match["type"]) or ".bin"
            yield DataFile(f"file-{len(seen)}{ending}", match["type"], data)


def _parse_json(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return None

"""The tools `list_files` and `read_file`: a session's files, within the model's budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from anyio import to_thread

from cci_plugins.common.file_names import strip_folder
from cci_plugins.common.limits import MIB
from cci_plugins.common.worker_lane import give_way
from cci_plugins.core.interpreter import AnyInterpreter
from cci_plugins.core.redacted_output import redact_in_lane
from cci_plugins.core.rendering import clean, clip
from cci_plugins.errors import FileTransferError, SessionFileNotFoundError
from cci_plugins.models import FileInfo
from cci_plugins.redaction import redact

from . import execute_code

LIST_NAME, READ_NAME = "list_files", "read_file"
LIST_DESCRIPTION = "List the files in the working directory of the sandbox, with their sizes."
READ_DESCRIPTION = (
    "Read a text file in the sandbox, as many lines as fit. "
    "For other files, and to work with what they contain, use execute_code."
)
FILE_DESCRIPTION = "Path of the file, relative to the working directory."
OFFSET_DESCRIPTION = "How many lines to skip."

_NAME_COST = 100  # of a name in characters: a short text takes time, too
_NAMES_IN_A_SLICE = 100
READ_BYTES = 4 * MIB  # a larger file is not downloaded to show a few thousand characters of it


@dataclass(frozen=True, slots=True)
class FilesReply:
    """The result of a call. As a string it is its text.

    Attributes:
        text: For the model, within its budget.
        files: For the application: the files of the call.
        failed: The call failed.
    """

    text: str
    files: tuple[FileInfo, ...] = ()
    failed: bool = False

    def __str__(self) -> str:
        return self.text


async def list_files(
    interpreter: AnyInterpreter | None, *, session_key: str | None = None
) -> FilesReply:
    """List a session's files. Nothing is raised but cancellation.

    Args:
        interpreter: Holds the session. None means `get_default_interpreter()`.
        session_key: The conversation. None means the current one of `use_session`.
    """
    try:
        chosen = execute_code.get_interpreter(interpreter)
        files = tuple(await chosen.session(session_key).files.list())
    except Exception as error:  # noqa: BLE001 - nothing foreign reaches a framework
        return _build_failure(LIST_NAME, error)
    budget = chosen.limits.output_characters
    size = sum(len(file.name) + _NAME_COST for file in files)
    return FilesReply(await redact_in_lane(size, lambda: _render_list(files, budget)), files)


async def read_file(
    interpreter: AnyInterpreter | None,
    name: str,
    *,
    offset: int = 0,
    session_key: str | None = None,
) -> FilesReply:
    """Read a session's text file. Nothing is raised but cancellation.

    Args:
        interpreter: Holds the session. None means `get_default_interpreter()`.
        name: Path in the session's working directory. A leading `/mnt/data/` is ignored.
        offset: Number of lines to skip.
        session_key: The conversation. None means the current one of `use_session`.
    """
    try:
        chosen = execute_code.get_interpreter(interpreter)
        files = chosen.session(session_key).files
        name = strip_folder(name)
        info = _find(await files.list(), name)
        if info.size > READ_BYTES:
            return _build_unreadable(info, "too large to be shown")
        content = await files.download(name)
    except Exception as error:  # noqa: BLE001 - the same
        return _build_failure(READ_NAME, error)
    budget = chosen.limits.output_characters
    return await to_thread.run_sync(_render_file, info, content, max(offset, 0), budget)


def _render_list(files: Sequence[FileInfo], budget: int) -> str:
    lines = []
    for number, file in enumerate(files, 1):
        lines.append(f"{clean(redact(file.name))} ({file.size:,} bytes)")
        if number % _NAMES_IN_A_SLICE == 0:
            give_way()
    return _fit_lines(lines, 0, budget, "[{left:,} more files]") or "(no files)"


def _find(files: Sequence[FileInfo], name: str) -> FileInfo:
    for file in files:
        if file.name == name:
            return file
    raise SessionFileNotFoundError(f"the session has no file {name[:200]!r}")


def _render_file(info: FileInfo, content: bytes, offset: int, budget: int) -> FilesReply:
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return _build_unreadable(info, "not text")
    if "\0" in text:
        return _build_unreadable(info, "not text")
    if not text:
        return FilesReply("(the file is empty)", (info,))
    lines = clean(redact(text)).removesuffix("\n").split("\n")
    if offset >= len(lines):
        return FilesReply(f"(the file has {len(lines):,} lines)", (info,), failed=True)
    more = f"[lines {{next}} to {len(lines):,} left out; read on with offset={{skipped}}]"
    return FilesReply(_fit_lines(lines, offset, budget, more), (info,))


def _fit_lines(lines: list[str], offset: int, budget: int, more: str) -> str:
    """Join as many lines as fit. If some are left out, the last line is `more`, filled in."""
    remaining = max(budget - 2 * len(more), 1)
    selected: list[str] = []
    for line in lines[offset:]:
        if len(line) + 1 > remaining:
            break
        remaining -= len(line) + 1
        selected.append(line)
    selected = selected or [clip(line, remaining) for line in lines[offset : offset + 1]]
    skipped = offset + len(selected)
    if skipped < len(lines):
        selected.append(more.format(left=len(lines) - skipped, next=skipped + 1, skipped=skipped))
    return "\n".join(selected)


def _build_unreadable(info: FileInfo, what: str) -> FilesReply:
    text = f"{clean(redact(info.name))} is {what}: {info.media_type}, {info.size:,} bytes; "
    return FilesReply(f"{text}open it with {execute_code.NAME}", (info,), failed=True)


def _build_failure(name: str, error: Exception) -> FilesReply:
    text = execute_code.log_failure(name, error)
    shown = f"{redact(str(error))}." if isinstance(error, FileTransferError) else text
    return FilesReply(shown, failed=True)

"""Files of a session by absolute paths, also outside of its folder.

A file below the session's folder moves by its own name. Any other file moves through a temporary
name in the folder, between which and its path the session copies it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from secrets import token_hex
from typing import Any

from cci_plugins.common.file_names import normalize_new_name, validate_name
from cci_plugins.core.session import Session
from cci_plugins.errors import CodeInterpreterError, SessionFileNotFoundError, UnsafeNameError
from cci_plugins.redaction import redact

from .call import call_session

CALL_TIMEOUT = timedelta(seconds=60)

NotesHandler = Callable[[tuple[str, ...]], object]
"""Called with the notes of a call, such as that the session was lost."""


@dataclass(slots=True)
class FileResult:
    """Result for one file.

    Attributes:
        path: The requested path.
        content: What was read.
        error: `file_not_found`, `is_directory`, `permission_denied`, `invalid_path`, or a sentence.
    """

    path: str
    content: bytes | None = None
    error: str | None = None


async def write_files(
    session: Session, files: Sequence[tuple[str, bytes]], on_notes: NotesHandler
) -> list[FileResult]:
    """Write files and create the folders above them. One that fails does not stop the others.

    Args:
        session: The session.
        files: Absolute paths and their contents.
        on_notes: Called with the notes of each call.

    Raises:
        CodeInterpreterError: As `Session.run_code`.
    """
    results = [FileResult(path) for path, _ in files]
    contents = [content for _, content in files]
    names = await _find_names(session, "find_targets", results, on_notes)
    staged: list[tuple[str, FileResult]] = []
    try:
        for file, content, name in zip(results, contents, names, strict=True):
            if file.error is None:
                direct = _get_direct_name(normalize_new_name, name)
                with _record_error(file):
                    await session.files.upload(content, name=direct or _stage(staged, file))
        await _copy(
            session, "place", [(name, f.path, f) for name, f in staged if not f.error], on_notes
        )
    finally:
        await _unstage(session, staged)
    return results


async def read_files(
    session: Session, paths: Sequence[str], on_notes: NotesHandler
) -> list[FileResult]:
    """Read files. One that fails does not stop the others.

    Args:
        session: The session.
        paths: Absolute paths.
        on_notes: Called with the notes of each call.

    Raises:
        CodeInterpreterError: As `Session.run_code`.
    """
    results = [FileResult(path) for path in paths]
    names = [
        _get_direct_name(validate_name, name)
        for name in await _find_names(session, "find_sources", results, on_notes)
    ]
    staged: list[tuple[str, FileResult]] = []
    try:
        for index, file in enumerate(results):
            if file.error is None and names[index] is None:
                names[index] = _stage(staged, file)
        await _copy(session, "collect", [(f.path, name, f) for name, f in staged], on_notes)
        for file, name in zip(results, names, strict=True):
            if file.error is None and name is not None:
                with _record_error(file):
                    file.content = await session.files.download(name)
    finally:
        await _unstage(session, staged)
    return results


async def _find_names(
    session: Session, verb: str, files: list[FileResult], on_notes: NotesHandler
) -> list[str | None]:
    """Return each path's name below the session's folder, or None. Record errors on the files."""
    requested = [file for file in files if _check_absolute(file)]
    job = {"verb": verb, "paths": [file.path for file in requested]}
    found = await _request_results(session, job, requested, on_notes)
    names = {id(file): one.get("name") for file, one in zip(requested, found, strict=True)}
    return [name if isinstance(name := names.get(id(file)), str) else None for file in files]


def _check_absolute(file: FileResult) -> bool:
    if not file.path.startswith("/") or "\0" in file.path:
        file.error = "invalid_path"
    return file.error is None


async def _copy(
    session: Session, verb: str, copies: list[tuple[str, str, FileResult]], on_notes: NotesHandler
) -> None:
    """Copy files within the session, from the first name to the second."""
    job = {"verb": verb, "pairs": [(source, target) for source, target, _ in copies]}
    await _request_results(session, job, [file for _, _, file in copies], on_notes)


async def _request_results(
    session: Session, job: dict[str, Any], files: list[FileResult], on_notes: NotesHandler
) -> list[dict[str, Any]]:
    """Return the session's result for each file, and record its errors."""
    if not files:
        return []
    title = f"{job['verb']} {', '.join(file.path for file in files)}"
    response = await call_session(session, title, job, CALL_TIMEOUT)
    on_notes(response.notes)
    found = response.get_path_results(len(files))
    for file, one in zip(files, found, strict=True):
        if one.get("error"):
            file.error = str(one["error"])
    return found


def _get_direct_name(check: Callable[[str], str], name: str | None) -> str | None:
    """Return the name if a session's file may have it unchanged, or None."""
    try:
        return name if name is not None and check(name) == name else None
    except UnsafeNameError:
        return None


def _stage(staged: list[tuple[str, FileResult]], file: FileResult) -> str:
    name = f".cci-{token_hex(8)}"
    staged.append((name, file))
    return name


async def _unstage(session: Session, staged: list[tuple[str, FileResult]]) -> None:
    for name, _ in staged:
        with suppress(CodeInterpreterError):
            await session.files.remove(name)


@contextmanager
def _record_error(file: FileResult) -> Iterator[None]:
    """Record a failure on the file instead of raising it."""
    try:
        yield
    except SessionFileNotFoundError:
        file.error = "file_not_found"
    except CodeInterpreterError as error:
        file.error = redact(str(error))

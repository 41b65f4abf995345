"""Files of a session by absolute paths, also outside of its folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from secrets import token_hex
from typing import Any

from cci_plugins.common.file_names import new_name, safe_name
from cci_plugins.core.session import Session
from cci_plugins.errors import CodeInterpreterError, SessionFileNotFoundError, UnsafeNameError

from .call import ask

CALL = timedelta(seconds=60)

Told = Callable[[tuple[str, ...]], object]
"""Told what happened to the session."""


@dataclass(slots=True)
class Moved:
    """What became of one file.

    Attributes:
        path: As it was asked for.
        content: What was read.
        error: `file_not_found`, `is_directory`, `permission_denied`, `invalid_path`, or a sentence.
    """

    path: str
    content: bytes | None = None
    error: str | None = None


async def write_files(
    session: Session, files: Sequence[tuple[str, bytes]], told: Told
) -> list[Moved]:
    """Write files, making the folders above them; one that fails does not stop the others.

    Args:
        session: Where to.
        files: Absolute paths and what goes there.
        told: Told of a loss, when there was one.

    Raises:
        CodeInterpreterError: As `Session.run_code`.
    """
    moved = [Moved(path) for path, _ in files]
    contents = [content for _, content in files]
    names = await _names(session, "find_targets", moved, told)
    staged: list[tuple[str, Moved]] = []
    try:
        for file, content, name in zip(moved, contents, names, strict=True):
            if file.error is None:
                direct = _direct(new_name, name)
                with _told_on(file):
                    await session.files.upload(content, name=direct or _stage(staged, file))
        await _copy(
            session, "place", [(name, f.path, f) for name, f in staged if not f.error], told
        )
    finally:
        await _unstage(session, staged)
    return moved


async def read_files(session: Session, paths: Sequence[str], told: Told) -> list[Moved]:
    """Read files; one that fails does not stop the others.

    Args:
        session: Where from.
        paths: Absolute paths.
        told: Told of a loss, when there was one.

    Raises:
        CodeInterpreterError: As `Session.run_code`.
    """
    moved = [Moved(path) for path in paths]
    names = [
        _direct(safe_name, name) for name in await _names(session, "find_sources", moved, told)
    ]
    staged: list[tuple[str, Moved]] = []
    try:
        for index, file in enumerate(moved):
            if file.error is None and names[index] is None:
                names[index] = _stage(staged, file)
        await _copy(session, "collect", [(f.path, name, f) for name, f in staged], told)
        for file, name in zip(moved, names, strict=True):
            if file.error is None and name is not None:
                with _told_on(file):
                    file.content = await session.files.download(name)
    finally:
        await _unstage(session, staged)
    return moved


async def _names(session: Session, verb: str, files: list[Moved], told: Told) -> list[str | None]:
    """Each path's name below the session's folder, if it is there; errors go to the files."""
    asked = [file for file in files if _absolute(file)]
    job = {"verb": verb, "paths": [file.path for file in asked]}
    found = await _found(session, job, asked, told)
    names = {id(file): one.get("name") for file, one in zip(asked, found, strict=True)}
    return [name if isinstance(name := names.get(id(file)), str) else None for file in files]


def _absolute(file: Moved) -> bool:
    if not file.path.startswith("/") or "\0" in file.path:
        file.error = "invalid_path"
    return file.error is None


async def _copy(
    session: Session, verb: str, copies: list[tuple[str, str, Moved]], told: Told
) -> None:
    """Copy within the session, from the first to the second."""
    job = {"verb": verb, "pairs": [(source, target) for source, target, _ in copies]}
    await _found(session, job, [file for _, _, file in copies], told)


async def _found(
    session: Session, job: dict[str, Any], files: list[Moved], told: Told
) -> list[dict[str, Any]]:
    """What the session says about each file; it is not asked about none."""
    if not files:
        return []
    title = f"{job['verb']} {', '.join(file.path for file in files)}"
    answer = await ask(session, title, job, CALL)
    told(answer.notes)
    found = answer.found(len(files))
    for file, one in zip(files, found, strict=True):
        if one.get("error"):
            file.error = str(one["error"])
    return found


def _direct(check: Callable[[str], str], name: str | None) -> str | None:
    """The name, if the session's files may have it as it is."""
    try:
        return name if name is not None and check(name) == name else None
    except UnsafeNameError:
        return None


def _stage(staged: list[tuple[str, Moved]], file: Moved) -> str:
    name = f".cci-{token_hex(8)}"
    staged.append((name, file))
    return name


async def _unstage(session: Session, staged: list[tuple[str, Moved]]) -> None:
    for name, _ in staged:
        with suppress(CodeInterpreterError):
            await session.files.remove(name)


@contextmanager
def _told_on(file: Moved) -> Iterator[None]:
    """Have a failure told on the file."""
    try:
        yield
    except SessionFileNotFoundError:
        file.error = "file_not_found"
    except CodeInterpreterError as error:
        file.error = str(error)

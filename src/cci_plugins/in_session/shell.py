"""Shell program: runs a command in the session, and finds and copies files by absolute paths."""

from __future__ import annotations

import codecs
import errno
import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from cci_plugins.in_session.program_support import FOLDER, find_session_folder, write_answer
from cci_plugins.in_session.streams import StreamBuffer

DRAIN_SECONDS = 0.5  # for the last output, once the shell has ended
CHUNK_BYTES = 64 * 1024
NO_SHELL = "this session has no POSIX shell; it runs Python only\n"
NOT_FOUND, NOT_STARTED, TIMED_OUT = 127, 126, 124  # as of shells and timeout(1)

_ERRORS = {
    errno.ENOENT: "file_not_found",
    errno.EISDIR: "is_directory",
    errno.EACCES: "permission_denied",
    errno.EPERM: "permission_denied",
    errno.EROFS: "permission_denied",
    errno.ENOTDIR: "invalid_path",
    errno.ENAMETOOLONG: "invalid_path",
    errno.EINVAL: "invalid_path",
    errno.ELOOP: "invalid_path",
}


def main(shell: Any, marker: str, job: dict[str, Any]) -> None:
    """Answer one call.

    Args:
        shell: IPython's shell.
        marker: The marker of the answer.
        job: `verb`, the name of a function below, and what it needs.
    """
    fields, text = _VERBS[job["verb"]](find_session_folder(shell), job)
    write_answer(marker, fields, text)


def run(folder: Path, job: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """Run a shell command in a process group, which is killed after `seconds`."""
    shell = shutil.which("bash") or shutil.which("sh")
    if os.name != "posix" or shell is None:
        return {"exit": NOT_FOUND}, NO_SHELL
    try:
        process = subprocess.Popen(  # noqa: S603 - this program runs commands
            [shell, "-c", job["command"]],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        return {"exit": NOT_STARTED}, f"the command could not be started: {error}\n"
    output = _OutputReader(process.stdout, job["characters"])  # type: ignore[arg-type]  # a pipe, as asked for above
    try:
        code = process.wait(job["seconds"])
    except subprocess.TimeoutExpired:
        _kill(process)
        code = TIMED_OUT
    except BaseException:  # an interrupt
        _kill(process)
        raise
    text, dropped = output.finish()
    # Shells add a signal's number to 128. Popen returns it as a negative number.
    return {"exit": 128 - code if code < 0 else code, "dropped": dropped}, text


def _kill(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


class _OutputReader:
    """Reader of a command's output, within a limit.

    It drains the pipe until every process has closed it. So what the command left running can go
    on writing after `finish`, and that output is dropped.
    """

    def __init__(self, pipe: IO[bytes], characters: int) -> None:
        self._pipe = pipe
        self._buffer = StreamBuffer(characters)
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        self._lock = threading.Lock()
        self._closed = False
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        with self._pipe:
            while chunk := os.read(self._pipe.fileno(), CHUNK_BYTES):
                with self._lock:
                    if not self._closed:
                        self._buffer.add(self._decode(chunk))

    def finish(self) -> tuple[str, int]:
        """Return the text, and the number of characters that were dropped."""
        self._reader.join(DRAIN_SECONDS)
        with self._lock:
            self._closed = True
            self._buffer.add(self._decode(b"", True))  # noqa: FBT003 - final
            return self._buffer.get_text(), self._buffer.dropped_characters


def find_path(folder: Path, path: str) -> Path:
    """Return a path, below the session's folder where `/mnt/data` is only a name for it.

    Args:
        folder: The session's folder.
        path: An absolute path.
    """
    found = Path(path)
    is_named = found == FOLDER or FOLDER in found.parents
    return folder / found.relative_to(FOLDER) if is_named and folder != FOLDER else found


def find_targets(folder: Path, job: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """Find where files would be written, and create the folders above them."""
    return {
        "found": [
            _run_operation(_prepare_target, folder, find_path(folder, path))
            for path in job["paths"]
        ]
    }, ""


def _prepare_target(folder: Path, path: Path) -> dict[str, Any]:
    path = path.resolve()
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, "")
    path.parent.mkdir(parents=True, exist_ok=True)
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise PermissionError(errno.EACCES, "")
    return _describe_path(folder, path)


def place(folder: Path, job: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """Copy files of the folder to their paths, each whole or not at all."""
    return {
        "found": [
            _run_operation(_place, folder / name, find_path(folder, path))
            for name, path in job["pairs"]
        ]
    }, ""


def _place(source: Path, path: Path) -> dict[str, Any]:
    path = path.resolve()
    part = path.with_name(source.name)
    try:
        if part != source:  # else the source lies in the target's folder already
            shutil.copyfile(source, part)
        if path.exists():
            shutil.copymode(path, part)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return {}


def find_sources(folder: Path, job: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """Find files to read."""
    return {
        "found": [
            _run_operation(_check_source, folder, find_path(folder, path)) for path in job["paths"]
        ]
    }, ""


def _check_source(folder: Path, path: Path) -> dict[str, Any]:
    path = path.resolve(strict=True)
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, "")
    if not path.is_file():
        raise OSError(errno.EINVAL, "")
    with path.open("rb"):
        return _describe_path(folder, path)


def collect(folder: Path, job: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """Copy files into the folder, so that the client can download them."""
    return {
        "found": [
            _run_operation(_collect, find_path(folder, path), folder / name)
            for path, name in job["pairs"]
        ]
    }, ""


def _collect(path: Path, target: Path) -> dict[str, Any]:
    try:
        shutil.copyfile(path, target)
    except BaseException:
        target.unlink(missing_ok=True)
        raise
    return {}


def _describe_path(folder: Path, path: Path) -> dict[str, Any]:
    """Return a path's name below the folder, or None for a path outside."""
    inside = path.is_relative_to(folder)
    return {"name": path.relative_to(folder).as_posix() if inside else None}


def _run_operation(
    operation: Callable[[Path, Path], dict[str, Any]], one: Path, two: Path
) -> dict[str, Any]:
    try:
        return operation(one, two)
    except OSError as error:
        return {"error": _ERRORS.get(error.errno or 0) or error.strerror or "unknown error"}
    except (RuntimeError, ValueError):  # a loop of links, a null character
        return {"error": "invalid_path"}


_VERBS: dict[str, Callable[[Path, dict[str, Any]], tuple[dict[str, Any], str]]] = {
    "run": run,
    "find_targets": find_targets,
    "place": place,
    "find_sources": find_sources,
    "collect": collect,
}

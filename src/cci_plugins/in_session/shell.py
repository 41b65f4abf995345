"""What a session is told to run a command or to find a path; standard library only."""

from __future__ import annotations

import codecs
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from cci_plugins.in_session.streams import StreamBuffer

FOLDER = Path("/mnt/data")
DRAIN_SECONDS = 0.5  # for the last output, once the shell has ended
CHUNK_BYTES = 64 * 1024
NO_SHELL = "this session has no POSIX shell; it runs Python only\n"
NOT_FOUND, NOT_STARTED, TIMED_OUT = 127, 126, 124  # as shells and timeout(1) say it

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
    """Do a job in the session's folder; print what came of it between marks."""
    folder = _find_folder(shell)
    fields, text = _VERBS[job["verb"]](folder, job)
    sys.stdout.write(f"{marker}{json.dumps(fields)}{marker}{text}{marker}")
    sys.stdout.flush()


def _find_folder(shell: Any) -> Path:
    """Where the session's files lie; the code may have changed its working directory since."""
    usual = FOLDER.is_dir() and os.access(FOLDER, os.W_OK)
    return (FOLDER if usual else Path(getattr(shell, "starting_dir", "."))).resolve()


def run(folder: Path, job: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """Run a command by the shell, in a process group that ends with the time."""
    shell = shutil.which("bash") or shutil.which("sh")
    if os.name != "posix" or shell is None:
        return {"exit": NOT_FOUND}, NO_SHELL
    try:
        process = subprocess.Popen(  # noqa: S603 - running what is asked is its job
            [shell, "-c", job["command"]],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        return {"exit": NOT_STARTED}, f"the command could not be started: {error}\n"
    output = _OutputReader(process.stdout, job["characters"])  # type: ignore[arg-type]  # it is a pipe
    try:
        code = process.wait(job["seconds"])
    except subprocess.TimeoutExpired:
        _kill(process)
        code = TIMED_OUT
    except BaseException:  # an interrupt
        _kill(process)
        raise
    text, dropped = output.finish()
    # a signal's number as shells tell it
    return {"exit": 128 - code if code < 0 else code, "dropped": dropped}, text


def _kill(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


class _OutputReader:
    """What a command puts out, bounded. What it left running may go on writing, unheard."""

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
        """The text, and how many characters of it are missing."""
        self._reader.join(DRAIN_SECONDS)
        with self._lock:
            self._closed = True
            self._buffer.add(self._decode(b"", True))  # noqa: FBT003 - final
            return self._buffer.get_text(), self._buffer.dropped_characters


def find_targets(folder: Path, job: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """Where files to come would lie; the folders above them are made."""
    return {
        "found": [_run_operation(_prepare_target, folder, Path(path)) for path in job["paths"]]
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
    """Put files of the folder where they belong, each whole or not at all."""
    return {
        "found": [_run_operation(_place, folder / name, Path(path)) for name, path in job["pairs"]]
    }, ""


def _place(source: Path, path: Path) -> dict[str, Any]:
    path = path.resolve()
    part = path.with_name(source.name)
    try:
        shutil.copyfile(source, part)
        if path.exists():
            shutil.copymode(path, part)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return {}


def find_sources(folder: Path, job: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """Where files to fetch lie."""
    return {
        "found": [_run_operation(_check_source, folder, Path(path)) for path in job["paths"]]
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
    """Copy files into the folder, from where they can be read."""
    return {
        "found": [
            _run_operation(_collect, Path(path), folder / name) for path, name in job["pairs"]
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
    """A path's name below the folder, if it is there."""
    inside = path.is_relative_to(folder)
    return {"name": path.relative_to(folder).as_posix() if inside else None}


def _run_operation(
    operation: Callable[[Path, Path], dict[str, Any]], one: Path, two: Path
) -> dict[str, Any]:
    try:
        return operation(one, two)
    except OSError as error:
        return {"error": _ERRORS.get(error.errno or 0) or error.strerror or "it failed"}
    except (RuntimeError, ValueError):  # a loop of links, a null character
        return {"error": "invalid_path"}


_VERBS: dict[str, Callable[[Path, dict[str, Any]], tuple[dict[str, Any], str]]] = {
    "run": run,
    "find_targets": find_targets,
    "place": place,
    "find_sources": find_sources,
    "collect": collect,
}

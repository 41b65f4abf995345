"""Refusals of the operating system: which are a shortage that passes, and what to do about each."""

from __future__ import annotations

import errno
import tempfile

_NO_FOLDER = {errno.ENOENT, errno.EACCES, errno.EROFS, errno.ENOTDIR}
_FULL = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}
_HINTS = {
    errno.EMFILE: "close what this application no longer needs, or raise its limit of open files "
    "(ulimit -n)",
    errno.ENFILE: "this whole machine has no open files left: end programs, or raise fs.file-max",
    errno.EAGAIN: "end sessions, or raise the limit of processes (ulimit -u, or pids of the "
    "container)",
    errno.ENOMEM: "end sessions or other programs, because this machine has no memory left",
}
_WORDS = {  # of programs that run without a locale
    "Too many open files in system": errno.ENFILE,
    "Too many open files": errno.EMFILE,
    "Resource temporarily unavailable": errno.EAGAIN,
    "Cannot allocate memory": errno.ENOMEM,
}
NO_THREAD = "can't start new thread"


def is_shortage(error: BaseException) -> bool:
    """Return whether the system has run out of something that may be free again later."""
    if isinstance(error, OSError):
        return error.errno in _HINTS or error.errno in _FULL
    return is_thread_refused(error)


def is_thread_refused(error: BaseException) -> bool:
    """Return whether the system refused a thread, which Python reports by a text only."""
    return isinstance(error, RuntimeError) and NO_THREAD in str(error)


def find_hint(error: BaseException) -> str | None:
    """Return the next step after a refusal of the system, or None if it is not known."""
    if not isinstance(error, OSError):
        return _HINTS[errno.EAGAIN] if is_thread_refused(error) else None
    if error.errno in _FULL:
        return f"free space in {_find_temporary_folder()}, or set TMPDIR to another folder"
    if error.errno in _NO_FOLDER:
        return "set TMPDIR to a folder that exists and that this user can write to"
    return _HINTS.get(error.errno or 0)


def find_hint_in(text: str) -> str | None:
    """Return the next step after a shortage that a program reported, or None if it was another."""
    found = (number for words, number in _WORDS.items() if words in text)
    return next((_HINTS[number] for number in found), None)


def _find_temporary_folder() -> str:
    try:
        return tempfile.gettempdir()
    except OSError:  # none can be written to
        return "the folder for temporary files"

"""Helpers of every program in a session: its folder and the form of its answer.

`marked_call` describes the form and parses it on the client.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

FOLDER = Path("/mnt/data")
WORKING_DIRECTORY_LINK = "/proc/self/cwd"  # what `/mnt/data` leads to in our image


def find_session_folder(shell: Any) -> Path:
    """Return the folder of the session's files. User code may have changed the working directory.

    It is `/mnt/data`, or the folder that our kernel has for this session alone. Where neither can
    be used, a folder is made. It is never one that was there before, since wiping a session
    empties its folder.

    Args:
        shell: IPython's shell, which keeps the path of a folder that was made.
    """
    if can_use_usual_folder():
        return FOLDER.resolve()
    if getattr(shell, "cci_folder", None) is None:
        try:
            shell.cci_folder = tempfile.mkdtemp(prefix="cci-session-")
        except OSError:  # nothing can be written here
            return Path(getattr(shell, "starting_dir", ".")).resolve()
    return Path(shell.cci_folder).resolve()


def is_own_folder(shell: Any, path: Path) -> bool:
    """Return whether a session's folder is `/mnt/data` or was made for it, so may be emptied."""
    if can_use_usual_folder():
        return path == FOLDER.resolve()
    made = getattr(shell, "cci_folder", None)
    return made is not None and path == Path(made).resolve()


def can_use_usual_folder() -> bool:
    """Return whether `/mnt/data` is a folder itself, and may be written to.

    A link is someone else's folder, also one on the way to it. In our image it leads to the folder
    that the code works in.
    """
    is_itself = FOLDER.is_dir() and FOLDER.resolve() == FOLDER
    return is_itself and os.access(FOLDER, os.W_OK | os.X_OK)


def write_progress(marker: str, done: int) -> None:
    """Report the bytes that were moved so far."""
    sys.stdout.write(f"{marker}{done}\n")
    sys.stdout.flush()


def write_answer(
    marker: str, fields: dict[str, Any], text: str = "", *, stream: Any = None
) -> None:
    """Send the answer of a call, to `sys.stdout` if `stream` is None."""
    output = sys.stdout if stream is None else stream
    # One write, so that no other thread prints into the answer.
    output.write(f"{marker}{json.dumps(fields)}\n{text}\n{marker}")
    output.flush()

"""Helpers of every program in a session: its folder and the form of its answer.

`marked_call` describes the form and parses it on the client.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

FOLDER = Path("/mnt/data")
WORKING_DIRECTORY_LINK = "/proc/self/cwd"  # what `/mnt/data` leads to in our image


def find_session_folder(shell: Any) -> Path:
    """Return the folder of the session's files. User code may have changed the working directory.

    Args:
        shell: IPython's shell.
    """
    is_usual = FOLDER.is_dir() and os.access(FOLDER, os.W_OK) and not _is_working_directory(FOLDER)
    return (FOLDER if is_usual else Path(getattr(shell, "starting_dir", "."))).resolve()


def _is_working_directory(path: Path) -> bool:
    """Return whether a path leads to the folder that the code works in, which it may change."""
    return path.is_symlink() and os.readlink(path) == WORKING_DIRECTORY_LINK  # noqa: PTH115 - as text


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

"""Next steps after a run of `cci run`: files to download, and a file to upload."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

from rich.filesize import decimal

from cci_plugins.models import ErrorInfo, Execution, FileInfo

from .saving import is_hidden, is_savable, matches

_MAX_NAMES = 5
_MAX_PATTERNS = 3
_QUOTED = re.compile(r"""(['"])(.+?)\1""")
_BARE = re.compile(r"[^\s'\":,;()<>]+")


def suggest_download(executions: Iterable[Execution], patterns: Sequence[str]) -> str | None:
    """Return the files that runs made and how to get them. Return None if there is nothing to add.

    Args:
        executions: The runs, in order.
        patterns: Patterns of the files that are downloaded anyway.
    """
    files = {file.name: file for execution in executions for file in execution.files}
    left = [
        file
        for file in files.values()
        if is_savable(file.name)
        and not is_hidden(file.name)
        and not any(matches(file.name, pattern) for pattern in patterns)
    ]
    if not left:
        return None
    names = ", ".join(map(_describe, left[:_MAX_NAMES]))
    if more := len(left) - _MAX_NAMES if len(left) > _MAX_NAMES else 0:
        names += f" and {more} more"
    return f"files in the session: {names}. To save them here, add: {_build_options(left)}"


def suggest_upload(error: ErrorInfo | None, folders: Sequence[Path]) -> str | None:
    """Return how to upload the file that the code did not find. Return None if none is here.

    Args:
        error: How the run failed, or None.
        folders: Folders of this machine in which the file may be.
    """
    if error is None or not ("File" in error.name or "IO" in error.name or error.name == "OSError"):
        return None
    for name in _find_names(error.message):
        for folder in folders:
            path = folder / name
            if _is_file(path):
                step = f"the session has no {name!r}, but this machine has. Add: --upload {path}"
                leaf = path.name
                return step if name == leaf else f"{step}, and open it as {leaf!r}"
    return None


def _describe(file: FileInfo) -> str:
    return f"{file.name} ({decimal(file.size)})"


def _build_options(files: list[FileInfo]) -> str:
    suffixes = dict.fromkeys(PurePosixPath(file.name).suffix or file.name for file in files)
    if len(suffixes) > _MAX_PATTERNS:
        return "--download '*'"
    return " ".join(
        f"--download '*{suffix}'" if suffix.startswith(".") else f"--download {suffix!r}"
        for suffix in suffixes
    )


def _find_names(message: str) -> Iterable[str]:
    """Yield what may be a file's name in an error's message, quoted texts first."""
    yield from (match[2] for match in _QUOTED.finditer(message))
    yield from _BARE.findall(message)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # not a path, such as a text with a null character
        return False

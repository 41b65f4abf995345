"""Texts for a model whose session has another folder than `/mnt/data`."""

from __future__ import annotations

from dataclasses import replace

from cci_plugins.models import Execution

from .base import DATA_FOLDER, Capabilities

_SCANNED_CHARACTERS = 20_000  # of the end of each text
_MISSING_FILE_ERRORS = frozenset({"FileNotFoundError", "PermissionError", "OSError"})
_WAY = "use relative paths, or os.environ['SESSION_FOLDER']"


def describe_folder(capabilities: Capabilities) -> str:
    """Return a sentence for the tool's description, empty where the folder is `/mnt/data`."""
    return "" if capabilities.folder == DATA_FOLDER else f"There is no {DATA_FOLDER} here: {_WAY}."


def add_folder_note(execution: Execution, folder: str) -> Execution:
    """Return the execution, with a note if the code missed `/mnt/data`.

    Args:
        execution: The outcome of a run.
        folder: Path of the session's files, as `Capabilities.folder` has it.
    """
    if folder == DATA_FOLDER or not _misses_folder(execution):
        return execution
    note = f"{DATA_FOLDER} does not exist in this session: {_WAY}"
    return replace(execution, notes=(*execution.notes, note))


def _misses_folder(execution: Execution) -> bool:
    error = execution.error
    if error is not None and error.name in _MISSING_FILE_ERRORS and DATA_FOLDER in error.message:
        return True
    end = execution.stderr[-_SCANNED_CHARACTERS:]
    return DATA_FOLDER in end and "No such file or directory" in end

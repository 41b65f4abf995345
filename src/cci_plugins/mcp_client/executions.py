"""An execution as JSON: how our server tells our client all of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, get_args

from cci_plugins.errors import ProtocolError
from cci_plugins.models import ErrorInfo, Execution, ExecutionStatus, FileInfo, Result, SessionState

META_KEY = "cci_plugins/execution"
SIGNED_KEY = "cci_plugins/signed_environments"  # of a launch tool: no other ids are taken
INSTANCE_KEY = "cci_plugins/instance"  # in a request: run only in this instance of the session


def dump_execution(execution: Execution) -> dict[str, Any]:
    """Write an execution, but for its session identifier, which the caller has."""
    error = execution.error
    return {
        "stdout": execution.stdout,
        "stderr": execution.stderr,
        "results": [{"data": dict(r.data), "isMain": r.is_main} for r in execution.results],
        "error": None
        if error is None
        else {"name": error.name, "message": error.message, "traceback": error.traceback},
        "files": [_dump_file(file) for file in execution.files],
        "instance": execution.instance,
        "status": execution.status,
        "state": execution.state,
        "duration": execution.duration.total_seconds(),
        "isolation": execution.isolation,
        "droppedCharacters": execution.dropped_characters,
        "notes": list(execution.notes),
    }


def load_execution(value: object, session_id: str) -> Execution:
    """Read an execution back.

    Raises:
        ProtocolError: The value was not written by `dump_execution`.
    """
    try:
        return replace(_load(value), session_id=session_id)
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
        raise ProtocolError("the pool described an execution in an unknown form") from error


def _load(value: Any) -> Execution:
    error = value["error"]
    return Execution(
        stdout=str(value["stdout"]),
        stderr=str(value["stderr"]),
        results=tuple(
            Result(_require_mapping(r["data"]), bool(r["isMain"])) for r in value["results"]
        ),
        error=None
        if error is None
        else ErrorInfo(str(error["name"]), str(error["message"]), str(error["traceback"])),
        files=tuple(load_file(file) for file in value["files"]),
        instance=str(value.get("instance", "")),
        status=_require_one_of(get_args(ExecutionStatus), value["status"]),
        state=_require_one_of(get_args(SessionState), value["state"]),
        duration=timedelta(seconds=float(value["duration"])),
        isolation=str(value["isolation"]),
        dropped_characters=int(value["droppedCharacters"]),
        notes=tuple(str(note) for note in value["notes"]),
    )


def _require_one_of(allowed: tuple[Any, ...], value: Any) -> Any:
    if value not in allowed:
        raise ValueError(value)
    return value


def _require_mapping(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise TypeError("a result is no object")
    return value


def _dump_file(file: FileInfo) -> dict[str, Any]:
    modified = file.modified_at
    return {
        "name": file.name,
        "size": file.size,
        "mediaType": file.media_type,
        "modifiedAt": None if modified is None else modified.isoformat(),
        "sha256": file.sha256,
    }


def load_file(value: Any) -> FileInfo:
    """Read a file's description back.

    Raises:
        KeyError: It lacks a field.
        TypeError: A field is of another kind.
        ValueError: A field has no meaning.
    """
    modified = value["modifiedAt"]
    return FileInfo(
        str(value["name"]),
        int(value["size"]),
        str(value["mediaType"]),
        None if modified is None else datetime.fromisoformat(modified),
        value["sha256"],
    )

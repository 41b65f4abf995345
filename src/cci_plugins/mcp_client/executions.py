"""An execution as JSON, as the cci-plugins server sends all of it to our client."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Annotated, Any

from pydantic import Field, Strict

from cci_plugins.common.environment import (
    Secret,
    SessionEnvironment,
    build_session_environment,
)
from cci_plugins.common.file_names import escape_name
from cci_plugins.common.usage import load_usage
from cci_plugins.errors import ConfigurationError, ProtocolError
from cci_plugins.models import (
    ErrorInfo,
    Execution,
    ExecutionStatus,
    FileInfo,
    Result,
    SessionState,
    build_order,
    build_outputs,
)

from .wire_model import Text, Timestamp, WireModel

META_KEY = "cci_plugins/execution"
SIGNED_KEY = "cci_plugins/signed_environments"  # on a launch tool: it accepts no other ids
INSTANCE_KEY = "cci_plugins/instance"  # in a request: run only in this instance of the session
ENV_KEY = "cci_plugins/env"  # in a request: variables for the code
INTERRUPT, RESTART = "interruptRun", "restartSession"  # tools for our client, which no list has
PACKAGES = "sessionPackages"  # the same, with a message of `pools/package_exchange.py`
INSTANCE = "sessionInstance"  # the same, which answers the instance of the next run
CONTENT_KEY = "cci_plugins/content"  # in a request: False leaves out what the execution repeats
RUN_KEY = "cci_plugins/run"  # in a request: name of the run, which is started once
_SAME_VERSION = "install the same version of cci-plugins here and in the pool"
_MAX_SIZE = 2**62
_MAX_SECONDS = 1e9  # below the limit of `timedelta`, which a session could claim to exceed


def dump_execution(execution: Execution) -> dict[str, Any]:
    """Write an execution as JSON, without its session identifier, which the caller has.

    The keys `order`, `executionCount` and `usage` are optional, because older versions lack them.
    """
    error, usage = execution.error, execution.usage
    more = {
        "order": build_order(execution),
        "executionCount": execution.execution_count,
        "usage": usage
        and {"cpuSeconds": usage.cpu_seconds, "peakMemoryBytes": usage.peak_memory_bytes},
    }
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
    } | {key: value for key, value in more.items() if value}


def load_execution(value: object, session_id: str) -> Execution:
    """Read an execution that `dump_execution` wrote.

    Args:
        value: The decoded JSON.
        session_id: The session that the execution belongs to.

    Raises:
        ProtocolError: `dump_execution` did not write this value.
    """
    run = _Execution.load(value, "execution", hint=_SAME_VERSION)
    error = run.error
    results = tuple(Result(result.data, result.is_main) for result in run.results)
    return Execution(
        stdout=run.stdout,
        stderr=run.stderr,
        results=results,
        error=None if error is None else ErrorInfo(error.name, error.message, error.traceback),
        files=tuple(file.build() for file in run.files),
        session_id=session_id,
        instance=run.instance,
        status=run.status,
        state=run.state,
        duration=timedelta(seconds=run.duration),
        isolation=run.isolation,
        dropped_characters=run.dropped_characters,
        notes=tuple(run.notes),
        outputs=build_outputs(run.order, run.stdout, run.stderr, results),
        execution_count=run.execution_count,
        usage=load_usage(run.usage),
    )


def dump_env(env: SessionEnvironment) -> dict[str, Any]:
    """Write the variables of a session as JSON."""
    return {"values": dict(env.values), "secrets": sorted(env.secrets)}


def load_env(value: object) -> SessionEnvironment | None:
    """Read what `dump_env` wrote. Return None if a request has no variables.

    Raises:
        ConfigurationError: A name or a value cannot be used.
    """
    if value is None:
        return None
    given = value.get("values") if isinstance(value, Mapping) else None
    secrets = value.get("secrets") if isinstance(value, Mapping) else None
    if not isinstance(given, Mapping) or not isinstance(secrets, list):
        raise ConfigurationError("the request has malformed variables", hint=_SAME_VERSION)
    return build_session_environment(
        {name: Secret(text) if name in secrets else text for name, text in given.items()}
    )


def check_files(execution: Execution) -> Execution:
    """Return the execution with its file names checked and escaped.

    Raises:
        ProtocolError: A name is not a path below the session's folder.
    """
    return replace(execution, files=tuple(map(check_file, execution.files)))


def check_file(file: FileInfo) -> FileInfo:
    """Return the file with its name escaped, as every pool lists it.

    Raises:
        ProtocolError: The name is not a path below the session's folder.
    """
    if not {"", ".", ".."}.isdisjoint(file.name.split("/")):
        raise ProtocolError(
            f"the pool returned an invalid file name ({file.name[:100]!a}): "
            "it is not a path below the session's folder"
        )
    return replace(file, name=escape_name(file.name))


def load_file(value: object) -> FileInfo:
    """Read the description of a file, in the form that `dump_execution` writes.

    Raises:
        ProtocolError: The value has another form.
    """
    return _File.load(value, "file description").build()


def _dump_file(file: FileInfo) -> dict[str, Any]:
    modified = file.modified_at
    return {
        "name": file.name,
        "size": file.size,
        "mediaType": file.media_type,
        "modifiedAt": None if modified is None else modified.isoformat(),
        "sha256": file.sha256,
    }


class _Result(WireModel):
    data: dict[Text, Any]
    is_main: bool


class _Error(WireModel):
    name: Text
    message: Text
    traceback: Text


class _File(WireModel):
    name: Text
    size: int = Field(ge=0, le=_MAX_SIZE)
    media_type: Text
    modified_at: Timestamp
    sha256: Text | None

    def build(self) -> FileInfo:
        return FileInfo(self.name, self.size, self.media_type, self.modified_at, self.sha256)


_Step = Annotated[tuple[Text, int], Strict(False)]  # noqa: FBT003 - pydantic's; JSON has lists


class _Execution(WireModel):
    stdout: Text
    stderr: Text
    results: list[_Result]
    error: _Error | None
    files: list[_File]
    instance: Text = ""  # older servers do not send it
    status: ExecutionStatus
    state: SessionState
    duration: float = Field(ge=0, le=_MAX_SECONDS)  # seconds
    isolation: Text
    dropped_characters: int = Field(ge=0)
    notes: list[Text]
    order: list[_Step] = Field(default=[])  # older servers do not send it
    execution_count: int | None = Field(default=None, ge=0)  # the same
    usage: Any = None  # the same

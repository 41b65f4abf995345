"""Runs on the cci-plugins server: `cci serve`, or our container image in a custom pool."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from cci_plugins.common.environment import SessionEnvironment
from cci_plugins.errors import PoolError, SessionLostError
from cci_plugins.mcp_client import failures
from cci_plugins.mcp_client.client import McpClient
from cci_plugins.mcp_client.executions import (
    ENV_KEY,
    INSTANCE_KEY,
    META_KEY,
    RUN_KEY,
    check_files,
    dump_env,
    load_execution,
)
from cci_plugins.mcp_client.http import map_protocol_errors
from cci_plugins.mcp_client.messages import ToolResult
from cci_plugins.mcp_client.progress import StreamedOutput
from cci_plugins.models import Execution
from cci_plugins.pools.base import OutputHandler

from .replies import read_execution

_SERVER_NAME = "cci-plugins"  # in the answer to `initialize`


@dataclass(frozen=True, slots=True)
class RunRequest:
    """One run.

    Attributes:
        session_id: The session, by the name that the server knows.
        code: The code to run.
        timeout: Longest run.
        margin: Time to wait for the answer beyond `timeout`.
        instance: The instance of the session that the code needs, or None.
        run: Name of the run, which the server starts once, or None.
        env: Variables for the code, or None.
    """

    session_id: str
    code: str
    timeout: timedelta
    margin: timedelta
    instance: str | None
    run: str | None = None
    env: SessionEnvironment | None = None


def is_cci_server(description: Mapping[str, Any]) -> bool:
    """Return whether the answer to `initialize` comes from the cci-plugins server.

    Args:
        description: The answer, in which any field may be missing.
    """
    info = description.get("serverInfo")
    return isinstance(info, Mapping) and info.get("name") == _SERVER_NAME


def _read_execution(answer: ToolResult, session_id: str) -> Execution:
    if META_KEY in answer.meta:
        return check_files(load_execution(answer.meta[META_KEY], session_id))
    return read_execution(answer, session_id)


def _build_unclear(error: SessionLostError) -> PoolError:
    return PoolError(f"{error}; {failures.MAY_HAVE_RUN}", hint=error.hint)


async def run_full(
    mcp: McpClient, tool: str, request: RunRequest, on_output: OutputHandler | None
) -> Execution:
    """Run code once and return all of its execution.

    Args:
        mcp: Client of the server.
        tool: Name of the tool that runs Python.
        request: The run.
        on_output: Called with each chunk of output while the code runs.

    Raises:
        CodeInterpreterError: The error that the served pool raised.
    """
    arguments: dict[str, Any] = {
        "environmentId": request.session_id,
        "pythonCode": request.code,
        "timeoutSeconds": request.timeout.total_seconds(),
    }
    env = None if request.env is None else dump_env(request.env)
    given = {INSTANCE_KEY: request.instance, RUN_KEY: request.run, ENV_KEY: env}
    streamed = None if on_output is None else StreamedOutput(on_output)
    try:
        answer = await mcp.call_tool(
            tool,
            arguments,
            timeout=request.timeout + request.margin,
            meta={key: value for key, value in given.items() if value is not None},
            on_progress=streamed,
        )
    except SessionLostError as error:  # of something on the way, which proves nothing
        raise _build_unclear(error) from error
    failure = answer.meta.get(failures.META_KEY)
    if META_KEY not in answer.meta and isinstance(failure, Mapping):
        raise failures.load_error(failure)
    try:
        with map_protocol_errors(starts_code=True):
            execution = _read_execution(answer, request.session_id)
    except SessionLostError as error:
        raise _build_unclear(error) from error
    if streamed is not None:
        streamed.finish(execution)
    return execution


async def call_session_tool(mcp: McpClient, tool: str, session_id: str, timeout: timedelta) -> bool:
    """Call a tool of the server that runs no code. Return whether it did something.

    Args:
        mcp: Client of the server.
        tool: `INTERRUPT` or `RESTART`.
        session_id: The session, by the name that the server knows.
        timeout: How long to wait.

    Raises:
        CodeInterpreterError: The error that the served pool raised.
    """
    answer = await mcp.call_tool(tool, {"environmentId": session_id}, timeout=timeout)
    failure = answer.meta.get(failures.META_KEY)
    if isinstance(failure, Mapping):
        raise failures.load_error(failure)
    return (answer.structured or {}).get("done") is True

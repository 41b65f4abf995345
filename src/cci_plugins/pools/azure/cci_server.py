"""Runs on a server of ours: `cci serve`, or our container in a custom-container pool."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from cci_plugins.mcp_client import failures
from cci_plugins.mcp_client.client import McpClient
from cci_plugins.mcp_client.executions import INSTANCE_KEY, META_KEY, load_execution
from cci_plugins.mcp_client.progress import StreamedOutput
from cci_plugins.models import Execution
from cci_plugins.pools.base import OutputHandler

from .replies import read_execution

CCI_SERVER_NAME = "cci-plugins"  # what our server calls itself


@dataclass(frozen=True, slots=True)
class RunRequest:
    """One run.

    Attributes:
        session_id: Where.
        code: What.
        timeout: Longest run.
        margin: Waited beyond that for the answer.
        instance: The instance of the session that it needs, or None.
    """

    session_id: str
    code: str
    timeout: timedelta
    margin: timedelta
    instance: str | None


async def run_full(
    mcp: McpClient, tool: str, request: RunRequest, on_output: OutputHandler | None
) -> Execution:
    """Run code once, and get everything of the execution.

    Raises:
        CodeInterpreterError: What the served pool raised.
    """
    arguments: dict[str, Any] = {
        "environmentId": request.session_id,
        "pythonCode": request.code,
        "timeoutSeconds": request.timeout.total_seconds(),
    }
    meta = {} if request.instance is None else {INSTANCE_KEY: request.instance}
    streamed = None if on_output is None else StreamedOutput(on_output)
    answer = await mcp.call_tool(
        tool,
        arguments,
        timeout=request.timeout + request.margin,
        meta=meta,
        on_progress=streamed,
    )
    failure = answer.meta.get(failures.META_KEY)
    if META_KEY in answer.meta:
        execution = load_execution(answer.meta[META_KEY], request.session_id)
    elif isinstance(failure, Mapping):
        raise failures.load_error(failure)
    else:
        execution = read_execution(answer, request.session_id)
    if streamed is not None:
        streamed.finish(execution)
    return execution

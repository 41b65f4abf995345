"""Runs on the cci-plugins server: `cci serve`, or our container image in a custom pool."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any, NoReturn

from cci_plugins.common.environment import SessionEnvironment
from cci_plugins.errors import (
    CodeInterpreterError,
    PoolError,
    PoolExhaustedError,
    PoolUnavailableError,
    ProtocolError,
    SessionLostError,
)
from cci_plugins.mcp_client import failures
from cci_plugins.mcp_client.client import McpClient
from cci_plugins.mcp_client.executions import (
    CONTENT_KEY,
    ENV_KEY,
    INSTANCE_KEY,
    META_KEY,
    RUN_KEY,
    check_files,
    dump_env,
    load_execution,
)
from cci_plugins.mcp_client.failures import MAY_HAVE_RUN
from cci_plugins.mcp_client.http import map_protocol_errors, was_sent
from cci_plugins.mcp_client.messages import ToolResult
from cci_plugins.mcp_client.progress import ProgressHandler, StreamedOutput
from cci_plugins.models import Execution
from cci_plugins.pools.base import Capabilities, OutputHandler
from cci_plugins.pools.package_exchange import PACKAGES_KEY
from cci_plugins.pools.run_exchange import BACKGROUND_KEY, HOST_TOOLS_KEY

from .replies import build_unreported_error, read_execution

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
        is_background: Whether it outlives its request, without host tools too.
        refusals: Refusals of requests that may have arrived, since the server's last answer.
    """

    session_id: str
    code: str
    timeout: timedelta
    margin: timedelta
    instance: str | None
    run: str | None = None
    env: SessionEnvironment | None = None
    is_background: bool = False
    refusals: list[Exception] = field(default_factory=list, compare=False)

    def note_refusal(self, error: PoolUnavailableError) -> None:
        """Note that something refused a request which the server may have received."""
        if was_sent(error):
            self.refusals.append(error)


def is_cci_server(description: Mapping[str, Any]) -> bool:
    """Return whether the answer to `initialize` comes from the cci-plugins server.

    Args:
        description: The answer, in which any field may be missing.
    """
    info = description.get("serverInfo")
    return isinstance(info, Mapping) and info.get("name") == _SERVER_NAME


def add_server_abilities(
    capabilities: Capabilities, description: Mapping[str, Any]
) -> Capabilities:
    """Return the capabilities of a pool with what its cci-plugins server states.

    An ability is None if only an attempt can show it, as behind a gateway. Older servers state
    nothing, so they lack it.

    Args:
        capabilities: What is known of the pool.
        description: The server's answer to `initialize`.
    """
    return replace(
        capabilities,
        host_tools=_parse_ability(description, HOST_TOOLS_KEY),
        background_runs=_parse_ability(description, BACKGROUND_KEY),
        packages=_parse_ability(description, PACKAGES_KEY),
    )


def _parse_ability(description: Mapping[str, Any], key: str) -> bool | None:
    capabilities = description.get("capabilities")
    experimental = capabilities.get("experimental") if isinstance(capabilities, Mapping) else None
    stated = experimental.get(key) if isinstance(experimental, Mapping) else None
    if not isinstance(stated, Mapping):
        return False
    supported = stated.get("supported")
    return supported if isinstance(supported, bool) else None


@dataclass(frozen=True, slots=True)
class RunTool:
    """The tool that runs Python on the cci-plugins server, for one session.

    Attributes:
        mcp: Client of the server.
        name: Name of the tool.
        environment_id: The session, by the name that the server knows.
    """

    mcp: McpClient
    name: str
    environment_id: str

    async def call(
        self,
        code: str,
        timeout: timedelta,
        *,
        wait: timedelta,
        meta: Mapping[str, Any],
        on_progress: ProgressHandler | None = None,
    ) -> ToolResult:
        """Call the tool once.

        Args:
            code: The code to run.
            timeout: Longest run.
            wait: Longest wait for the answer.
            meta: Extra `_meta` of the request.
            on_progress: Called with each notification of progress.
        """
        arguments = {
            "environmentId": self.environment_id,
            "pythonCode": code,
            "timeoutSeconds": timeout.total_seconds(),
        }
        return await self.mcp.call_tool(
            self.name, arguments, timeout=wait, meta=meta, on_progress=on_progress
        )


def read_execution_of(
    answer: ToolResult, session_id: str, *, needs_whole: bool = False
) -> Execution:
    """Return the whole execution in an answer.

    Args:
        answer: The answer.
        session_id: The session that the code ran in.
        needs_whole: Whether content for a model does not count, because it reports something else.

    Raises:
        CodeInterpreterError: The error that the served pool raised.
        ProtocolError: The answer is malformed. The code may have run.
    """
    failure = answer.meta.get(failures.META_KEY)
    if META_KEY not in answer.meta and isinstance(failure, Mapping):
        raise failures.load_error(failure)
    try:
        with map_protocol_errors(starts_code=True):
            return _read_execution(answer, session_id, needs_whole=needs_whole)
    except SessionLostError as error:
        raise build_unclear_error(error) from error


def _read_execution(answer: ToolResult, session_id: str, *, needs_whole: bool) -> Execution:
    if META_KEY in answer.meta:
        return check_files(load_execution(answer.meta[META_KEY], session_id))
    execution = read_execution(answer, session_id)
    is_empty = not (execution.stdout or execution.stderr or execution.results or execution.error)
    if needs_whole or (is_empty and not (answer.structured or answer.text)):
        raise build_unreported_error()
    return execution


def build_refused_error(error: PoolUnavailableError) -> PoolUnavailableError:
    """Return a refusal that does not allow a second run, because the code may have run.

    It keeps its kind, so that a full pool is still a `PoolExhaustedError`.
    """
    text = f"{error}; {MAY_HAVE_RUN}"
    if isinstance(error, PoolExhaustedError):
        return PoolExhaustedError(
            text, hint=error.hint, retry_after=error.retry_after, retryable=False
        )
    return PoolUnavailableError(text, hint=error.hint, retryable=False)


def raise_unsent_error(error: CodeInterpreterError) -> NoReturn:
    """Raise the error of a call that ran nothing of the user's, and came before the code.

    It is never its own cause: code that follows the causes would not end.
    """
    text = str(error).removesuffix(f"; {MAY_HAVE_RUN}")
    if text == str(error):
        raise error
    raise PoolUnavailableError(f"{text}; the code was not sent", hint=error.hint) from error


def build_unclear_error(error: CodeInterpreterError) -> PoolError:
    """Return an error that does not allow a second run, because the code may have run."""
    text = str(error).removesuffix(f"; {MAY_HAVE_RUN}")
    return PoolError(f"{text}; {MAY_HAVE_RUN}", hint=error.hint)


async def run_full(
    tool: RunTool, request: RunRequest, on_output: OutputHandler | None
) -> Execution:
    """Run code once and return all of its execution.

    Args:
        tool: The tool that runs Python.
        request: The run.
        on_output: Called with each chunk of output while the code runs.

    Raises:
        CodeInterpreterError: The error that the served pool raised.
    """
    env = None if request.env is None else dump_env(request.env)
    given = {
        INSTANCE_KEY: request.instance,
        RUN_KEY: request.run,
        ENV_KEY: env,
        CONTENT_KEY: False,
    }
    streamed = None if on_output is None else StreamedOutput(on_output)
    try:
        answer = await tool.call(
            request.code,
            request.timeout,
            wait=request.timeout + request.margin,
            meta={key: value for key, value in given.items() if value is not None},
            on_progress=streamed,
        )
    except SessionLostError as error:  # of something on the way, which proves nothing
        raise build_unclear_error(error) from error
    except PoolUnavailableError as error:
        request.note_refusal(error)
        raise
    request.refusals.clear()
    execution = read_execution_of(answer, request.session_id)
    if streamed is not None:
        streamed.finish(execution)
    return execution


async def call_session_tool(
    mcp: McpClient, tool: str, arguments: Mapping[str, Any], session_id: str, timeout: timedelta
) -> Mapping[str, Any]:
    """Call a tool of the server that runs no code. Return its answer.

    Args:
        mcp: Client of the server.
        tool: `INTERRUPT`, `RESTART` or `PACKAGES`.
        arguments: Its arguments, without the session.
        session_id: The session, by the name that the server knows.
        timeout: How long to wait.

    Raises:
        CodeInterpreterError: The error that the served pool raised.
    """
    answer = await mcp.call_tool(tool, {**arguments, "environmentId": session_id}, timeout=timeout)
    failure = answer.meta.get(failures.META_KEY)
    if isinstance(failure, Mapping):
        raise failures.load_error(failure)
    if answer.is_error:
        raise failures.build_error_from_text(answer.text, started=False)
    return answer.structured or {}


def is_done(answer: Mapping[str, Any]) -> bool:
    """Return whether the server did what a tool without code asks for.

    Raises:
        ProtocolError: The answer does not report it.
    """
    done = answer.get("done")
    if not isinstance(done, bool):
        raise ProtocolError("the pool's answer does not report whether anything was done")
    return done

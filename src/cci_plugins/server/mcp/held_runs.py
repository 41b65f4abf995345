"""Requests about runs that outlive them, for the cci-plugins client: `HeldRuns`.

The client calls the tool that runs Python, with a query in `_meta` (`pools/run_exchange`). The
server of the session holds the run. A gateway in front of it only passes the query on, so that
each of its replicas can.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any

from cci_plugins.common.environment import SessionEnvironment
from cci_plugins.errors import CodeInterpreterError, ProtocolError
from cci_plugins.mcp_client import executions, failures
from cci_plugins.mcp_client.executions import RUN_KEY
from cci_plugins.models import Execution
from cci_plugins.pools.base import OutputHandler, SessionPool, check_background_support
from cci_plugins.pools.package_exchange import PACKAGES_KEY
from cci_plugins.pools.package_pools import PackageExchange
from cci_plugins.pools.run_exchange import (
    BACKGROUND_KEY,
    HELD_KEY,
    HOST_TOOLS_KEY,
    MAX_WAIT,
    RelayedQuery,
    RunQuery,
    RunRelay,
    RunReport,
    load_query,
)
from cci_plugins.pools.tool_host import ToolHost, build_unsupported_error
from cci_plugins.redaction import redact
from cci_plugins.server.runs import Run, RunKey, RunRegistry
from cci_plugins.server.tool_relay import ToolRelay

from .answers import ToolCallResult

_ENDED_BY_CLIENT = "its client cancelled it"
_PASSED_ON = (HELD_KEY, executions.META_KEY, failures.META_KEY)

RunCode = Callable[[OutputHandler, ToolHost | None], Awaitable[Execution]]


@dataclass(frozen=True, slots=True)
class HeldRequest:
    """A request to start a run, or to ask for one.

    Attributes:
        session_id: Its session.
        name: Its name.
        query: The query.
        code: The code, for a run that starts.
        timeout: Longest run.
        instance: The instance of the session that the code needs, or None.
        value: The query as JSON, as it came.
        env: Variables for the code, or None.
    """

    session_id: str
    name: str
    query: RunQuery
    code: str
    timeout: timedelta
    instance: str | None
    value: object
    env: SessionEnvironment | None = None


def parse_query(value: object) -> RunQuery | None:
    """Return the query in a request's `_meta`, or None if it is malformed."""
    try:
        return load_query(value)
    except ProtocolError:
        return None


def describe_held_runs(pool: SessionPool) -> dict[str, dict[str, Any]]:
    """Return the experimental capabilities of a server that answers such requests."""
    capabilities = pool.capabilities
    takes_packages = capabilities.packages if isinstance(pool, PackageExchange) else False
    return {
        HOST_TOOLS_KEY: {"supported": capabilities.host_tools},
        BACKGROUND_KEY: {"supported": capabilities.background_runs},
        PACKAGES_KEY: {"supported": takes_packages},
    }


class HeldRuns:
    """Starts runs that outlive their request, and answers for them.

    Args:
        pool: Where code runs.
        runs: Where runs are held, unless the pool passes them on.
    """

    def __init__(self, pool: SessionPool, runs: RunRegistry) -> None:
        self._pool = pool
        self._runs = runs

    async def answer(self, request: HeldRequest, run_code: RunCode) -> ToolCallResult:
        """Answer a request.

        Args:
            request: The request.
            run_code: Runs its code in the session, for a run that starts here.

        Raises:
            ConfigurationError: The sessions cannot do what the query asks. Nothing was run.
            CodeInterpreterError: The run was not started.
        """
        if isinstance(self._pool, RunRelay):
            return await self._pass_on(self._pool, request)
        key, query = RunKey(request.session_id, request.name), request.query
        if query.is_background:
            check_background_support(self._pool.capabilities)
        if query.cancels:
            run = await self._runs.cancel(key, _ENDED_BY_CLIENT)
        elif query.starts:
            run = self._start(key, query, run_code)
        else:
            run = self._runs.find(key)
        if run is None:
            return _build_answer(RunReport("unknown"))
        if run.relay is not None:
            for answer in query.answers:
                run.relay.answer(answer)
        wait = min(query.wait, MAX_WAIT.total_seconds())
        await run.wait_for_news(wait=wait, known=set(query.known), since=query.since)
        return _build_answer(_build_report(run, query), run.outcome)

    def _start(self, key: RunKey, query: RunQuery, run_code: RunCode) -> Run:
        async def work(run: Run) -> Execution:
            return await run_code(run.output.add, run.relay)

        relay = None
        if query.tools and query.bounds is not None:
            if self._pool.capabilities.host_tools is False:
                raise build_unsupported_error(self._pool.capabilities.name)
            relay = partial(ToolRelay, query.tools, query.bounds)
        return self._runs.start(key, work, relay=relay)

    async def _pass_on(self, relay: RunRelay, request: HeldRequest) -> ToolCallResult:
        wait = min(timedelta(seconds=request.query.wait), MAX_WAIT)
        meta: dict[str, Any] = {HELD_KEY: request.value, RUN_KEY: request.name}
        if request.instance is not None:
            meta[executions.INSTANCE_KEY] = request.instance
        if request.env is not None:
            meta[executions.ENV_KEY] = executions.dump_env(request.env)
        query = RelayedQuery(request.code, request.timeout, wait, meta, request.query)
        answer = await relay.relay_run(request.session_id, query)
        known = {key: answer.meta[key] for key in _PASSED_ON if key in answer.meta}
        return ToolCallResult(
            [dict(block) for block in answer.content], is_error=answer.is_error, meta=known
        )


def _build_report(run: Run, query: RunQuery) -> RunReport:
    at, output = (0, ()) if query.since is None else run.output.read(query.since)
    if run.outcome is not None:
        return RunReport("ended", at=at, output=output)
    if run.relay is None:
        return RunReport("running", at=at, output=output)
    calls, gone = run.relay.list_new(query.known), run.relay.list_gone(query.known)
    return RunReport("running", calls, gone, at, output)


def _build_answer(
    report: RunReport, outcome: Execution | CodeInterpreterError | None = None
) -> ToolCallResult:
    """Build an answer for the cci-plugins client, which reads `_meta` only."""
    meta: dict[str, Any] = {HELD_KEY: report.dump()}
    if isinstance(outcome, Execution):
        meta[executions.META_KEY] = executions.dump_execution(outcome)
    elif outcome is not None:
        dumped = failures.dump_error(outcome)
        meta[failures.META_KEY] = dumped | {"message": redact(dumped["message"])}
    text = f"The run is {report.state}."
    return ToolCallResult([{"type": "text", "text": text}], meta=meta)

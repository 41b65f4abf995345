"""The base of every remote pool, whatever its sessions return.

There are two ways to run code. The cci-plugins server returns full results (`_run_full`). Any
other server returns text only (`_run_text_only`), and `TextSessions` rebuilds the results with an
agent inside the session. Files use the pool's REST API where it answers, or else the session.

Nothing runs twice: each abstract method sends its request once, and only `RetryPolicy` repeats
it. A run is repeated only if the pool answered that it did not start, and under a name that the
session or the cci-plugins server accepts once. A refusal that stays is not `retryable`, as in
`text_sessions`, except that the server's own answer proves it. An upload is never repeated, because
its content can be read only once. A deleted session must stay deleted: where the pool cannot end
sessions, its content is wiped once and not again before the next use, because each call starts one.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import replace
from datetime import timedelta
from secrets import token_hex
from typing import Any

from typing_extensions import override

from cci_plugins.azure.credentials import AuthProvider
from cci_plugins.common.code_text import check_code
from cci_plugins.common.durations import Duration, to_timedelta
from cci_plugins.common.environment import SessionEnvironment
from cci_plugins.common.limits import Limits
from cci_plugins.common.log import logger
from cci_plugins.errors import (
    AuthenticationError,
    ExecutionTimeoutError,
    PoolError,
    PoolUnavailableError,
    SessionLostError,
)
from cci_plugins.mcp_client.executions import INSTANCE, INTERRUPT, PACKAGES, RESTART
from cci_plugins.mcp_client.http import was_sent
from cci_plugins.mcp_client.messages import ToolResult
from cci_plugins.models import Execution, FileInfo, OutputEvent
from cci_plugins.pools.base import (
    OutputHandler,
    SessionPool,
    build_no_background_error,
    build_no_interrupt_error,
    build_no_packages_error,
    check_background_support,
    check_packages_support,
)
from cci_plugins.pools.package_pools import PackageOptions, RemotePackages
from cci_plugins.pools.run_exchange import RelayedQuery, RunQuery, RunRelay
from cci_plugins.pools.tool_host import ToolHost, build_unsupported_error

from .cci_server import (
    RunRequest,
    RunTool,
    build_refused_error,
    is_done,
    raise_unsent_error,
    run_full,
)
from .held_run import HeldRun
from .rest_client import RestClient
from .retry import Contact, NoRouteError, RetryPolicy
from .text_sessions import TextSessions

MARGIN = timedelta(seconds=15)
RETRY_WINDOW = timedelta(seconds=30)
_OLDER_SERVER = "its server is older, or its own sessions cannot"
LOOK_PATIENCE = 4  # times the patience of other calls, since a gateway may restart meanwhile
START_TIME = timedelta(seconds=30)  # in which a pool begins a session, also for a short run
HARMLESS = "pass"  # code that may run any number of times


class RemoteSessionPool(SessionPool, RunRelay, RemotePackages):
    """A pool that another process or machine serves.

    Args:
        auth: Provider of the key or token for runs.
        rest_auth: Provider of the key or token for the REST API.
        limits: Limits, of which `file_bytes` bounds a transfer and `execution_timeout` a run.
        margin: Time to wait for the answer beyond a run's own limit.
        patience: Time in which a call that did not start may be repeated.
        packages: Where this machine downloads packages for the sessions.
    """

    def __init__(
        self,
        auth: AuthProvider,
        rest_auth: AuthProvider,
        *,
        limits: Limits,
        margin: Duration,
        patience: Duration,
        packages: PackageOptions,
    ) -> None:
        margin = to_timedelta(margin, "margin", allow_zero=True)
        patience = to_timedelta(patience, "patience", allow_zero=True)
        self.package_options = packages
        self._margin = margin
        self._busy_limit = limits.execution_timeout + margin  # code of others may run
        self._contact = contact = Contact()
        self._retry = RetryPolicy(auth, patience, contact=contact)
        # shorter than a client waits, which then asks for its run
        self._relay_retry = RetryPolicy(auth, min(patience, margin / 2), contact=contact)
        self._look_retry = RetryPolicy(auth, LOOK_PATIENCE * patience, contact=contact)
        self._rest_retry = RetryPolicy(rest_auth, patience, contact=contact)
        self._text = TextSessions(
            self._run_text_only, retry=self._retry, limits=limits, margin=margin
        )
        self._has_files_api: bool | None = None
        self._wiped_sessions: set[str] = set()

    @property
    @override
    def has_answered(self) -> bool:
        return self._contact.has_answered

    @abstractmethod
    async def _get_rest_client(self) -> RestClient:
        """Return the client of the pool's REST API."""

    @abstractmethod
    async def _returns_full_results(self, session_id: str) -> bool:
        """Return whether the pool runs the cci-plugins server, which returns full results."""

    @abstractmethod
    async def _get_run_tool(self, session_id: str) -> RunTool:
        """Return the tool that runs Python on the cci-plugins server, for a session."""

    def _note_loss(self, session_id: str) -> None:
        """Note that the cci-plugins server does not have a session any longer."""

    async def _run_full(
        self, request: RunRequest, on_output: OutputHandler | None, tools: ToolHost | None
    ) -> Execution:
        """Run code once on the cci-plugins server."""
        tool = await self._get_run_tool(request.session_id)
        try:
            if request.is_background:
                return await HeldRun(tool, request, tools, self._look_retry, on_output).execute()
            if tools is None:
                return await run_full(tool, request, on_output)
            return await HeldRun(tool, request, tools, self._retry, on_output).execute()
        except SessionLostError:
            self._note_loss(request.session_id)
            raise

    @override
    async def relay_run(self, session_id: str, query: RelayedQuery) -> ToolResult:
        await self._check_query(session_id, query.query)
        if query.query.starts:
            await self._find_session(session_id)
        tool = await self._get_run_tool(session_id)
        refusals: list[Exception] = []

        async def send() -> ToolResult:
            try:
                return await tool.call(
                    query.code, query.timeout, wait=query.wait + self._margin, meta=query.meta
                )
            except PoolUnavailableError as error:
                if query.query.starts and was_sent(error):
                    refusals.append(error)
                raise

        try:
            return await self._relay_retry.call_with_retry(send)
        except PoolUnavailableError as error:
            if refusals:
                raise build_refused_error(error) from error
            raise

    async def _check_query(self, session_id: str, query: RunQuery) -> None:
        """Refuse a query that the session's server would not understand.

        Raises:
            ConfigurationError: The sessions cannot do what the query asks. Nothing was sent.
            PoolUnavailableError: The server cannot be reached now.
        """
        if await self._returns_full_results(session_id):
            if query.is_background:
                check_background_support(self.capabilities)
            if query.tools and self.capabilities.host_tools is False:
                raise build_unsupported_error(self.capabilities.name, _OLDER_SERVER)
            return
        if query.starts or query.is_background:
            await self._prove_text_only(session_id)
        elif self.capabilities.host_tools is not False:
            raise PoolUnavailableError("the session's server does not answer")
        if query.is_background:
            raise build_no_background_error(self.capabilities.name)
        raise build_unsupported_error(self.capabilities.name)

    async def _prove_text_only(self, session_id: str) -> None:
        """Find out that sessions return text only, since a failure may look like it.

        Raises:
            CodeInterpreterError: It was a failure. Nothing was sent.
        """
        if self.capabilities.host_tools is not False:
            await self._prepare_run(session_id, self._busy_limit)

    @abstractmethod
    async def _call_session_tool(
        self, session_id: str, tool: str, arguments: Mapping[str, Any]
    ) -> Mapping[str, Any]:
        """Call a tool of the cci-plugins server that runs no code."""

    @abstractmethod
    async def _run_text_only(self, session_id: str, code: str, limit: timedelta) -> Execution:
        """Run code once on any other server, and wait at most `limit` for the answer."""

    async def _find_session(self, session_id: str) -> None:
        """Find a place for a session of the cci-plugins server, before code is sent to it.

        A full pool refuses a new session on the way to its server. A refusal of the run itself
        would not prove that it did not start.

        Raises:
            CodeInterpreterError: The pool has no place for it. Nothing was sent to it.
        """

    async def _prepare_run(self, session_id: str, wait: timedelta) -> None:
        """Find out by harmless code what a refusal of the run itself could not prove.

        Args:
            session_id: The session.
            wait: Longest wait for an answer.

        Raises:
            CodeInterpreterError: The session cannot run code. Nothing was sent to it.
        """

    async def _send_harmless(self, session_id: str, wait: timedelta) -> None:
        """Run code that does nothing, in a text-only session."""
        await self._call_harmless(lambda: self._run_text_only(session_id, HARMLESS, wait))

    async def _call_harmless(self, call: Callable[[], Awaitable[object]]) -> None:
        """Make a call that runs nothing of the user's, and repeat it after any fault.

        Raises:
            PoolUnavailableError: The pool failed. The user's code was not sent.
        """
        try:
            await self._retry.call_with_retry(call, idempotent=True)
        except (PoolError, ExecutionTimeoutError) as error:
            raise_unsent_error(error)

    @abstractmethod
    async def _end_session(self, session_id: str) -> None:
        """End a session.

        Raises:
            NoRouteError: The pool cannot end sessions.
            AuthenticationError: The key or token does not permit it.
        """

    @override
    async def execute(
        self,
        session_id: str,
        code: str,
        *,
        timeout: Duration,
        on_output: OutputHandler | None = None,
        instance: str | None = None,
        tools: ToolHost | None = None,
        env: SessionEnvironment | None = None,
    ) -> Execution:
        check_code(code)
        limit = to_timedelta(timeout, "timeout")
        self._wiped_sessions.discard(session_id)
        if await self._returns_full_results(session_id):
            request = RunRequest(
                session_id, code, limit, self._margin, instance, token_hex(16), env
            )
            return await self._execute_full(request, on_output, tools)
        if tools is not None:
            await self._prove_text_only(session_id)
            raise build_unsupported_error(self.capabilities.name)
        wait = max(limit + self._margin, START_TIME)  # what keeps it longer would keep the run too
        await self._prepare_run(session_id, min(wait, self._busy_limit))
        execution = await self._text.execute(
            session_id, code, timeout=limit, instance=instance, env=env
        )
        if on_output is not None:
            emit_output(execution, on_output)
        return execution

    @override
    async def execute_in_background(
        self,
        session_id: str,
        code: str,
        *,
        timeout: Duration,
        on_output: OutputHandler | None = None,
        instance: str | None = None,
        tools: ToolHost | None = None,
        env: SessionEnvironment | None = None,
    ) -> Execution:
        check_code(code)
        limit = to_timedelta(timeout, "timeout")
        self._wiped_sessions.discard(session_id)
        await self.check_background_runs(session_id)
        request = RunRequest(
            session_id, code, limit, self._margin, instance, token_hex(16), env, is_background=True
        )
        return await self._execute_full(request, on_output, tools)

    async def _execute_full(
        self, request: RunRequest, on_output: OutputHandler | None, tools: ToolHost | None
    ) -> Execution:
        """Run code on the cci-plugins server, and repeat what did not start."""
        if tools is not None and self.capabilities.host_tools is False:
            raise build_unsupported_error(self.capabilities.name, _OLDER_SERVER)
        await self._find_session(request.session_id)
        try:
            return await self._retry.call_with_retry(
                lambda: self._run_full(request, on_output, tools)
            )
        except PoolUnavailableError as error:
            if request.refusals:
                raise build_refused_error(error) from error
            raise

    @override
    async def check_background_runs(self, session_id: str) -> None:
        if not await self._returns_full_results(session_id):
            await self._prove_text_only(session_id)
            raise build_no_background_error(self.capabilities.name)
        check_background_support(self.capabilities)
        if self.capabilities.background_runs is None:  # a gateway, which has to ask
            tool = await self._get_run_tool(session_id)
            request = RunRequest(
                session_id, "", RETRY_WINDOW, self._margin, None, token_hex(16), is_background=True
            )
            await HeldRun(tool, request, None, self._retry, None).check()
            self.capabilities = replace(self.capabilities, background_runs=True)

    @override
    async def interrupt(self, session_id: str) -> bool:
        if not await self._returns_full_results(session_id):
            raise build_no_interrupt_error(self.capabilities.name)
        answer = await self._retry.call_with_retry(
            lambda: self._call_session_tool(session_id, INTERRUPT, {}), idempotent=True
        )
        return is_done(answer)

    @override
    async def restart_session(self, session_id: str) -> bool:
        if not await self._returns_full_results(session_id):
            return False
        answer = await self._retry.call_with_retry(
            lambda: self._call_session_tool(session_id, RESTART, {})
        )
        return is_done(answer)

    @override
    async def get_instance(self, session_id: str) -> str | None:
        self._wiped_sessions.discard(session_id)
        if not await self._returns_full_results(session_id):
            await self._prepare_run(session_id, self._busy_limit)
            return await self._text.find_instance(session_id) or None
        await self._find_session(session_id)
        answer = await self._retry.call_with_retry(  # an older server refuses it at once
            lambda: self._call_session_tool(session_id, INSTANCE, {})
        )
        instance = answer.get("instance")
        return instance if isinstance(instance, str) and instance else None

    @override
    async def exchange_packages(
        self, session_id: str, message: Mapping[str, Any]
    ) -> Mapping[str, Any]:
        if not await self._returns_full_results(session_id):
            raise build_no_packages_error(self.capabilities.name)
        check_packages_support(self.capabilities)
        try:
            return await self._retry.call_with_retry(
                lambda: self._call_session_tool(session_id, PACKAGES, message), idempotent=True
            )
        except SessionLostError:
            self._note_loss(session_id)
            raise

    @override
    async def upload(self, session_id: str, name: str, content: AsyncIterator[bytes]) -> FileInfo:
        if await self.has_files_api(session_id):
            return await (await self._get_rest_client()).upload(session_id, name, content)
        return await self._text.upload(session_id, name, content)

    @override
    async def download(self, session_id: str, name: str) -> AsyncIterator[bytes]:
        uses_rest = await self.has_files_api(session_id)
        source = await self._get_rest_client() if uses_rest else self._text
        async with aclosing(source.download(session_id, name)) as chunks:
            async for chunk in chunks:
                yield chunk

    @override
    async def list_files(self, session_id: str) -> list[FileInfo]:
        if not await self.has_files_api(session_id):
            return await self._text.list_files(session_id)
        rest = await self._get_rest_client()
        return await self._rest_retry.call_with_retry(
            lambda: rest.list_files(session_id), idempotent=True
        )

    @override
    async def delete_file(self, session_id: str, name: str) -> None:
        if await self.has_files_api(session_id):
            rest = await self._get_rest_client()
            await self._rest_retry.call_with_retry(lambda: rest.delete_file(session_id, name))
        else:
            await self._text.delete_file(session_id, name)

    @override
    async def delete_session(self, session_id: str) -> None:
        self._text.forget(session_id)
        try:
            await self._rest_retry.call_with_retry(lambda: self._end_session(session_id))
        except SessionLostError:
            return
        except (AuthenticationError, NoRouteError) as error:
            if session_id not in self._wiped_sessions:
                logger.info("the pool cannot end a session, so its content is wiped: %s", error)
                await self._text.wipe(session_id)
                self._wiped_sessions.add(session_id)

    @override
    async def has_files_api(self, session_id: str) -> bool:
        self._wiped_sessions.discard(session_id)
        if self._has_files_api is None:
            rest = await self._get_rest_client()
            try:
                await self._rest_retry.call_with_retry(
                    lambda: rest.list_files(session_id), idempotent=True
                )
            except (AuthenticationError, NoRouteError) as error:
                logger.info("files travel through the sessions: %s", error)
                self._has_files_api = False
            else:
                self._has_files_api = True
        return self._has_files_api


def emit_output(execution: Execution, on_output: OutputHandler) -> None:
    """Emit all output of a finished run, for a pool that does not stream."""
    if execution.stdout:
        on_output(OutputEvent("stdout", execution.stdout))
    if execution.stderr:
        on_output(OutputEvent("stderr", execution.stderr))
    for result in execution.results:
        on_output(OutputEvent("result", result=result))

"""Sessions of a custom-container pool, or of a managed one by its REST API, with an Entra token."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Literal
from urllib.parse import quote

import anyio
from typing_extensions import override

from cci_plugins.azure.credentials import Bearer, ProviderAuth, TokenCredential
from cci_plugins.common.limits import Limits
from cci_plugins.common.log import logger
from cci_plugins.errors import AuthenticationError, PoolError, PoolUnavailableError
from cci_plugins.mcp_client.client import McpClient, parse_endpoint_url
from cci_plugins.mcp_client.http import make_http
from cci_plugins.models import Execution
from cci_plugins.pools.base import Capabilities, OutputHandler

from .cci_server import CCI_SERVER_NAME, RunRequest, run_full
from .mcp_pool import RUN_PYTHON
from .remote_pool import MARGIN, RETRY_WINDOW, RemoteSessionPool
from .rest_client import RestClient
from .retry import NoRouteError

ServerKind = Literal["cci", "executions", "execute"]


class CustomSessionPool(RemoteSessionPool):
    """A session pool by its management endpoint.

    In the sessions runs our container image, which speaks MCP and tells everything, or an
    interpreter that answers `/executions` or the older `/code/execute`: Microsoft's image, or a
    managed Python pool. Which one it is, the first run finds out.

    Args:
        endpoint: The pool management endpoint.
        credential: A credential of azure-identity, or a token for
            `https://dynamicsessions.io`; `DefaultAzureCredential` when None.
        limits: `file_bytes` bounds a transfer.
        margin: Waited beyond a run's own limit for the answer.
        patience: How long what did not start may be tried again.

    Raises:
        ConfigurationError: The endpoint or the token cannot be right.
    """

    capabilities = Capabilities(name="custom", outlives_app=True)

    def __init__(
        self,
        endpoint: str,
        *,
        credential: TokenCredential | str | None = None,
        limits: Limits | None = None,
        margin: timedelta = MARGIN,
        patience: timedelta = RETRY_WINDOW,
    ) -> None:
        limits = Limits() if limits is None else limits
        self._endpoint = str(parse_endpoint_url(endpoint.rstrip("/")))
        self._auth = Bearer(credential)
        self._http = make_http()
        self._http.auth = ProviderAuth(self._auth)
        self._rest_client = RestClient(
            self._endpoint, file_bytes=limits.file_bytes, http=self._http
        )
        self._kind: ServerKind | None = None
        self._discovery_lock = anyio.Lock()
        self._supports_stop = True
        super().__init__(self._auth, self._auth, limits=limits, margin=margin, patience=patience)

    def __repr__(self) -> str:
        return f"CustomSessionPool({self._endpoint!r})"

    @override
    async def start(self) -> None:
        """Sign in, so that a missing sign-in shows at once; no session is allocated."""
        await self._auth.headers()

    @override
    async def aclose(self) -> None:
        await self._http.aclose()

    @override
    async def _get_rest_client(self) -> RestClient:
        return self._rest_client

    @override
    async def _returns_full_results(self, session_id: str) -> bool:
        if self._kind is None:
            async with self._discovery_lock:
                if self._kind is None:
                    self._kind = await self._retry.call_with_retry(
                        lambda: self._detect_kind(session_id), idempotent=True
                    )
        return self._kind == "cci"

    @override
    async def _run_full(
        self,
        session_id: str,
        code: str,
        timeout: timedelta,
        on_output: OutputHandler | None,
        instance: str | None,
    ) -> Execution:
        request = RunRequest(session_id, code, timeout, self._margin, instance)
        return await run_full(self._build_mcp_client(session_id), RUN_PYTHON, request, on_output)

    @override
    async def _run_text_only(self, session_id: str, code: str, limit: timedelta) -> Execution:
        if self._kind != "execute":
            try:
                return await self._rest_client.execute(session_id, code, timeout=limit)
            except NoRouteError:
                logger.info("the pool has no /executions; using /code/execute")
        execution = await self._rest_client.execute(session_id, code, timeout=limit, old_form=True)
        self._kind = "execute"
        return execution

    @override
    async def _end_session(self, session_id: str) -> None:
        """By the pool's own route; managed pools have another one."""
        if self._supports_stop:
            try:
                await self._rest_client.stop_session(session_id)
            except NoRouteError:
                self._supports_stop = False
            else:
                return
        await self._rest_client.delete_session(session_id)

    def _build_mcp_client(self, session_id: str) -> McpClient:
        """The MCP server in a session's container; ours keeps no MCP sessions."""
        url = f"{self._endpoint}/mcp?identifier={quote(session_id, safe='')}"
        return McpClient(url, http=self._http, handshake=False)

    async def _detect_kind(self, session_id: str) -> ServerKind:
        """Ask the session's container whether it is ours, which starts no code."""
        url = f"{self._endpoint}/mcp?identifier={quote(session_id, safe='')}"
        try:
            server = await McpClient(url, http=self._http).initialize()
        except PoolUnavailableError:
            raise
        except (AuthenticationError, PoolError) as error:
            # managed pools refuse a token there; an interpreter has no such route
            logger.info("the sessions speak no MCP: %s", error)
            return "executions"
        if server.get("serverInfo", {}).get("name") != CCI_SERVER_NAME:
            return "executions"
        self.capabilities = replace(self.capabilities, streams_output=True)
        return "cci"

"""Sessions of a custom-container pool, or of a managed one by its REST API, with an Entra token."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Literal
from urllib.parse import quote

import anyio
from typing_extensions import override

from cci_plugins.azure.credentials import Authorized, Bearer, TokenCredential
from cci_plugins.common.limits import Limits
from cci_plugins.common.log import logger
from cci_plugins.errors import AuthenticationError, PoolError, PoolUnavailableError
from cci_plugins.mcp_client.client import McpClient, checked_url
from cci_plugins.mcp_client.http import make_http
from cci_plugins.models import Execution
from cci_plugins.pools.base import Capabilities, OutputHandler

from .cci_server import OURS, Request, run_whole
from .mcp_pool import RUN_PYTHON
from .remote_pool import MARGIN, PATIENCE, RemoteSessionPool
from .rest_client import RestClient
from .retry import NoRouteError

Kind = Literal["ours", "executions", "execute"]


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
        patience: timedelta = PATIENCE,
    ) -> None:
        limits = Limits() if limits is None else limits
        self._endpoint = str(checked_url(endpoint.rstrip("/")))
        self._access = Bearer(credential)
        self._http = make_http()
        self._http.auth = Authorized(self._access)
        self._rest_client = RestClient(
            self._endpoint, file_bytes=limits.file_bytes, http=self._http
        )
        self._kind: Kind | None = None
        self._finding = anyio.Lock()
        self._stops = True
        super().__init__(
            self._access, self._access, limits=limits, margin=margin, patience=patience
        )

    def __repr__(self) -> str:
        return f"CustomSessionPool({self._endpoint!r})"

    @override
    async def start(self) -> None:
        """Sign in, so that a missing sign-in shows at once; no session is allocated."""
        await self._access.headers()

    @override
    async def aclose(self) -> None:
        await self._http.aclose()

    @override
    async def _rest(self) -> RestClient:
        return self._rest_client

    @override
    async def _tells_all(self, session_id: str) -> bool:
        if self._kind is None:
            async with self._finding:
                if self._kind is None:
                    self._kind = await self._patience.persist(
                        lambda: self._find(session_id), harmless=True
                    )
        return self._kind == "ours"

    @override
    async def _run_whole(
        self,
        session_id: str,
        code: str,
        timeout: timedelta,
        on_output: OutputHandler | None,
        instance: str | None,
    ) -> Execution:
        request = Request(session_id, code, timeout, self._margin, instance)
        return await run_whole(self._mcp(session_id), RUN_PYTHON, request, on_output)

    @override
    async def _run_text(self, session_id: str, code: str, limit: timedelta) -> Execution:
        if self._kind != "execute":
            try:
                return await self._rest_client.execute(session_id, code, timeout=limit)
            except NoRouteError:
                logger.info("the pool has no /executions; using /code/execute")
        execution = await self._rest_client.execute(session_id, code, timeout=limit, old_form=True)
        self._kind = "execute"
        return execution

    @override
    async def _end(self, session_id: str) -> None:
        """By the pool's own route; managed pools have another one."""
        if self._stops:
            try:
                await self._rest_client.stop_session(session_id)
            except NoRouteError:
                self._stops = False
            else:
                return
        await self._rest_client.delete_session(session_id)

    def _mcp(self, session_id: str) -> McpClient:
        """The MCP server in a session's container; ours keeps no MCP sessions."""
        url = f"{self._endpoint}/mcp?identifier={quote(session_id, safe='')}"
        return McpClient(url, http=self._http, handshake=False)

    async def _find(self, session_id: str) -> Kind:
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
        if server.get("serverInfo", {}).get("name") != OURS:
            return "executions"
        self.capabilities = replace(self.capabilities, streams_output=True)
        return "ours"

"""The pool of a custom-container or managed session pool by its REST API, with an Entra token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from functools import partial
from os import PathLike
from typing import Any, Literal
from urllib.parse import quote

from typing_extensions import override

from cci_plugins.azure.credentials import Bearer, CachedCredential, ProviderAuth, TokenCredential
from cci_plugins.azure.encryption import check_token_url
from cci_plugins.common.cancellation import run_to_end
from cci_plugins.common.durations import Duration
from cci_plugins.common.limits import Limits
from cci_plugins.common.log import logger
from cci_plugins.common.shared_attempt import SharedAttempt
from cci_plugins.errors import (
    AuthenticationError,
    PoolError,
    PoolExhaustedError,
    PoolUnavailableError,
    ProtocolError,
)
from cci_plugins.mcp_client.client import McpClient, parse_endpoint_url
from cci_plugins.mcp_client.failures import MAY_HAVE_RUN, is_redirect
from cci_plugins.mcp_client.http import make_http
from cci_plugins.models import Execution, SessionInfo
from cci_plugins.pools.base import Capabilities
from cci_plugins.pools.package_pools import PackageOptions

from .cci_server import RunTool, add_server_abilities, call_session_tool, is_cci_server
from .mcp_pool import RUN_PYTHON
from .remote_pool import MARGIN, RETRY_WINDOW, RemoteSessionPool
from .rest_client import RestClient
from .retry import NoRouteError

_MAX_CLIENTS = 256
_NOT_A_POOL_HINT = "check that the endpoint is that of a session pool, or wait for a free session"
_FULL_HINT = (
    "wait for the cooldown of unused sessions or raise the pool's maximum, and check the endpoint"
)
MAX_FOUND = 10_000  # sessions that are remembered
ServerKind = Literal["cci", "executions", "execute"]


class CustomSessionPool(RemoteSessionPool):
    """A session pool that is reached by its pool management endpoint.

    The sessions run one of two servers, and the first run detects which. Our container image
    speaks MCP and returns full results. Microsoft's image and managed Python pools answer
    `/executions` or the older `/code/execute`, and return text only.

    Args:
        endpoint: The pool management endpoint.
        credential: A credential of azure-identity, or a token for
            `https://dynamicsessions.io`. By default `DefaultAzureCredential`.
        limits: Limits, of which `file_bytes` bounds a transfer.
        margin: Time to wait for the answer beyond a run's own limit.
        patience: Time in which a call that did not start may be repeated.
        package_index: Where this machine downloads packages for `Session.install`: a folder of
            wheels, or the address of an index. None means the installer's default.
        allowed_packages: Names of packages that may be installed, with what they need. None for
            any.
        package_lock: A requirements file with the only versions that may be installed, and their
            hashes. None for any.

    Attributes:
        sign_in: The sign-in.

    Raises:
        ConfigurationError: The endpoint or the token is invalid, or the token would be sent to
            another machine without encryption.

    Example:
        ```python
        pool = CustomSessionPool("https://pool.env.eastus.azurecontainerapps.io")
        interpreter = CodeInterpreter(pool)  # connects when code first runs
        ```
    """

    capabilities = Capabilities(
        name="custom",
        outlives_app=True,
        host_tools=None,
        env=True,
        background_runs=None,
        packages=None,
        lists_sessions=True,
    )

    def __init__(
        self,
        endpoint: str,
        *,
        credential: TokenCredential | str | None = None,
        limits: Limits | None = None,
        margin: Duration = MARGIN,
        patience: Duration = RETRY_WINDOW,
        package_index: str | PathLike[str] | None = None,
        allowed_packages: Sequence[str] | None = None,
        package_lock: str | PathLike[str] | None = None,
    ) -> None:
        limits = Limits() if limits is None else limits
        url = parse_endpoint_url(endpoint.rstrip("/"))
        check_token_url(url)
        self._endpoint = str(url)
        self.sign_in = CachedCredential.wrap(credential)
        self._auth = Bearer(self.sign_in)
        self._http = make_http()
        self._http.auth = ProviderAuth(self._auth)
        self._rest_client = RestClient(
            self._endpoint, file_bytes=limits.file_bytes, http=self._http
        )
        self._kind: ServerKind | None = None
        self._is_kind_certain = False
        self._discovery = SharedAttempt()
        self._supports_stop = True
        self._mcp_clients: dict[str, McpClient] = {}
        self._found_sessions: set[str] = set()  # they have answered, so the pool has them
        super().__init__(
            self._auth,
            self._auth,
            limits=limits,
            margin=margin,
            patience=patience,
            packages=PackageOptions(package_index, allowed_packages, package_lock),
        )

    def __repr__(self) -> str:
        return f"CustomSessionPool({self._endpoint!r})"

    @override
    async def start(self) -> None:
        """Sign in, so that a missing sign-in fails at once. This allocates no session."""
        await self._auth.headers()

    @override
    async def aclose(self) -> None:
        await run_to_end(self._http.aclose())

    @override
    async def list_sessions(self) -> list[SessionInfo]:
        """List the live sessions. The list is empty where the pool has no route for it."""
        if not self.capabilities.lists_sessions:
            return []
        for is_custom in (True, False):
            try:
                return await self._retry.call_with_retry(
                    partial(self._rest_client.list_sessions, is_custom=is_custom), idempotent=True
                )
            except NoRouteError as error:
                logger.info("the pool has no route that lists its sessions: %s", error)
        self.capabilities = replace(self.capabilities, lists_sessions=False)
        return []

    @override
    async def _get_rest_client(self) -> RestClient:
        return self._rest_client

    @override
    async def _returns_full_results(self, session_id: str) -> bool:
        if self._kind is None:
            async with self._discovery.hold():
                if self._kind is None:
                    kind = await self._retry.call_with_retry(
                        lambda: self._detect_kind(session_id), idempotent=True, is_proof=False
                    )
                    if not self._is_kind_certain:
                        return False
                    self._contact.has_answered = True
                    self._kind = kind
                    if kind != "cci":
                        self.capabilities = replace(
                            self.capabilities,
                            host_tools=False,
                            background_runs=False,
                            packages=False,
                        )
        return self._kind == "cci"

    @override
    async def _find_session(self, session_id: str) -> None:
        if session_id not in self._found_sessions:
            mcp = self._build_mcp_client(session_id)
            await self._retry.call_with_retry(mcp.ping, idempotent=True)
            if len(self._found_sessions) >= MAX_FOUND:
                self._found_sessions.clear()
            self._found_sessions.add(session_id)

    @override
    def _note_loss(self, session_id: str) -> None:
        self._found_sessions.discard(session_id)

    @override
    async def delete_session(self, session_id: str) -> None:
        self._found_sessions.discard(session_id)
        await super().delete_session(session_id)

    @override
    async def _get_run_tool(self, session_id: str) -> RunTool:
        return RunTool(self._build_mcp_client(session_id), RUN_PYTHON, session_id)

    @override
    async def _call_session_tool(
        self, session_id: str, tool: str, arguments: Mapping[str, Any]
    ) -> Mapping[str, Any]:
        mcp = self._build_mcp_client(session_id)
        return await call_session_tool(mcp, tool, arguments, session_id, self._busy_limit)

    @override
    async def _run_text_only(self, session_id: str, code: str, limit: timedelta) -> Execution:
        is_bare = False
        if self._kind != "execute":
            try:
                return await self._rest_client.execute(session_id, code, timeout=limit)
            except NoRouteError as error:
                is_bare = error.is_bare
                logger.info("the pool has no /executions; using /code/execute")
        try:
            execution = await self._rest_client.execute(
                session_id, code, timeout=limit, old_form=True
            )
        except NoRouteError as error:
            if self._kind is not None:
                raise
            # a full pool gives a reason, which a server that is not a pool does not
            kind = ProtocolError if is_bare and error.is_bare else PoolError
            reason = str(error).removesuffix(f"; {MAY_HAVE_RUN}")  # it has no such route
            raise kind(
                "the pool has no free session, or its sessions serve none of the routes /mcp, "
                f"/executions and /code/execute ({reason})",
                hint=_NOT_A_POOL_HINT if is_bare and error.is_bare else _FULL_HINT,
            ) from error
        self._kind = "execute"
        return execution

    @override
    async def _prepare_run(self, session_id: str, wait: timedelta) -> None:
        """Find a route for runs before code is sent, since a full pool may refuse it as missing."""
        if not self._is_kind_certain:
            await self._send_harmless(session_id, wait)

    @override
    async def _end_session(self, session_id: str) -> None:
        """End a session by the route of custom pools, or else by that of managed pools."""
        if self._supports_stop:
            try:
                await self._rest_client.stop_session(session_id)
            except NoRouteError:
                self._supports_stop = False
            else:
                return
        await self._rest_client.delete_session(session_id)

    def _build_mcp_client(self, session_id: str) -> McpClient:
        """Return a client of the MCP server in a session's container.

        Without a handshake, because the cci-plugins server keeps no MCP sessions. The latest
        clients are kept, since it takes time to build one.
        """
        client = self._mcp_clients.pop(session_id, None)
        if client is None:
            client = McpClient(self._build_mcp_url(session_id), http=self._http, handshake=False)
        self._mcp_clients[session_id] = client
        if len(self._mcp_clients) > _MAX_CLIENTS:
            del self._mcp_clients[next(iter(self._mcp_clients))]
        return client

    def _build_mcp_url(self, session_id: str) -> str:
        return f"{self._endpoint}/mcp?identifier={quote(session_id, safe='')}"

    async def _detect_kind(self, session_id: str) -> ServerKind:
        """Detect the server in the session's container by a handshake, which starts no code.

        A refusal may also come from a full pool (404, 500) or from a role that is not known yet
        (401, 403). So it is remembered only once another route of the session answers and the
        handshake is then refused again.
        """
        try:
            kind = await self._shake_hands(session_id)
            if kind != "cci" and not self._is_kind_certain:
                await self._rest_client.list_files(session_id)
                kind = await self._shake_hands(session_id)
                self._is_kind_certain = True
        except PoolUnavailableError as error:
            if isinstance(error, PoolExhaustedError) or "HTTP 500" not in str(error):
                raise
            raise PoolUnavailableError(
                f"the pool has no free session, or its server failed: {error}", hint=_FULL_HINT
            ) from error
        except (AuthenticationError, PoolError) as error:
            logger.info("it is not certain yet what the sessions run: %s", error)
            return "executions"
        if kind == "cci":
            self._is_kind_certain = True
            self._found_sessions.add(session_id)
            self.capabilities = replace(self.capabilities, streams_output=True)
        return kind

    async def _shake_hands(self, session_id: str) -> ServerKind:
        try:
            server = await McpClient(self._build_mcp_url(session_id), http=self._http).initialize()
        except PoolUnavailableError:
            raise
        except (AuthenticationError, PoolError) as error:
            if is_redirect(error):
                raise
            # Managed pools refuse a token on /mcp. Microsoft's image has no such route.
            logger.info("the sessions do not speak MCP: %s", error)
            return "executions"
        if is_cci_server(server):
            self.capabilities = add_server_abilities(self.capabilities, server)
            return "cci"
        self._is_kind_certain = True
        return "executions"

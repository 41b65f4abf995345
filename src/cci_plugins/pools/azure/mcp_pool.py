"""The pool behind a managed MCP endpoint, which a key opens, or behind `cci serve`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from os import PathLike
from typing import Any, Protocol

from typing_extensions import override

from cci_plugins.azure.credentials import (
    AuthProvider,
    Bearer,
    ProviderAuth,
    StaticKey,
    TokenCredential,
)
from cci_plugins.azure.encryption import check_token_url, warn_of_plain_key
from cci_plugins.azure.options import ARM
from cci_plugins.azure.pool_resource import PoolResource
from cci_plugins.common.cancellation import run_to_end
from cci_plugins.common.durations import Duration
from cci_plugins.common.keyed_locks import KeyedLocks
from cci_plugins.common.limits import Limits
from cci_plugins.common.shared_attempt import SharedAttempt
from cci_plugins.errors import ConfigurationError, ProtocolError, SessionLostError
from cci_plugins.mcp_client.client import DEFAULT_TIMEOUT, McpClient, parse_endpoint_url
from cci_plugins.mcp_client.executions import CONTENT_KEY, META_KEY, SIGNED_KEY, load_execution
from cci_plugins.mcp_client.http import make_http, map_protocol_errors
from cci_plugins.models import Execution
from cci_plugins.pools.base import Capabilities
from cci_plugins.pools.package_pools import PackageOptions

from .cci_server import RunTool, add_server_abilities, call_session_tool, is_cci_server
from .pool_auth import GatewayToken, PoolAuth
from .remote_pool import HARMLESS, MARGIN, RETRY_WINDOW, RemoteSessionPool
from .replies import read_execution
from .rest_client import RestClient

RUN_PYTHON = "runPythonCodeInRemoteEnvironment"
_RUN_PYTHON = re.compile(r"run_?python(_?code)?(_?in_?remote_?environment)?", re.IGNORECASE)


class Secret(Protocol):
    """A key that its `repr` hides, such as pydantic's `SecretStr`."""

    def get_secret_value(self) -> str:
        """Return the key."""
        ...


@dataclass(frozen=True, slots=True)
class _Server:
    """The server behind the endpoint, as its first answers describe it.

    Attributes:
        mcp: Client of its MCP endpoint.
        rest: Client of its REST API.
        tool: Name of the tool that runs Python.
        returns_full_results: Whether it is the cci-plugins server.
        launch_tool: Name of the tool that issues environment ids, if there is one.
        requires_launch: Whether the server accepts only the ids that this tool issued. None if
            only an attempt can show it.
    """

    mcp: McpClient
    rest: RestClient
    tool: str
    returns_full_results: bool
    launch_tool: str | None = None
    requires_launch: bool | None = False


class PlatformSessionPool(RemoteSessionPool):
    """A session pool whose MCP server is enabled on the platform.

    Code travels over MCP, which a key opens. Files travel over the pool's REST API at the same
    address. On Azure that API requires a Microsoft Entra token instead (learn.microsoft.com,
    Container Apps MCP authentication). Without a token, files travel through the session.

    Args:
        endpoint: The MCP endpoint, which ends in `/mcp`. By default Azure Resource Manager
            supplies it for `resource_id`.
        key: The pool's key. By default it is fetched for `resource_id`, and again whenever the
            pool refuses it.
        resource_id: The pool's id in Azure Resource Manager.
        credential: A credential of azure-identity, or a token. By default
            `DefaultAzureCredential`, where one is needed.
        audience: Application ID URI of a gateway that accepts tokens. The credential signs in to
            it then, and no key is needed.
        arm_endpoint: URL of Azure Resource Manager.
        limits: Limits, of which `file_bytes` bounds a transfer.
        margin: Time to wait for the answer beyond a run's own limit.
        patience: Time in which a call that did not start may be repeated.
        package_index: Where this machine downloads packages for `Session.install`: a folder of
            wheels, or the address of an index. None means the installer's default.
        allowed_packages: Names of packages that may be installed, with what they need. None for
            any.
        package_lock: A requirements file with the only versions that may be installed, and their
            hashes. None for any.

    Raises:
        ConfigurationError: Neither a key nor a resource id is given, or one of them is invalid.

    Example:
        ```python
        pool = PlatformSessionPool("https://example.org/mcp", key="the-key-of-this-pool")
        interpreter = CodeInterpreter(pool)  # connects when code first runs
        ```
    """

    capabilities = Capabilities(
        name="platform",
        outlives_app=True,
        host_tools=None,
        env=True,
        background_runs=None,
        packages=None,
    )

    def __init__(
        self,
        endpoint: str | None = None,
        *,
        key: str | Secret | None = None,
        resource_id: str | None = None,
        credential: TokenCredential | str | None = None,
        audience: str | None = None,
        arm_endpoint: str = ARM,
        limits: Limits | None = None,
        margin: Duration = MARGIN,
        patience: Duration = RETRY_WINDOW,
        package_index: str | PathLike[str] | None = None,
        allowed_packages: Sequence[str] | None = None,
        package_lock: str | PathLike[str] | None = None,
    ) -> None:
        limits = Limits() if limits is None else limits
        secret = key.get_secret_value() if key is not None and not isinstance(key, str) else key
        self._resource = (
            None
            if resource_id is None
            else PoolResource(resource_id, credential=credential, endpoint=arm_endpoint)
        )
        signs_in = not (credential is None and self._resource is None and audience is None)
        if audience is None:
            auth = _build_auth(secret, self._resource, credential)
            rest_auth = Bearer(credential) if signs_in else auth
        else:
            auth = rest_auth = _build_gateway_auth(credential, audience, secret, self._resource)
        self._http, self._rest_http = make_http(), make_http()
        self._http.auth, self._rest_http.auth = ProviderAuth(auth), ProviderAuth(rest_auth)
        self._auth, self._file_bytes = auth, limits.file_bytes
        self._endpoint = None if endpoint is None else parse_endpoint_url(endpoint.rstrip("/"))
        if self._endpoint is not None:
            (check_token_url if signs_in else warn_of_plain_key)(self._endpoint)
        self._server: _Server | None = None
        self._environments: dict[str, str] = {}
        self._launches = KeyedLocks()
        self._lost_once: set[str] = set()
        self._discovery = SharedAttempt()
        super().__init__(
            auth,
            rest_auth,
            limits=limits,
            margin=margin,
            patience=patience,
            packages=PackageOptions(package_index, allowed_packages, package_lock),
        )

    def __repr__(self) -> str:
        return f"PlatformSessionPool({str(self._endpoint or self._resource)!r})"

    @override
    async def start(self) -> None:
        """Perform the handshake and find the tool, so that a wrong key or URL fails at once."""
        async with self._discovery.hold():
            if self._server is None:
                self._server = await self._retry.call_with_renewal(self._discover_server)
                self._contact.has_answered = True

    @override
    async def aclose(self) -> None:
        await run_to_end(self._close())

    async def _close(self) -> None:
        if self._server is not None:
            await self._server.mcp.aclose()
        await self._http.aclose()
        await self._rest_http.aclose()
        if self._resource is not None:
            await self._resource.aclose()

    async def launch(self) -> str:
        """Launch a new environment on the server, to share with another client such as an agent.

        Returns:
            The environment id, which is also the identifier of its session in this pool.

        Raises:
            ProtocolError: The server has no launch tool, or it returned no id.
        """
        environment = await self._launch_environment(await self._get_server())
        self.adopt(environment)
        return environment

    def adopt(self, environment_id: str) -> None:
        """Use an environment that the server launched for another client as a session."""
        self._environments[environment_id] = environment_id

    @override
    async def _get_rest_client(self) -> RestClient:
        return (await self._get_server()).rest

    @override
    async def _returns_full_results(self, session_id: str) -> bool:
        return (await self._get_server()).returns_full_results

    @override
    async def _get_run_tool(self, session_id: str) -> RunTool:
        server = await self._get_server()
        return RunTool(server.mcp, server.tool, await self._get_environment(server, session_id))

    @override
    def _note_loss(self, session_id: str) -> None:
        self._environments.pop(session_id, None)  # it expired, or the server's secret changed

    @override
    async def _call_session_tool(
        self, session_id: str, tool: str, arguments: Mapping[str, Any]
    ) -> Mapping[str, Any]:
        server = await self._get_server()
        environment = await self._get_environment(server, session_id)
        return await call_session_tool(server.mcp, tool, arguments, environment, self._busy_limit)

    @override
    async def _run_text_only(self, session_id: str, code: str, limit: timedelta) -> Execution:
        server = await self._get_server()
        environment = await self._get_environment(server, session_id)
        try:
            execution = await _run_text(server, environment, session_id, code, limit)
        except SessionLostError:
            # the first loss may be a wrong answer to a run, about which this id is asked next
            if session_id in self._lost_once:
                self._forget(session_id)
            else:
                self._lost_once.add(session_id)
            raise
        self._lost_once.discard(session_id)
        return execution

    @override
    async def _prepare_run(self, session_id: str, wait: timedelta) -> None:
        """Check an id, since a refusal of the run itself would not prove that it did not start.

        A server that accepts any id is asked once. One that issues ids may forget each of them.
        """
        server = await self._get_server()
        if server.requires_launch is None:
            await self._call_harmless(lambda: self._get_environment(server, session_id, wait))
        elif server.requires_launch:
            try:
                await self._send_harmless(session_id, wait)
            except SessionLostError:
                self._forget(session_id)
                raise

    def _forget(self, session_id: str) -> None:
        """Forget the id that the server issued for a session."""
        self._environments.pop(session_id, None)
        self._lost_once.discard(session_id)

    @override
    async def _end_session(self, session_id: str) -> None:
        await (await self._get_rest_client()).delete_session(session_id)

    @override
    async def delete_session(self, session_id: str) -> None:
        await super().delete_session(session_id)
        self._forget(session_id)

    async def _get_environment(
        self, server: _Server, session_id: str, wait: timedelta | None = None
    ) -> str:
        """Return the server's name of a session: the identifier, or an id that it issued."""
        if server.requires_launch is None:
            server = await self._check_own_ids(server, session_id, wait or self._busy_limit)
        if not server.requires_launch:
            return session_id
        async with self._launches.hold(session_id):  # calls at once share the first one's
            environment = self._environments.get(session_id)
            if environment is None:
                environment = await self._launch_environment(server)
                self._environments[session_id] = environment
        return environment

    async def _check_own_ids(self, server: _Server, session_id: str, wait: timedelta) -> _Server:
        """Find out by harmless code whether the server accepts an id that it did not issue."""
        try:
            await _run_text(server, session_id, session_id, HARMLESS, wait)
            requires_launch = False
        except SessionLostError:
            requires_launch = True
        self._server = server = replace(server, requires_launch=requires_launch)
        return server

    async def _launch_environment(self, server: _Server) -> str:
        if server.launch_tool is None:
            raise ProtocolError("the pool has no tool that launches an environment")
        answer = await server.mcp.call_tool(server.launch_tool, {}, timeout=DEFAULT_TIMEOUT)
        environment = (answer.structured or {}).get("environmentId")
        if not isinstance(environment, str):
            raise ProtocolError(
                f"the pool's tool {server.launch_tool!r} returned no environmentId"[:500]
            )
        return environment

    async def _get_server(self) -> _Server:
        """Return the server, after finding its address and its tool once."""
        if self._server is None:
            async with self._discovery.hold():
                if self._server is None:
                    self._server = await self._retry.call_with_retry(
                        self._discover_server, idempotent=True
                    )
        return self._server

    async def _discover_server(self) -> _Server:
        endpoint = self._endpoint
        if endpoint is None:
            if self._resource is None:
                raise ConfigurationError(
                    "a platform pool needs an endpoint or a resource id",
                    hint="set AZURE_SESSION_POOL_MCP_ENDPOINT or AZURE_SESSION_POOL_RESOURCE_ID",
                )
            endpoint = parse_endpoint_url((await self._resource.fetch_mcp_endpoint()).rstrip("/"))
        mcp = McpClient(str(endpoint), http=self._http)
        description = await mcp.initialize()
        returns_full_results = is_cci_server(description)
        rest = RestClient(
            str(endpoint).removesuffix("/mcp"), file_bytes=self._file_bytes, http=self._rest_http
        )
        tools = await mcp.list_tools()
        launcher, states_launch = find_launch_tool(tools)
        can_require = launcher is not None and not returns_full_results
        requires_launch = True if states_launch else (None if can_require else False)
        # Only a gateway requires its own ids, and the sessions behind it may not stream.
        streams_output = returns_full_results and not states_launch
        capabilities = replace(
            self.capabilities,
            streams_output=streams_output,
            host_tools=False,
            background_runs=False,
            packages=False,
        )
        self.capabilities = (
            add_server_abilities(capabilities, description)
            if returns_full_results
            else capabilities
        )
        python_tool = find_python_tool(tools)
        return _Server(mcp, rest, python_tool, returns_full_results, launcher, requires_launch)


async def _run_text(
    server: _Server, environment: str, session_id: str, code: str, limit: timedelta
) -> Execution:
    arguments = {"environmentId": environment, "pythonCode": code}
    meta = {CONTENT_KEY: False} if server.returns_full_results else None
    answer = await server.mcp.call_tool(server.tool, arguments, timeout=limit, meta=meta)
    with map_protocol_errors(starts_code=True):
        if server.returns_full_results and META_KEY in answer.meta:  # not cut, as the text may be
            return load_execution(answer.meta[META_KEY], session_id)
        return read_execution(answer, session_id)


def _build_auth(
    key: str | None, resource: PoolResource | None, credential: TokenCredential | str | None
) -> AuthProvider:
    if resource is not None:
        return PoolAuth(resource, credential, key)
    if key is None:
        raise ConfigurationError(
            "a platform pool needs a key, or a resource id to fetch the key",
            hint="set AZURE_SESSION_POOL_MCP_KEY or AZURE_SESSION_POOL_RESOURCE_ID",
        )
    return StaticKey(key)


def _build_gateway_auth(
    credential: TokenCredential | str | None,
    audience: str,
    key: str | None,
    resource: PoolResource | None,
) -> AuthProvider:
    if key is not None or resource is not None:
        other = "a key" if key is not None else "a resource id"
        raise ConfigurationError(
            f"{other} and the audience of a gateway exclude each other", hint="pass one of them"
        )
    return GatewayToken(credential, audience)


def find_launch_tool(tools: list[Mapping[str, Any]]) -> tuple[str | None, bool]:
    """Find the tool that issues environment ids.

    Args:
        tools: Tools, as the server lists them.

    Returns:
        Its name, or None, and whether the server states that it accepts no other ids.
    """
    for tool in tools:
        name, meta = str(tool.get("name", "")), tool.get("_meta")
        if name.lower().startswith("launch"):
            return name, isinstance(meta, Mapping) and meta.get(SIGNED_KEY) is True
    return None, False


def find_python_tool(tools: list[Mapping[str, Any]]) -> str:
    """Find the tool that runs Python, whose name has changed more than once.

    Args:
        tools: Tools, as the server lists them.

    Returns:
        Its name.

    Raises:
        ProtocolError: The server has no such tool.
    """
    names = sorted(str(tool.get("name")) for tool in tools)
    matches = [RUN_PYTHON] if RUN_PYTHON in names else filter(_RUN_PYTHON.fullmatch, names)
    name = next(iter(matches), None)
    if name is None:
        raise ProtocolError(
            f"the pool has no tool that runs Python, only {', '.join(names) or 'no tools'}"[:500],
            hint="use a pool of container type PythonLTS",
        )
    return name

"""Sessions behind a pool's managed MCP endpoint, with a key; also behind `cci serve`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, Protocol

import anyio
from typing_extensions import override

from cci_plugins.azure.credentials import (
    AuthProvider,
    Bearer,
    FetchedKey,
    ProviderAuth,
    StaticKey,
    TokenCredential,
)
from cci_plugins.azure.options import ARM
from cci_plugins.azure.pool_resource import PoolResource
from cci_plugins.common.limits import Limits
from cci_plugins.errors import ConfigurationError, ProtocolError, SessionLostError
from cci_plugins.mcp_client.client import DEFAULT_TIMEOUT, McpClient, parse_endpoint_url
from cci_plugins.mcp_client.executions import SIGNED_KEY
from cci_plugins.mcp_client.http import make_http
from cci_plugins.models import Execution
from cci_plugins.pools.base import Capabilities, OutputHandler

from .cci_server import CCI_SERVER_NAME, RunRequest, run_full
from .remote_pool import MARGIN, RETRY_WINDOW, RemoteSessionPool
from .replies import read_execution
from .rest_client import RestClient

RUN_PYTHON = "runPythonCodeInRemoteEnvironment"
_RUN_PYTHON = re.compile(r"run_?python(_?code)?(_?in_?remote_?environment)?", re.IGNORECASE)


class Secret(Protocol):
    """A key that does not show itself, such as pydantic's `SecretStr`."""

    def get_secret_value(self) -> str:
        """The key."""
        ...


@dataclass(frozen=True, slots=True)
class _Server:
    """What is behind the endpoint.

    Attributes:
        mcp: Its MCP side.
        rest: Its REST side.
        tool: The tool that runs Python.
        tells_all: It is a server of ours, so that an answer has everything.
        launcher: The tool that gives environment ids.
        launch_tool: The same, where no other ids are taken.
    """

    mcp: McpClient
    rest: RestClient
    tool: str
    returns_full_results: bool
    launcher: str | None = None
    required_launch_tool: str | None = None


class PlatformSessionPool(RemoteSessionPool):
    """A session pool with the platform's MCP server switched on.

    Code travels by MCP, which a key opens. Files travel by the pool's REST API at the same
    address, which on Azure asks for a Microsoft Entra token instead
    (learn.microsoft.com, Container Apps MCP authentication); without one they go through the
    session.

    Args:
        endpoint: The MCP endpoint, ending in `/mcp`; asked for at Azure Resource Manager when
            None, by `resource_id`.
        key: The pool's key; fetched by `resource_id` when None, and again whenever it is refused.
        resource_id: The pool's id in Azure Resource Manager.
        credential: A credential of azure-identity, or a token; `DefaultAzureCredential` where
            one is needed and None is given.
        arm_endpoint: Azure Resource Manager's address.
        limits: `file_bytes` bounds a transfer.
        margin: Waited beyond a run's own limit for the answer.
        patience: How long what did not start may be tried again.

    Raises:
        ConfigurationError: Neither a key nor a resource id is given, or one cannot be right.
    """

    capabilities = Capabilities(name="platform", outlives_app=True)

    def __init__(
        self,
        endpoint: str | None = None,
        *,
        key: str | Secret | None = None,
        resource_id: str | None = None,
        credential: TokenCredential | str | None = None,
        arm_endpoint: str = ARM,
        limits: Limits | None = None,
        margin: timedelta = MARGIN,
        patience: timedelta = RETRY_WINDOW,
    ) -> None:
        limits = Limits() if limits is None else limits
        secret = key.get_secret_value() if key is not None and not isinstance(key, str) else key
        self._resource = (
            None
            if resource_id is None
            else PoolResource(resource_id, credential=credential, endpoint=arm_endpoint)
        )
        auth = _build_auth(secret, self._resource)
        signs_in = credential is not None or self._resource is not None
        rest_auth = Bearer(credential) if signs_in else auth
        self._http, self._rest_http = make_http(), make_http()
        self._http.auth, self._rest_http.auth = ProviderAuth(auth), ProviderAuth(rest_auth)
        self._auth, self._file_bytes = auth, limits.file_bytes
        self._endpoint = None if endpoint is None else parse_endpoint_url(endpoint.rstrip("/"))
        self._server: _Server | None = None
        self._environments: dict[str, str] = {}
        self._discovery_lock = anyio.Lock()
        super().__init__(auth, rest_auth, limits=limits, margin=margin, patience=patience)

    def __repr__(self) -> str:
        return f"PlatformSessionPool({str(self._endpoint or self._resource)!r})"

    @override
    async def start(self) -> None:
        """Shake hands and find the tool, so that a wrong key or address shows at once."""
        async with self._discovery_lock:
            if self._server is None:
                self._server = await self._retry.call_with_renewal(self._discover_server)

    @override
    async def aclose(self) -> None:
        if self._server is not None:
            await self._server.mcp.aclose()
        await self._http.aclose()
        await self._rest_http.aclose()
        if self._resource is not None:
            await self._resource.aclose()

    async def launch(self) -> str:
        """Get a new environment of the server's, to share with another client, such as an agent.

        Returns:
            Its environment id, which is also the identifier of its session here.

        Raises:
            ProtocolError: The server has no tool for it, or told no id.
        """
        server = await self._get_server()
        if server.launcher is None:
            raise ProtocolError("the pool has no tool that launches an environment")
        environment = await self._launch_environment(server.mcp, server.launcher)
        self.adopt(environment)
        return environment

    def adopt(self, environment_id: str) -> None:
        """Take an environment that the server gave to another client as a session of that name."""
        self._environments[environment_id] = environment_id

    @override
    async def _get_rest_client(self) -> RestClient:
        return (await self._get_server()).rest

    @override
    async def _returns_full_results(self, session_id: str) -> bool:
        return (await self._get_server()).returns_full_results

    @override
    async def _run_full(
        self,
        session_id: str,
        code: str,
        timeout: timedelta,
        on_output: OutputHandler | None,
        instance: str | None,
    ) -> Execution:
        server = await self._get_server()
        environment = await self._get_environment(server, session_id)
        request = RunRequest(environment, code, timeout, self._margin, instance)
        try:
            execution = await run_full(server.mcp, server.tool, request, on_output)
        except SessionLostError:
            self._environments.pop(session_id, None)  # too old, or of another secret
            raise
        return replace(execution, session_id=session_id)

    @override
    async def _run_text_only(self, session_id: str, code: str, limit: timedelta) -> Execution:
        server = await self._get_server()
        environment = await self._get_environment(server, session_id)
        arguments = {"environmentId": environment, "pythonCode": code}
        try:
            answer = await server.mcp.call_tool(server.tool, arguments, timeout=limit)
            return read_execution(answer, session_id)
        except SessionLostError as lost:
            self._environments.pop(session_id, None)
            if (
                not lost.retryable
                or server.required_launch_tool is not None
                or server.launcher is None
            ):
                raise
            # refused, so nothing ran; it may be a pool that takes no ids but those it gave
            self._server = replace(server, required_launch_tool=server.launcher)
            return await self._run_text_only(session_id, code, limit)

    @override
    async def _end_session(self, session_id: str) -> None:
        await (await self._get_rest_client()).delete_session(session_id)

    @override
    async def delete_session(self, session_id: str) -> None:
        await super().delete_session(session_id)
        self._environments.pop(session_id, None)

    async def _get_environment(self, server: _Server, session_id: str) -> str:
        """What the server knows a session by: its identifier, or what its launch tool gave."""
        if server.required_launch_tool is None:
            return session_id
        if session_id not in self._environments:
            self._environments[session_id] = await self._launch_environment(
                server.mcp, server.required_launch_tool
            )
        return self._environments[session_id]

    async def _launch_environment(self, mcp: McpClient, tool: str) -> str:
        answer = await mcp.call_tool(tool, {}, timeout=DEFAULT_TIMEOUT)
        given = (answer.structured or {}).get("environmentId")
        if not isinstance(given, str):
            raise ProtocolError("the pool launched an environment without telling its id")
        return given

    async def _get_server(self) -> _Server:
        """The server, once its address and its tool are known."""
        if self._server is None:
            async with self._discovery_lock:
                if self._server is None:
                    self._server = await self._retry.call_with_retry(
                        self._discover_server, idempotent=True
                    )
        return self._server

    async def _discover_server(self) -> _Server:
        endpoint = self._endpoint
        if endpoint is None:
            if self._resource is None:
                raise ConfigurationError("a platform pool needs an endpoint or a resource id")
            endpoint = parse_endpoint_url((await self._resource.fetch_mcp_endpoint()).rstrip("/"))
        mcp = McpClient(str(endpoint), http=self._http)
        returns_full_results = (await mcp.initialize()).get("serverInfo", {}).get(
            "name"
        ) == CCI_SERVER_NAME
        rest = RestClient(
            str(endpoint).removesuffix("/mcp"), file_bytes=self._file_bytes, http=self._rest_http
        )
        tools = await mcp.list_tools()
        self.capabilities = replace(self.capabilities, streams_output=returns_full_results)
        launcher, signs = find_launch_tool(tools)
        only = launcher if signs else None
        return _Server(mcp, rest, find_python_tool(tools), returns_full_results, launcher, only)


def _build_auth(key: str | None, resource: PoolResource | None) -> AuthProvider:
    if resource is not None:
        return FetchedKey(resource.fetch_key, key)
    if key is None:
        raise ConfigurationError(
            "a platform pool needs a key, or a resource id to fetch it by",
            hint="set AZURE_SESSION_POOL_MCP_KEY or AZURE_SESSION_POOL_RESOURCE_ID",
        )
    return StaticKey(key)


def find_launch_tool(tools: list[Mapping[str, Any]]) -> tuple[str | None, bool]:
    """The tool that gives environment ids, and whether the server says that it takes no others."""
    for tool in tools:
        meta = tool.get("_meta")
        if str(tool.get("name", "")).lower().startswith("launch"):
            signs = isinstance(meta, Mapping) and meta.get(SIGNED_KEY) is True
            return str(tool["name"]), signs
    return None, False


def find_python_tool(tools: list[Mapping[str, Any]]) -> str:
    """The tool that runs Python; its name has changed more than once.

    Raises:
        ProtocolError: There is none.
    """
    names = sorted(str(tool.get("name")) for tool in tools)
    fits = [RUN_PYTHON] if RUN_PYTHON in names else filter(_RUN_PYTHON.fullmatch, names)
    name = next(iter(fits), None)
    if name is None:
        raise ProtocolError(
            f"the pool has no tool that runs Python, only {', '.join(names) or 'none'}"[:500],
            hint="use a pool of container type PythonLTS",
        )
    return name

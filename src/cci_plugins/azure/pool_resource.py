"""A session pool in Azure Resource Manager: its MCP endpoint and its key.

The MCP properties exist only in preview versions of the API (github.com/Azure/azure-rest-api-specs,
Microsoft.App 2025-10-02-preview). Their case has changed more than once, so it is ignored.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Coroutine, Mapping
from typing import TYPE_CHECKING, Any

import anyio

from cci_plugins.errors import (
    AuthenticationError,
    CodeInterpreterError,
    ConfigurationError,
    PoolError,
    PoolUnavailableError,
    ProtocolError,
)
from cci_plugins.mcp_client.client import parse_endpoint_url

from . import api_versions
from .credentials import CachedCredential, TokenCredential
from .failures import FORBIDDEN, NOT_FOUND, SERVER_ERROR, TOO_MANY_REQUESTS, ArmError
from .options import ARM, Azure
from .resource import lowercase_keys

if TYPE_CHECKING:
    from .resource_manager import ArmClient

ROLE = "Container Apps SessionPools Contributor"
_STEP = "session pool"
_TIMEOUT_SECONDS = 30  # for more of an answer
_TOTAL_SECONDS = 180  # with the SDK's retries
_ID = re.compile(
    r"/subscriptions/[^/]+/resourceGroups/[^/]+/providers/Microsoft\.App/sessionPools/[^/]+",
    re.IGNORECASE,
)


class PoolResource:
    """One session pool in Azure Resource Manager.

    Args:
        resource_id: `/subscriptions/.../providers/Microsoft.App/sessionPools/<name>`.
        credential: A credential of azure-identity, or a token for Resource Manager.
        endpoint: Resource Manager's address. Sovereign clouds have another one.

    Raises:
        ConfigurationError: The id is not the id of a session pool.
    """

    def __init__(
        self,
        resource_id: str,
        *,
        credential: TokenCredential | str | None = None,
        endpoint: str = ARM,
    ) -> None:
        self._id = resource_id.rstrip("/")
        if not _ID.fullmatch(self._id):
            raise ConfigurationError(
                f"{resource_id!r} is not the resource id of a session pool",
                hint="az containerapp sessionpool show -n NAME -g GROUP --query id",
            )
        parse_endpoint_url(endpoint)
        self._azure = Azure(credential=CachedCredential.wrap(credential), endpoint=endpoint)
        self._client: ArmClient | None = None

    def __repr__(self) -> str:
        return f"PoolResource({self._id!r})"

    async def fetch_mcp_endpoint(self) -> str:
        """Return the pool's MCP endpoint.

        Raises:
            ConfigurationError: The pool has no MCP server. The hint names the alternative.
            AuthenticationError: The sign-in failed, or the role is missing.
            PoolError: Azure Resource Manager refused the request, or cannot be reached.
        """
        found = await self._call(
            lambda arm: arm.get(self._id, api_versions.MANAGED_POOL, step=_STEP)
        )
        if found is None:
            raise PoolError(
                f"session pool: {self._id} does not exist",
                hint="check AZURE_SESSION_POOL_RESOURCE_ID",
            )
        properties = lowercase_keys(found.get("properties"))
        endpoint = lowercase_keys(properties.get("mcpserversettings")).get("mcpserverendpoint")
        if isinstance(endpoint, str) and endpoint:
            return endpoint
        management = properties.get("poolmanagementendpoint")
        if str(properties.get("containertype", "")).lower() == "customcontainer":
            raise CustomContainerError(
                "this pool runs a custom container and has no MCP server: Azure accepts "
                "mcpServerSettings there and drops them "
                "(github.com/microsoft-foundry/foundry-samples/issues/822)",
                hint=f"unset AZURE_SESSION_POOL_RESOURCE_ID and set "
                f"AZURE_SESSION_POOL_ENDPOINT={management}",
            )
        raise ConfigurationError(
            "this pool's MCP server is not switched on",
            hint="set mcpServerSettings.isMcpServerEnabled by a PUT with api-version "
            f"{api_versions.MANAGED_POOL}, or set AZURE_SESSION_POOL_ENDPOINT={management}",
        )

    async def is_key_disabled(self) -> bool:
        """Return whether the key of the pool's MCP server is switched off, as far as is known."""
        try:
            found = await self._call(
                lambda arm: arm.get(self._id, api_versions.MANAGED_POOL, step=_STEP)
            )
        except CodeInterpreterError:
            return False
        properties = lowercase_keys((found or {}).get("properties"))
        settings = lowercase_keys(properties.get("mcpserversettings"))
        return settings.get("ismcpserverapikeydisabled") is True

    async def fetch_key(self) -> str:
        """Return the pool's key.

        Raises:
            ConfigurationError: The pool's MCP server is not switched on.
            AuthenticationError: The sign-in failed, or the role is missing.
            PoolError: Azure Resource Manager refused the request, or cannot be reached.
        """
        path = f"{self._id}/fetchMcpServerCredentials"
        try:
            answer = await self._call(
                lambda arm: arm.post(path, api_versions.MANAGED_POOL, step=_STEP)
            )
        except _McpServerMissingError as error:
            await self.fetch_mcp_endpoint()  # its error names the alternative
            raise ProtocolError(str(error)) from None
        key = lowercase_keys(answer).get("apikey")
        if not isinstance(key, str):
            raise ProtocolError("Azure Resource Manager answered without a key")
        return key

    async def aclose(self) -> None:
        """Close the connections."""
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    async def _call(
        self, call: Callable[[ArmClient], Coroutine[Any, Any, Mapping[str, Any] | None]]
    ) -> Mapping[str, Any] | None:
        if self._client is None:
            from .resource_manager import ArmClient  # noqa: PLC0415 - heavy, and an extra

            self._client = ArmClient(self._azure, read_timeout=_TIMEOUT_SECONDS)
        try:
            with anyio.fail_after(_TOTAL_SECONDS):
                return await call(self._client)
        except TimeoutError:
            raise PoolUnavailableError(
                f"{_STEP}: Azure Resource Manager did not answer within {_TOTAL_SECONDS} s"
            ) from None
        except ArmError as error:
            raise _translate_error(error) from None


class CustomContainerError(ConfigurationError):
    """The pool runs a custom container, and so has no MCP server of its own."""


class _McpServerMissingError(ProtocolError):
    """The pool has no MCP server, and so no key."""


def _translate_error(error: ArmError) -> CodeInterpreterError:
    """Return the pool's exception for a failure. `RetryPolicy` decides by its class."""
    if error.code == "SessionMCPServerNotEnabled":
        return _McpServerMissingError(str(error))
    if error.status == FORBIDDEN:
        return AuthenticationError(str(error), hint=f"assign the role {ROLE}")
    if error.status in {0, TOO_MANY_REQUESTS} or error.status >= SERVER_ERROR:
        return PoolUnavailableError(str(error), hint=error.hint)
    if error.status == NOT_FOUND:
        return PoolError(str(error), hint="check AZURE_SESSION_POOL_RESOURCE_ID")
    return ProtocolError(str(error), hint=error.hint)

"""A session pool as Azure Resource Manager tells it: its endpoints and its key.

The MCP parts exist in preview versions of the API only (github.com/Azure/azure-rest-api-specs,
Microsoft.App 2025-10-02-preview); their casing has changed more than once, so it is ignored.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import httpx

from cci_plugins.errors import AuthenticationError, ConfigurationError, ProtocolError
from cci_plugins.mcp_client.client import parse_endpoint_url
from cci_plugins.mcp_client.failures import build_error_from_status
from cci_plugins.mcp_client.http import make_http, map_transport_errors

from .credentials import Bearer, ProviderAuth, TokenCredential

ARM = "https://management.azure.com"
API_VERSION = "2025-10-02-preview"
ROLE = "Container Apps SessionPools Contributor"
_TIMEOUT_SECONDS = 30
_ID = re.compile(
    r"/subscriptions/[^/]+/resourceGroups/[^/]+/providers/Microsoft\.App/sessionPools/[^/]+",
    re.IGNORECASE,
)


class PoolResource:
    """One session pool in Azure Resource Manager.

    Args:
        resource_id: `/subscriptions/.../providers/Microsoft.App/sessionPools/<name>`.
        credential: A credential of azure-identity, or a token for Resource Manager.
        endpoint: Resource Manager's address; another one in sovereign clouds.

    Raises:
        ConfigurationError: The id is not one of a session pool.
    """

    def __init__(
        self,
        resource_id: str,
        *,
        credential: TokenCredential | str | None = None,
        endpoint: str = ARM,
    ) -> None:
        if not _ID.fullmatch(resource_id.rstrip("/")):
            raise ConfigurationError(
                "this is not the resource id of a session pool",
                hint="az containerapp sessionpool show -n NAME -g GROUP --query id",
            )
        endpoint = endpoint.rstrip("/")
        self._url = parse_endpoint_url(f"{endpoint}{resource_id.rstrip('/')}")
        self._http = make_http()
        self._http.auth = ProviderAuth(Bearer(credential, f"{endpoint}/.default"))

    def __repr__(self) -> str:
        return f"PoolResource({self._url.path!r})"

    async def fetch_mcp_endpoint(self) -> str:
        """The pool's MCP endpoint.

        Raises:
            ConfigurationError: The pool has none; the hint says what to use instead.
        """
        properties = _lowercase_keys(_lowercase_keys(await self._call("GET", "")).get("properties"))
        settings = _lowercase_keys(properties.get("mcpserversettings"))
        endpoint = settings.get("mcpserverendpoint")
        if isinstance(endpoint, str) and endpoint:
            return endpoint
        management = properties.get("poolmanagementendpoint")
        if str(properties.get("containertype", "")).lower() == "customcontainer":
            raise ConfigurationError(
                "this pool runs a custom container and has no MCP server: Azure accepts "
                "mcpServerSettings there and drops them "
                "(github.com/microsoft-foundry/foundry-samples/issues/822)",
                hint=f"unset AZURE_SESSION_POOL_RESOURCE_ID and set "
                f"AZURE_SESSION_POOL_ENDPOINT={management}",
            )
        raise ConfigurationError(
            "this pool's MCP server is not switched on",
            hint="set mcpServerSettings.isMcpServerEnabled by a PUT with api-version "
            f"{API_VERSION}, or set AZURE_SESSION_POOL_ENDPOINT={management}",
        )

    async def fetch_key(self) -> str:
        """The pool's key.

        Raises:
            ConfigurationError: The pool's MCP server is not switched on.
            AuthenticationError: The role is missing.
        """
        reply = await self._call("POST", "/fetchMcpServerCredentials")
        key = _lowercase_keys(reply).get("apikey")
        if not isinstance(key, str):
            raise ProtocolError("Azure Resource Manager answered without a key")
        return key

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def _call(self, method: str, action: str) -> Mapping[str, Any]:
        url = self._url.copy_with(path=f"{self._url.path}{action}")
        with map_transport_errors(starts_code=False):
            response = await self._http.request(
                method, url, params={"api-version": API_VERSION}, timeout=_TIMEOUT_SECONDS
            )
        if response.is_success:
            return _parse_object(response)
        if "SessionMCPServerNotEnabled" in response.text:
            await self.fetch_mcp_endpoint()  # has the better words for it
        error = build_error_from_status(
            response.status_code, response.headers, response.content, starts_code=False
        )
        if isinstance(error, AuthenticationError):
            raise AuthenticationError(f"Resource Manager: {error}", hint=f"assign the role {ROLE}")
        raise error


def _parse_object(response: httpx.Response) -> Mapping[str, Any]:
    try:
        value = response.json()
    except ValueError:
        value = None
    if not isinstance(value, Mapping):
        raise ProtocolError("Azure Resource Manager did not answer with a JSON object")
    return value


def _lowercase_keys(value: object) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        return {}
    return {str(name).lower(): item for name, item in value.items()}

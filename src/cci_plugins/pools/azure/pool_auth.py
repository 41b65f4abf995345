"""Sign-in to an MCP server: the key of a managed pool, or a token.

A gateway may accept tokens for an audience of its own (`cci serve --entra`).

`isMcpServerApiKeyDisabled` switches the key off. Nothing documents what opens the server then. A
token for the data plane is an assumption, so it is tried once, and the error
calls it one.
"""

from __future__ import annotations

from collections.abc import Mapping

from typing_extensions import override

from cci_plugins.azure.credentials import DATA_PLANE_SCOPE, Bearer, FetchedKey, TokenCredential
from cci_plugins.azure.pool_resource import PoolResource
from cci_plugins.errors import AuthenticationError, CodeInterpreterError, ConfigurationError


class PoolAuth(FetchedKey):
    """The key of a pool, fetched from Azure Resource Manager, or else a token.

    Args:
        resource: The pool.
        credential: The sign-in for a token.
        first: The key to start with.
    """

    def __init__(
        self,
        resource: PoolResource,
        credential: TokenCredential | str | None,
        first: str | None = None,
    ) -> None:
        super().__init__(resource.fetch_key, first)
        self._resource = resource
        self._token = Bearer(credential)
        self._uses_token = False

    @override
    async def headers(self) -> Mapping[str, str]:
        if not self._uses_token:
            try:
                return await super().headers()
            except CodeInterpreterError:
                if not await self._switch_to_token():
                    raise
        return await self._token.headers()

    @override
    def check_url(self, url: str) -> None:
        if self._uses_token:
            self._token.check_url(url)

    @override
    async def renew(self, version: int) -> bool:
        if self._uses_token:
            if version != self.version:
                return True
            scope = DATA_PLANE_SCOPE.removesuffix("/.default")
            raise AuthenticationError(
                "the key of the pool's MCP server is switched off (isMcpServerApiKeyDisabled), and "
                f"the server refuses a token for {scope} too, which was only an assumption",
                hint="switch the key on again, or use the pool without MCP: set "
                "AZURE_SESSION_POOL_ENDPOINT instead",
            )
        if self._key is not None and await self._switch_to_token():
            return True
        return await super().renew(version)

    async def _switch_to_token(self) -> bool:
        if not self._uses_token and await self._resource.is_key_disabled():
            self._uses_token = True
            self.version += 1
        return self._uses_token


class GatewayToken(Bearer):
    """A Microsoft Entra token for a gateway's own audience, which the application names.

    Args:
        credential: As in `Bearer`.
        audience: Application ID URI or client id that the gateway accepts tokens for.
    """

    def __init__(self, credential: TokenCredential | str | None, audience: str) -> None:
        if not audience or not audience.isascii() or not audience.isprintable() or " " in audience:
            raise ConfigurationError(
                f"the audience {audience!r} is not an application's ID URI",
                hint="pass what the gateway has as --audience, such as api://<client id>",
            )
        super().__init__(credential, f"{audience.removesuffix('/.default')}/.default")

    @override
    def check_url(self, url: str) -> None:
        """Allow every host: the token opens nothing but what accepts this audience."""

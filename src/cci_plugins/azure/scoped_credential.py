"""A credential for one service, whose answers cannot ask for a token of another.

After a refusal, azure-storage-blob asks for whatever scope and tenant the host names in its
`WWW-Authenticate` header (`AsyncStorageBearerTokenCredentialPolicy`). A host could so get a token
of another service. The policies of azure-core, for Resource Manager and Foundry, keep their scope
and pass claims only.
"""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

from cci_plugins.common.log import logger

from .credentials import CachedCredential

STORAGE_SCOPE = "https://storage.azure.com/.default"


class ScopedCredential:
    """An asynchronous credential for an SDK that gives out tokens of one scope.

    A tenant that the service names counts only if the user's credential allows it by
    `additionally_allowed_tenants`. Otherwise the credential's own tenant is used.

    Args:
        credential: The sign-in, which this object never closes.
        scope: The only scope.
    """

    def __init__(self, credential: CachedCredential, scope: str) -> None:
        self._credential = credential
        self._scope = scope

    async def get_token(
        self,
        *scopes: str,
        claims: str | None = None,
        tenant_id: str | None = None,
        **_options: Any,
    ) -> Any:
        """Return a token for the one scope.

        Args:
            *scopes: The scopes that the SDK asks for.
            claims: Claims that the service demanded after a refusal.
            tenant_id: The tenant that the service named after a refusal.

        Raises:
            AuthenticationError: The sign-in failed.
            ConfigurationError: The extra `azure` is not installed.
        """
        is_refused = tenant_id is not None and not self._credential.allows_tenant(tenant_id)
        if scopes != (self._scope,) or is_refused:
            logger.info("a service named another scope or tenant, which gets no token")
        return await self._credential.get_token(
            self._scope, claims=claims, tenant_id=None if is_refused else tenant_id
        )

    async def close(self) -> None:
        """Do nothing, because the sign-in is not this object's."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        pass

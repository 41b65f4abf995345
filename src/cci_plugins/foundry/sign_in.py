"""A credential as the asynchronous clients of Azure's SDKs take one."""

from __future__ import annotations

import asyncio
import time
from types import TracebackType
from typing import Any, Self
from weakref import WeakKeyDictionary

from azure.core.credentials import AccessToken

from cci_plugins.azure.credentials import Bearer, TokenCredential

_REFRESH_SECONDS = 60  # seconds; `Bearer` knows when a token really ends


class CachedCredential:
    """Tokens for each scope, fetched once and kept until they are due.

    Args:
        credential: A blocking or asynchronous credential of azure-identity, or a token; None
            signs in as `DefaultAzureCredential` does.
    """

    def __init__(self, credential: TokenCredential | str | None) -> None:
        self._credential = credential
        self._bearers: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, Bearer]] = (
            WeakKeyDictionary()
        )

    def bearer(self, scope: str) -> Bearer:
        """What holds the token for a scope, on this event loop."""
        bearers = self._bearers.setdefault(asyncio.get_running_loop(), {})
        return bearers.setdefault(scope, Bearer(self._credential, scope))

    async def get_token(self, *scopes: str, **_options: Any) -> AccessToken:
        """A token for these scopes.

        Raises:
            AuthenticationError: Signing in failed.
        """
        headers = await self.bearer(scopes[0]).headers()
        token = headers["authorization"].removeprefix("Bearer ")
        return AccessToken(token, int(time.time()) + _REFRESH_SECONDS)

    async def close(self) -> None:
        """Leave the credential to who made it."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        """Leave the credential to who made it."""

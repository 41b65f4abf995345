"""What opens a pool: a key as given or from Azure Resource Manager, or a Microsoft Entra token."""

from __future__ import annotations

import inspect
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from typing import Any, Protocol

import anyio
import httpx
from typing_extensions import override

from cci_plugins.common.log import logger
from cci_plugins.errors import AuthenticationError, CodeInterpreterError, ConfigurationError
from cci_plugins.redaction import know

KEY_HEADER = "x-ms-apikey"
DATA_PLANE_SCOPE = "https://dynamicsessions.io/.default"
RENEW_BEFORE_SECONDS = 300  # a token is renewed so long before it expires
RENEW_RETRY_SECONDS = 30  # between tries to renew one that still holds


class AccessToken(Protocol):
    """What a credential gives, as `azure.core.credentials.AccessToken`."""

    @property
    def token(self) -> str:
        """The token."""
        ...

    @property
    def expires_on(self) -> int:
        """When it expires, in seconds since 1970."""
        ...


class TokenCredential(Protocol):
    """A credential of azure-identity, blocking or asynchronous."""

    def get_token(self, *scopes: str) -> Any:
        """A token for these scopes, or an awaitable of one."""
        ...


class AuthProvider(ABC):
    """Headers that let requests in, and a way to get better ones.

    Attributes:
        version: Changes with every renewal.
    """

    version = 0

    @abstractmethod
    async def headers(self) -> Mapping[str, str]:
        """The headers to send now."""

    async def renew(self, version: int) -> bool:
        """Get new headers after a refusal; False when there is nothing else to try.

        Args:
            version: The version that was refused.
        """
        return version != self.version

    async def aclose(self) -> None:  # noqa: B027 - most hold nothing
        """Close what it holds."""


class StaticKey(AuthProvider):
    """A key that never changes."""

    def __init__(self, key: str) -> None:
        self._headers = {KEY_HEADER: validate_secret(key)}

    @override
    async def headers(self) -> Mapping[str, str]:
        return self._headers


class FetchedKey(AuthProvider):
    """A key that is fetched when it is needed, and again when it is refused.

    Args:
        fetch: Gets the pool's key.
        first: A key to begin with.
    """

    def __init__(self, fetch: Callable[[], Awaitable[str]], first: str | None = None) -> None:
        self._fetch = fetch
        self._key = None if first is None else validate_secret(first)
        self._fetch_lock = anyio.Lock()

    @override
    async def headers(self) -> Mapping[str, str]:
        if self._key is None:
            await self.renew(self.version)
        return {KEY_HEADER: self._key or ""}

    @override
    async def renew(self, version: int) -> bool:
        async with self._fetch_lock:
            if version == self.version:
                old, self._key = self._key, validate_secret(await self._fetch())
                self.version += 1
                return self._key != old
        return True


class Bearer(AuthProvider):
    """A Microsoft Entra token: one request for it at a time, and only when one is due.

    Args:
        credential: A credential of azure-identity, or a token; None signs in as
            `DefaultAzureCredential` does.
        scope: What the token is for.
    """

    def __init__(
        self, credential: TokenCredential | str | None, scope: str = DATA_PLANE_SCOPE
    ) -> None:
        self._static_token = validate_secret(credential) if isinstance(credential, str) else None
        self._credential = None if isinstance(credential, str) else credential
        self._scope = scope
        self._token: AccessToken | None = None
        self._renew_at = 0.0
        self._fetch_lock = anyio.Lock()

    @override
    async def headers(self) -> Mapping[str, str]:
        return {"authorization": f"Bearer {self._static_token or await self._get_current_token()}"}

    @override
    async def renew(self, version: int) -> bool:
        if self._static_token is not None:
            return False
        async with self._fetch_lock:
            if version == self.version:
                old = self._token
                await self._fetch()
                return old is None or self._token is None or old.token != self._token.token
        return True

    async def _get_current_token(self) -> str:
        if time.time() >= self._renew_at:
            async with self._fetch_lock:
                if time.time() >= self._renew_at:
                    await self._fetch_or_keep()
        if self._token is None:
            raise AuthenticationError("there is no token for the pool", hint="run: az login")
        return self._token.token

    async def _fetch_or_keep(self) -> None:
        try:
            await self._fetch()
        except CodeInterpreterError as error:
            if self._token is None or self._token.expires_on <= time.time():
                raise
            self._renew_at = time.time() + RENEW_RETRY_SECONDS
            logger.warning("the token could not be renewed yet, the old one still holds: %s", error)

    async def _fetch(self) -> None:
        if self._credential is None:
            self._credential = await anyio.to_thread.run_sync(create_default_credential)
        get_token = self._credential.get_token
        try:
            if inspect.iscoroutinefunction(get_token):
                token = await get_token(self._scope)
            else:
                token = await anyio.to_thread.run_sync(
                    get_token, self._scope, abandon_on_cancel=True
                )
        except Exception as error:  # noqa: BLE001 - whatever the credential raises
            message = str(error).strip().partition("\n")[0][:300]
            raise AuthenticationError(
                f"signing in to Azure failed ({type(error).__name__}: {message})",
                hint="run: az login; or give the app a managed identity",
            ) from None
        self._token = token
        self._renew_at = max(
            token.expires_on - RENEW_BEFORE_SECONDS, time.time() + RENEW_RETRY_SECONDS
        )
        self.version += 1


class ProviderAuth(httpx.Auth):
    """Puts an access's headers on every request of an HTTP client."""

    def __init__(self, auth: AuthProvider) -> None:
        self._auth = auth

    @override
    async def async_auth_flow(
        self, request: httpx.Request
    ) -> AsyncGenerator[httpx.Request, httpx.Response]:
        request.headers.update(await self._auth.headers())
        yield request


def validate_secret(value: str) -> str:
    """A key or token that can be sent; from now on it is covered wherever it comes out.

    Raises:
        ConfigurationError: It cannot; it is not repeated.
    """
    if not value or not value.isascii() or not value.isprintable() or " " in value:
        raise ConfigurationError(
            "the pool's key or token has characters that none has", hint="copy it once more"
        )
    know(value)
    return value


def create_default_credential() -> TokenCredential:
    """The sign-in of this machine, as `DefaultAzureCredential` finds it.

    Raises:
        ConfigurationError: The extra `azure` is not installed.
    """
    try:
        from azure.identity import DefaultAzureCredential  # noqa: PLC0415 - heavy, and an extra
    except ModuleNotFoundError:
        raise ConfigurationError(
            "signing in to Azure needs azure-identity", hint='pip install "cci-plugins[azure]"'
        ) from None
    credential: TokenCredential = DefaultAzureCredential()
    return credential

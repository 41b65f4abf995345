"""Keys and Microsoft Entra tokens for requests to Azure.

`CachedCredential` is the only adapter of a credential in this package. It turns whatever a user
passes into an asynchronous credential for Azure's SDKs. `AuthProvider` supplies the headers of an
HTTP client and replaces them after a refusal. `Bearer` builds them from a `CachedCredential`.

Rules of `CachedCredential`:

* Tokens are cached per scope and tenant, and fetched again shortly before they expire. While a
  renewal fails, a token that is still valid stays in use.
* Callers on one event loop share one request for a token. Two loops may each send one.
* A blocking credential runs in a worker thread.
* An asynchronous credential holds connections of one event loop. It always runs on the first loop
  that asked for a token, as long as that loop runs. Other loops send their call there and wait.
* A credential that the user passed is never closed here: other clients may use it too.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import inspect
import json
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping
from functools import partial
from types import TracebackType
from typing import Any, NamedTuple, Protocol, Self, TypeAlias
from weakref import WeakKeyDictionary

import anyio
import anyio.to_thread
import httpx
from typing_extensions import override

from cci_plugins.common.azure_hosts import check_sign_in_host
from cci_plugins.common.log import logger
from cci_plugins.errors import AuthenticationError, CodeInterpreterError, ConfigurationError
from cci_plugins.redaction import know

from .default_credential import build_sign_in_hint, create_default_credential
from .encryption import check_token_url, warn_of_plain_key
from .failures import choose_sign_in_reason
from .sign_in_time import call_within

KEY_HEADER = "x-ms-apikey"
DATA_PLANE_SCOPE = "https://dynamicsessions.io/.default"
RENEW_BEFORE_SECONDS = 300  # a token is renewed this long before it expires
RENEW_RETRY_SECONDS = 30  # between attempts to renew a token that is still valid
SIGN_IN_SECONDS = 300.0  # for the sign-in of this machine
INTERACTIVE_SECONDS = 1_200.0  # for a credential of the user, which may open a browser
_NO_EXPIRY = 2**33  # a token that the user passed as text does not report its end
_TOKEN_PARTS = 3


class AccessToken(Protocol):
    """A token with its end, such as `azure.core.credentials.AccessToken`."""

    @property
    def token(self) -> str:
        """The token."""
        ...

    @property
    def expires_on(self) -> int:
        """The end of the token, in seconds since 1970."""
        ...


class TokenCredential(Protocol):
    """A credential of azure-identity, blocking or asynchronous."""

    def get_token(self, *scopes: str) -> Any:
        """Return a token for these scopes, or an awaitable of one."""
        ...


TokenSource: TypeAlias = TokenCredential | Callable[..., Any] | str
"""A credential, a token, or a function that takes scopes and returns a token or an awaitable."""


class _Token(NamedTuple):
    """A token in the form that Azure's SDKs read. This module works without azure-core."""

    token: str
    expires_on: int


class _CacheEntry:
    """The token for one scope and tenant.

    Attributes:
        token: The last token, or None before the first.
        renew_at: Seconds since 1970 from which a new token is fetched.
        version: The number of tokens fetched so far.
    """

    def __init__(self) -> None:
        self.token: AccessToken | None = None
        self.renew_at = 0.0
        self.version = 0
        self._locks: WeakKeyDictionary[asyncio.AbstractEventLoop, anyio.Lock] = WeakKeyDictionary()

    @property
    def lock(self) -> anyio.Lock:
        """The lock around a fetch. Each event loop has its own, because locks cannot cross."""
        return self._locks.setdefault(asyncio.get_running_loop(), anyio.Lock())


class CachedCredential:
    """An asynchronous credential for Azure's SDKs that works on every event loop.

    Args:
        source: A blocking or asynchronous credential of azure-identity, a token, or a function
            that takes scopes and returns a token or an awaitable of one. None signs in with
            `DefaultAzureCredential`.

    Example:
        ```python
        from cci_plugins.azure.credentials import CachedCredential


        async def fetch_token() -> str:
            credential = CachedCredential("a-token")
            return (await credential.get_token("https://dynamicsessions.io/.default")).token
        ```
    """

    def __init__(self, source: TokenSource | None = None) -> None:
        self._source = validate_secret(source) if isinstance(source, str) else source
        self._default: Any = None
        self._home_loop: asyncio.AbstractEventLoop | None = None
        self._entries: dict[tuple[str, ...], _CacheEntry] = {}

    @classmethod
    def wrap(cls, source: TokenSource | CachedCredential | None) -> CachedCredential:
        """Return `source` itself if it is an adapter already, and else an adapter of it."""
        return source if isinstance(source, CachedCredential) else cls(source)

    async def get_token(
        self,
        *scopes: str,
        claims: str | None = None,
        tenant_id: str | None = None,
        **_options: Any,
    ) -> Any:
        """Return a token for these scopes.

        Args:
            *scopes: The scopes of the token.
            claims: Claims that a service demanded after a refusal. The cache is skipped.
            tenant_id: The tenant that a service named after a refusal.

        Returns:
            An object with `token` and `expires_on`.

        Raises:
            AuthenticationError: The sign-in failed.
            ConfigurationError: The extra `azure` is not installed.
        """
        named = {"claims": claims, "tenant_id": tenant_id}
        options = {name: value for name, value in named.items() if value}
        entry = self._get_entry(*scopes, tenant_id or "")
        if claims:
            async with entry.lock:
                await self._fetch(entry, scopes, options)
        elif time.time() >= entry.renew_at:
            async with entry.lock:
                if time.time() >= entry.renew_at:
                    await self._fetch_or_keep(entry, scopes, options)
        return entry.token

    def get_version(self, scope: str) -> int:
        """Return the number of tokens that were fetched for a scope."""
        return self._get_entry(scope, "").version

    async def renew(self, scope: str, version: int) -> bool:
        """Replace a token that was refused.

        Args:
            scope: The scope of the token.
            version: The version that was refused. Another version was renewed already.

        Returns:
            Whether there is another token to try.
        """
        if isinstance(self._source, str):
            return False
        entry = self._get_entry(scope, "")
        async with entry.lock:
            if version == entry.version:
                old = entry.token
                await self._fetch(entry, (scope,), {})
                return old is None or entry.token is None or old.token != entry.token.token
        return True

    @property
    def is_default(self) -> bool:
        """Whether it signs in as this machine does, because nobody passed a credential."""
        return self._source is None or self._default is not None

    def allows_tenant(self, tenant_id: str) -> bool:
        """Return whether the user's credential was made with leave for another tenant.

        Args:
            tenant_id: A tenant that a service named.
        """
        return not {"*", tenant_id}.isdisjoint(_iter_allowed_tenants(self._source))

    async def close(self) -> None:
        """Close the default credential if this adapter created one. The user's stays open."""
        default, self._default = self._default, None
        if default is not None:
            self._source = None
            await anyio.to_thread.run_sync(default.close)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        await self.close()

    def _get_entry(self, *key: str) -> _CacheEntry:
        return self._entries.setdefault(key, _CacheEntry())

    async def _fetch_or_keep(
        self, entry: _CacheEntry, scopes: tuple[str, ...], options: dict[str, str]
    ) -> None:
        try:
            await self._fetch(entry, scopes, options)
        except CodeInterpreterError as error:
            if entry.token is None or entry.token.expires_on <= time.time():
                raise
            entry.renew_at = time.time() + RENEW_RETRY_SECONDS
            logger.warning("the token was not renewed, the old one is still valid: %s", error)

    async def _fetch(
        self, entry: _CacheEntry, scopes: tuple[str, ...], options: dict[str, str]
    ) -> None:
        source = self._source
        if source is None:
            source = self._default = await anyio.to_thread.run_sync(create_default_credential)
            self._source = source
        limit = SIGN_IN_SECONDS if self._default is not None else INTERACTIVE_SECONDS
        try:
            with anyio.fail_after(limit):
                token = await self._ask_source(source, scopes, options)
        except Exception as error:  # noqa: BLE001 - whatever the credential raises
            message = choose_sign_in_reason(str(error))
            if isinstance(error, TimeoutError):
                message = message or f"no answer within {limit:.0f} s"
            raise AuthenticationError(
                f"signing in to Azure failed ({type(error).__name__}: {message})",
                hint=build_sign_in_hint(),
            ) from None
        entry.token = token
        entry.renew_at = max(
            token.expires_on - RENEW_BEFORE_SECONDS, time.time() + RENEW_RETRY_SECONDS
        )
        entry.version += 1

    async def _ask_source(
        self, source: Any, scopes: tuple[str, ...], options: dict[str, str]
    ) -> AccessToken:
        if isinstance(source, str):
            return _Token(source, _NO_EXPIRY)
        get_token: Callable[..., Any] = getattr(source, "get_token", source)
        call = partial(get_token, *scopes, **(options if _accepts_options(get_token) else {}))
        if inspect.iscoroutinefunction(get_token):
            token = call()
        else:
            if source is self._default:  # its thread ends in time, also without its caller
                call = partial(call_within, SIGN_IN_SECONDS, call)
            # a limiter of its own, since a call without an end would keep a place of the shared one
            token = await anyio.to_thread.run_sync(
                call, abandon_on_cancel=True, limiter=anyio.CapacityLimiter(1)
            )
        if inspect.isawaitable(token):
            token = await self._await_on_home_loop(token)
        if isinstance(token, str):
            return _Token(token, int(decode_claims(token).get("exp") or time.time()))
        result: AccessToken = token
        return result

    async def _await_on_home_loop(self, token: Awaitable[Any]) -> Any:
        """Await a token on the loop that an asynchronous credential's connections belong to."""
        here = asyncio.get_running_loop()
        if self._home_loop is None or not self._home_loop.is_running():
            self._home_loop = here
        if self._home_loop is here:
            return await token
        return await asyncio.wrap_future(
            asyncio.run_coroutine_threadsafe(_await(token), self._home_loop)
        )


class AuthProvider(ABC):
    """Headers that authenticate requests, and a way to replace them after a refusal.

    Attributes:
        version: A number that changes with every renewal.
    """

    version = 0

    @abstractmethod
    async def headers(self) -> Mapping[str, str]:
        """Return the headers to send now."""

    async def renew(self, version: int) -> bool:
        """Get new headers after a refusal.

        Args:
            version: The version that was refused.

        Returns:
            Whether there is anything else to try.
        """
        return version != self.version

    def check_url(self, url: str) -> None:  # noqa: B027 - a key goes wherever the user sends it
        """Refuse to send the headers to a URL.

        Args:
            url: The URL of a request.

        Raises:
            ConfigurationError: They must not be sent there.
        """

    async def aclose(self) -> None:  # noqa: B027 - most hold nothing
        """Release what this provider holds."""


class StaticKey(AuthProvider):
    """A key that never changes."""

    def __init__(self, key: str) -> None:
        self._headers = {KEY_HEADER: validate_secret(key)}

    @override
    async def headers(self) -> Mapping[str, str]:
        return self._headers


class FetchedKey(AuthProvider):
    """A key that is fetched at its first use, and again after a refusal.

    Args:
        fetch: Fetches the pool's key.
        first: The key to start with.
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
    """A Microsoft Entra token for one scope.

    Args:
        credential: A credential of azure-identity, a token, or another source of
            `CachedCredential`. None signs in with `DefaultAzureCredential`.
        scope: The scope of the token.
    """

    def __init__(
        self,
        credential: TokenSource | CachedCredential | None,
        scope: str = DATA_PLANE_SCOPE,
    ) -> None:
        self._credential = CachedCredential.wrap(credential)
        self._scope = scope

    @override
    def check_url(self, url: str) -> None:
        if self._credential.is_default:
            check_sign_in_host(url, "sessions")

    @override
    async def headers(self) -> Mapping[str, str]:
        token = await self._credential.get_token(self._scope)
        self.version = self._credential.get_version(self._scope)
        return {"authorization": f"Bearer {token.token}"}

    @override
    async def renew(self, version: int) -> bool:
        renewed = await self._credential.renew(self._scope, version)
        self.version = self._credential.get_version(self._scope)
        return renewed


class ProviderAuth(httpx.Auth):
    """Authentication of an HTTP client by the headers of an `AuthProvider`.

    Without encryption, tokens go to this machine only. A key goes anywhere, with one warning.
    """

    def __init__(self, auth: AuthProvider) -> None:
        self._auth = auth

    @override
    async def async_auth_flow(
        self, request: httpx.Request
    ) -> AsyncGenerator[httpx.Request, httpx.Response]:
        self._auth.check_url(str(request.url))
        headers = await self._auth.headers()
        if "authorization" in headers:
            check_token_url(request.url)
        else:
            warn_of_plain_key(request.url)
        request.headers.update(headers)
        yield request


def validate_secret(value: str) -> str:
    """Return a key or token that can be sent, and redact it from now on.

    Raises:
        ConfigurationError: It has characters that no key has. The message does not repeat it.
    """
    if not value or not value.isascii() or not value.isprintable() or " " in value:
        raise ConfigurationError(
            "the pool's key or token is invalid: it is empty, or has spaces or characters that "
            "cannot be sent",
            hint="copy the key or token again",
        )
    know(value)
    return value


def decode_claims(token: str) -> dict[str, Any]:
    """Return the claims of a Microsoft Entra token, or an empty dictionary for any other text.

    The signature is not checked: Azure checks it when the token is used.
    """
    parts = token.split(".")
    if len(parts) != _TOKEN_PARTS:
        return {}
    try:
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except (ValueError, binascii.Error):
        return {}
    return claims if isinstance(claims, dict) else {}


def _iter_allowed_tenants(source: object) -> Iterator[str]:
    """Yield the `additionally_allowed_tenants` of a credential and of those that it consists of.

    azure-identity keeps both in private attributes (seen in 1.27). Without them none is allowed.
    """
    found = getattr(source, "_additionally_allowed_tenants", None)
    if isinstance(found, list | tuple | set):
        yield from map(str, found)
    chained = getattr(source, "credentials", ())
    parts = (getattr(source, "_credential", None), getattr(source, "_client", None))
    for part in (*parts, *(chained if isinstance(chained, list | tuple) else ())):
        if part is not None:
            yield from _iter_allowed_tenants(part)


def _accepts_options(get_token: Callable[..., Any]) -> bool:
    """Return whether a function takes keyword options, as credentials of azure-identity do."""
    try:
        parameters = inspect.signature(get_token).parameters.values()
    except (TypeError, ValueError):
        return False
    return any(one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters)


async def _await(value: Awaitable[Any]) -> Any:
    return await value

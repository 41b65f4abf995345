"""Sign-in with Microsoft Entra: access tokens of one tenant, for one audience.

A token is accepted if one of the tenant's keys signed it, and if issuer, tenant, audience and times
fit. Version 1 and version 2 of these tokens differ in the issuer and in the names of some claims
(learn.microsoft.com, Access tokens in the Microsoft identity platform). Which one a client gets is
a setting of the application that the audience belongs to.

The keys come from the tenant's JWKS document. They are fetched with the first token, again when
they are old, and again for a token that names an unknown key, because Entra rotates its keys.
Anybody can send such a token, so the fetches of a minute are limited.
"""

from __future__ import annotations

import re
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import anyio
import httpx
import jwt

from cci_plugins.common.http_bodies import ACCEPT_ENCODING
from cci_plugins.common.log import logger
from cci_plugins.errors import ConfigurationError, ProtocolError
from cci_plugins.mcp_client.bodies import read_body

AUTHORITY = "https://login.microsoftonline.com"
_ALGORITHM = "RS256"
_MIN_KEY_BITS = 2048
_MAX_TOKEN_CHARACTERS = 16_384
_MAX_KEYS_BYTES = 1024**2
_MAX_KEYS = 100
_FETCH_SECONDS = 10
_MINUTE = 60
_MAX_FETCHES_PER_MINUTE = 5
_REFRESH_SECONDS = 3600
_KEEP_SECONDS = 24 * 3600  # while the document cannot be fetched
_TENANT = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
# The issuers of version 1 are the same for every client of a cloud.
_FIRST_ISSUERS = ("https://sts.windows.net", "https://sts.chinacloudapi.cn")


class TokenError(Exception):
    """A token that is not accepted. The message names no claim's value."""


class CallerError(Exception):
    """A valid token of an identity that is not on the list."""


class KeysError(Exception):
    """The tenant's keys cannot be fetched, so that nobody's token can be checked now."""


@dataclass(frozen=True, slots=True)
class _Keys:
    """The tenant's keys by their id, and when they were fetched."""

    keys: Mapping[str, Any] = field(default_factory=dict)
    fetched: float = float("-inf")


class EntraSignIn:
    """Check of access tokens.

    Args:
        tenant: Id of the tenant that issues the tokens.
        audiences: Application ID URIs or client ids that a token may be for. For `api://<client
            id>` the client id is accepted too, since version 2 names that.
        callers: Object ids of users and service principals, and client ids of applications. Empty
            accepts every identity of the tenant.
        authority: Where the tenant's keys are: the sign-in address of the cloud.
        clock: Returns seconds that only grow.

    Raises:
        ConfigurationError: An argument is invalid.

    Example:
        ```python
        sign_in = EntraSignIn(
            "11111111-2222-3333-4444-555555555555", audiences=["api://code-interpreter"]
        )
        ```
    """

    def __init__(
        self,
        tenant: str,
        *,
        audiences: Sequence[str],
        callers: Sequence[str] = (),
        authority: str = AUTHORITY,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if _TENANT.fullmatch(tenant) is None:
            raise ConfigurationError(
                f"{tenant!r} is not the id of a tenant",
                hint="find it with: az account show --query tenantId",
            )
        if not audiences or not all(audiences):
            raise ConfigurationError(
                "the sign-in with Entra needs an audience",
                hint="pass the application's ID URI, such as api://<client id>",
            )
        self._tenant = tenant.lower()
        self._audiences = _add_client_ids(audiences)
        self._callers = frozenset(caller.lower() for caller in callers)
        authority = _check_authority(authority)
        self._url = f"{authority}/{self._tenant}/discovery/v2.0/keys"
        self._issuers = [
            *(f"{issuer}/{self._tenant}/" for issuer in _FIRST_ISSUERS),
            *(f"{issuer}/{self._tenant}/v2.0" for issuer in (authority, AUTHORITY)),
        ]
        self._clock = clock
        self._keys = _Keys()
        self._attempts: deque[float] = deque(maxlen=_MAX_FETCHES_PER_MINUTE)
        self._fetching = anyio.Lock()

    def __repr__(self) -> str:
        return f"EntraSignIn({self._tenant!r}, audiences={self._audiences})"

    @property
    def accepts_every_caller(self) -> bool:
        """Whether no list of callers restricts the tenant's identities."""
        return not self._callers

    async def check(self, token: str) -> str:
        """Return the identity behind an access token.

        Raises:
            TokenError: The token is not valid here.
            CallerError: The identity is not on the list of callers.
            KeysError: The tenant's keys cannot be fetched.
        """
        key = await self._find_key(_read_key_id(token))
        claims = self._decode(token, key)
        names = [claims.get(name) for name in ("oid", "azp", "appid", "sub")]
        identity = [name.lower() for name in names if isinstance(name, str) and name]
        if not identity:
            raise TokenError("the token names no identity")
        if self._callers and not self._callers.intersection(identity):
            raise CallerError("the identity is not on the list of callers")
        return f"{self._tenant}/{identity[0]}"

    def _decode(self, token: str, key: Any) -> Mapping[str, Any]:
        try:
            claims: dict[str, Any] = jwt.decode(
                token,
                key,
                algorithms=[_ALGORITHM],
                audience=self._audiences,
                options={"require": ["exp", "iss", "aud"]},
            )
        except jwt.PyJWTError as error:
            raise TokenError(_describe(error)) from None
        tenant = str(claims.get("tid", self._tenant)).lower()
        if claims["iss"] not in self._issuers or tenant != self._tenant:
            raise TokenError("another tenant issued the token")
        return claims

    async def _find_key(self, key_id: str) -> Any:
        """Return a key of the tenant, after fetching the keys where that may help."""
        if key_id not in self._keys.keys or self._is_older(_REFRESH_SECONDS):
            async with self._fetching:
                if key_id not in self._keys.keys or self._is_older(_REFRESH_SECONDS):
                    await self._fetch()
        if self._is_older(_KEEP_SECONDS):
            raise KeysError("the tenant's keys cannot be fetched")
        if key_id not in self._keys.keys:
            raise TokenError("no key of the tenant signed the token")
        return self._keys.keys[key_id]

    def _is_older(self, seconds: float) -> bool:
        return self._clock() - self._keys.fetched > seconds

    async def _fetch(self) -> None:
        """Fetch the keys, unless that was tried too often. A failure keeps the old ones."""
        is_full = len(self._attempts) == _MAX_FETCHES_PER_MINUTE
        if is_full and self._clock() - self._attempts[0] < _MINUTE:
            return
        self._attempts.append(self._clock())
        try:
            with anyio.fail_after(_FETCH_SECONDS):
                keys = _parse_keys(await _download(self._url))
        except (httpx.HTTPError, TimeoutError, ValueError) as error:
            logger.warning("cannot fetch the keys of the tenant: %s", type(error).__name__)
            return
        self._keys = _Keys(keys, self._clock())


def _add_client_ids(audiences: Sequence[str]) -> list[str]:
    client_ids = [one.removeprefix("api://") for one in audiences if one.startswith("api://")]
    return [*audiences, *filter(_TENANT.fullmatch, client_ids)]


def _check_authority(authority: str) -> str:
    parts = urlsplit(authority if "://" in authority else f"https://{authority}")
    is_local = parts.scheme == "http" and parts.hostname in {"127.0.0.1", "::1", "localhost"}
    if not parts.hostname or (parts.scheme != "https" and not is_local):
        raise ConfigurationError(
            f"the sign-in address {authority!r} is not an https URL",
            hint=f"use the address of your cloud, by default {AUTHORITY}",
        )
    return f"{parts.scheme}://{parts.netloc}"


def _read_key_id(token: str) -> str:
    """Return the id of the key that a token names as its signer."""
    if len(token) > _MAX_TOKEN_CHARACTERS:
        raise TokenError("the token is too long")
    try:
        header = jwt.get_unverified_header(token)
    except jwt.PyJWTError:
        raise TokenError("the token is malformed") from None
    key_id = header.get("kid")
    if header.get("alg") != _ALGORITHM or not isinstance(key_id, str):
        raise TokenError("the token is not signed as Entra signs")
    return key_id


async def _download(url: str) -> bytes:
    """Return the tenant's JWKS document."""
    async with (
        httpx.AsyncClient(timeout=_FETCH_SECONDS, follow_redirects=False) as http,
        http.stream("GET", url, headers=ACCEPT_ENCODING) as response,
    ):
        response.raise_for_status()
        try:
            return await read_body(response, _MAX_KEYS_BYTES)
        except ProtocolError:
            raise ValueError("the document is too large, or malformed") from None


def _parse_keys(document: bytes) -> dict[str, Any]:
    """Return the keys of a JWKS document that can sign tokens, by their id.

    Raises:
        ValueError: It is not a JWKS document, or has no such key.
    """
    try:
        key_set = jwt.PyJWKSet.from_json(document.decode())
    except (jwt.PyJWTError, AttributeError, TypeError, RecursionError) as error:
        raise ValueError("the document is not a JWKS document") from error
    keys = {
        jwk.key_id: jwk.key
        for jwk in key_set.keys[:_MAX_KEYS]
        if isinstance(jwk.key_id, str)
        and jwk.key_type == "RSA"
        and jwk.public_key_use in {None, "sig"}
        and jwk.key.key_size >= _MIN_KEY_BITS
    }
    if not keys:
        raise ValueError("the document has no key that signs")
    return keys


def _describe(error: jwt.PyJWTError) -> str:
    if isinstance(error, jwt.ExpiredSignatureError):
        return "the token has expired"
    if isinstance(error, jwt.InvalidAudienceError):
        return "the token is for another audience"
    if isinstance(error, jwt.InvalidSignatureError):
        return "no key of the tenant signed the token"
    return "the token is not valid"

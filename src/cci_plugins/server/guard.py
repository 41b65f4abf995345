"""Middleware that admits requests: the right host, the right key, and not too many."""

from __future__ import annotations

import hmac
from functools import lru_cache
from ipaddress import IPv6Address, ip_address, ip_network
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from cci_plugins.errors import PoolExhaustedError

from .callers import current_caller
from .console_page.gate import ConsoleGate, is_console_path
from .console_page.sessions import SIGN_IN
from .rate import Rate
from .rest.errors import build_error_response
from .sign_in import CallerError, EntraSignIn, KeysError, TokenError

OPEN_PATHS = frozenset({"/health"})
CONNECTION_KEY = "cci.connection"
"""Where an ASGI scope holds the connection, if the server bounds connections."""
_TOO_MANY_REQUESTS = "TooManyRequests"
_MAX_PORT = 65_535


@lru_cache(maxsize=1024)
def get_network(host: str) -> str:
    """Return what one client has of an address: all of IPv4, the first half of IPv6.

    Some proxies add the client's port, which is new with each connection. All names that are not
    addresses count as one client, because a client could invent a new one each time.
    """
    text = host.partition("%")[0]
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ip_address(text)
    except ValueError:
        return "unknown"
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        if not address.is_loopback:
            return str(ip_network((int(address), 64), strict=False))
    return str(address)


class Guard:
    """ASGI middleware that checks Host, Origin and key before it reads anything else.

    Args:
        app: The protected application.
        api_key: The key, or None to admit every client.
        hosts: Names by which a request may address this server, or None for any name.
        sign_in: Checks tokens of Microsoft Entra, which are accepted like the key.
        gate: Checks browsers that ask for the console's page, instead of the key.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        api_key: str | None,
        hosts: tuple[str, ...] | None,
        sign_in: EntraSignIn | None = None,
        gate: ConsoleGate | None = None,
    ) -> None:
        self._app = app
        self._sign_in = sign_in
        self._gate = gate
        self._key = None if api_key is None else api_key.encode()
        self._hosts = None if hosts is None else frozenset(host.lower() for host in hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        found = await self._check(scope)
        if not isinstance(found, str):
            await found(scope, receive, send)
            return
        self._admit_connection(scope)
        token = current_caller.set(found)
        try:
            await self._app(scope, receive, send)
        finally:
            current_caller.reset(token)

    async def _check(self, scope: Scope) -> Response | str:
        """Return the caller, which is empty for those with the key, or the refusal."""
        headers = Headers(scope=scope)
        path = scope["path"]
        if not self._is_host_allowed(headers):
            message = "This host or origin is not allowed."
            return build_error_response(403, "HostNotAllowed", message)
        if self._gate is not None and is_console_path(path):
            return self._gate.check(scope, _get_client_network(scope)) or ""
        if path in OPEN_PATHS or self._has_key(headers, rest=path.rstrip("/") != "/mcp"):
            return ""
        if self._sign_in is not None and (token := _get_bearer_token(headers)) is not None:
            return await _check_token(self._sign_in, token)
        ways = "Key" if self._sign_in is None else "Key, Bearer"
        message = "The request has no valid key. Send it in the header x-ms-apikey."
        return build_error_response(401, "Unauthorized", message, {"www-authenticate": ways})

    def _admit_connection(self, scope: Scope) -> None:
        """Mark the connection of a request that is complete or has a valid key."""
        connection = scope.get(CONNECTION_KEY)
        if connection is None or scope["path"] in OPEN_PATHS or not self._is_known(scope):
            return
        headers = Headers(scope=scope)
        has_body = "transfer-encoding" in headers or headers.get("content-length", "0") != "0"
        if self._key is not None or not has_body:
            connection.admit()

    def _is_known(self, scope: Scope) -> bool:
        """Return whether an admitted request shows that its client has the key."""
        gate, path = self._gate, scope["path"]
        return gate is None or not is_console_path(path) or gate.find(scope) is not None

    def _is_host_allowed(self, headers: Headers) -> bool:
        """Return whether the Host, and the Origin that a browser adds, are allowed names."""
        if self._hosts is None:
            return True
        hosts = headers.getlist("host") or [""]
        origins = [_get_netloc(origin) for origin in headers.getlist("origin")]
        return all(map(self._is_known_host, (*hosts, *origins)))

    def _is_known_host(self, host: str) -> bool:
        host = host.lower()
        name, _, port = host.rpartition(":")
        return self._hosts is not None and (
            host in self._hosts or (_is_port(port) and name in self._hosts)
        )

    def _has_key(self, headers: Headers, *, rest: bool) -> bool:
        if self._key is None:
            return True
        given = headers.get("x-ms-apikey")
        if given is None and rest:
            given = _get_bearer_token(headers)
        return given is not None and hmac.compare_digest(given.encode(), self._key)


async def _check_token(sign_in: EntraSignIn, token: str) -> Response | str:
    """Return the caller behind a token, or the refusal, which does not repeat the token."""
    try:
        return await sign_in.check(token)
    except TokenError as error:
        message = f"The token is not accepted: {error}."
        challenge = {"www-authenticate": 'Bearer error="invalid_token"'}
        return build_error_response(401, "Unauthorized", message, challenge)
    except CallerError as error:
        return build_error_response(403, "Forbidden", f"The token is valid, but {error}.")
    except KeysError as error:
        message = f"The token cannot be checked now: {error}."
        return build_error_response(503, "SignInUnavailable", message, {"retry-after": "10"})


def _get_bearer_token(headers: Headers) -> str | None:
    scheme, _, token = headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None


def _get_client_network(scope: Scope) -> str:
    return get_network((scope.get("client") or ("unknown",))[0])


def _get_netloc(origin: str) -> str:
    """Return the host and port of an origin. A malformed one has none."""
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return ""


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= len(str(_MAX_PORT))


class RunRate:
    """Rate of the runs of each environment, counted over the last 60 seconds.

    Each replica counts for itself.

    Args:
        runs_per_minute: Most runs of one environment.
    """

    def __init__(self, runs_per_minute: int) -> None:
        self._rate = Rate(runs_per_minute)

    async def admit(self, session_id: str) -> None:
        """Count a run.

        Raises:
            PoolExhaustedError: There were too many. Nothing was started.
        """
        wait = self._rate.hit(session_id)
        if wait is not None:
            raise PoolExhaustedError(
                f"this environment had more than {self._rate.most} runs in a minute",
                hint=f"try again in {wait} s, or do more in one run",
                retry_after=wait,
            )


class Throttle:
    """ASGI middleware that refuses requests beyond a rate, counted over the last 60 seconds.

    Each replica counts for itself, so several replicas admit as many times more.

    Args:
        app: The protected application.
        requests_per_minute: Most requests of one client.
        by_key: Count all clients with the key together, and each caller that signs in. Otherwise
            count each address.
    """

    def __init__(self, app: ASGIApp, *, requests_per_minute: int, by_key: bool) -> None:
        self._app = app
        self._by_key = by_key
        self._rate = Rate(requests_per_minute)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer with status 429."""
        if scope["type"] == "http" and scope["path"] not in OPEN_PATHS:
            by_key = current_caller.get() or "key"
            is_keyless = not self._by_key or scope["path"] == SIGN_IN
            client = _get_client_network(scope) if is_keyless else by_key
            wait = self._rate.hit(client)
            if wait is not None:
                await self._build_refusal(wait)(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _build_refusal(self, wait: int) -> JSONResponse:
        """Return the data plane's 429, whose body has no `error` frame."""
        code = _TOO_MANY_REQUESTS
        message = f"More than {self._rate.most} requests in a minute. Try again in {wait} s."
        headers = {"x-ms-error-code": code, "retry-after": str(wait)}
        return JSONResponse({"code": code, "message": message}, 429, headers)

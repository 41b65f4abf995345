"""The HTTP client and its failures as exceptions of this package.

The exception of a failed request answers one question: can the request have started code? Each
function here that maps errors therefore takes `starts_code`, the kind of request. A request that
certainly did not arrive is a `PoolUnavailableError`, whatever its kind. After any other failure,
a request that starts code raises an error with the text of `MAY_HAVE_RUN`, which is not
`retryable`. A request that starts no code is retryable even then.
"""

from __future__ import annotations

import math
import ssl
from collections.abc import AsyncIterator, Generator
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta
from http.cookiejar import Cookie, CookieJar
from urllib.request import getproxies

import anyio
import httpx
from typing_extensions import override

from cci_plugins.common.urls import is_loopback_host
from cci_plugins.errors import (
    CodeInterpreterError,
    ConfigurationError,
    ExecutionTimeoutError,
    PoolError,
    PoolUnavailableError,
    ProtocolError,
)

from .failures import MAY_HAVE_RUN
from .spread_transport import SpreadTransport

WRITE_SECONDS = 60
MAX_IDLE = 8  # connections of a pool that are kept between requests
_PROXY_KINDS = frozenset({"http", "https", "all"})
_MAX_COOKIE, _MAX_COOKIES = 4096, 50
# Shorter than servers keep a connection, so that a call rarely meets one that is closing.
KEEPALIVE_SECONDS = 30
# After these, no byte of the request can have reached the server.
_NOT_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError)


def make_http(
    connect_timeout: timedelta = timedelta(seconds=10), *, verify: ssl.SSLContext | bool = True
) -> httpx.AsyncClient:
    """Create an HTTP client that never follows a redirect, which would pass the key on.

    It sets no limit for reading. Callers bound the whole answer, not each chunk of it.

    Args:
        connect_timeout: Longest wait for a connection.
        verify: How to check certificates, as `httpx.AsyncClient` takes it.
    """
    seconds = connect_timeout.total_seconds()
    limits = httpx.Limits(
        max_connections=None, max_keepalive_connections=MAX_IDLE, keepalive_expiry=KEEPALIVE_SECONDS
    )
    has_proxy = not _PROXY_KINDS.isdisjoint(getproxies())
    return _DirectClient(
        verify=verify,
        transport=None if has_proxy else SpreadTransport(limits, verify=verify),
        timeout=httpx.Timeout(connect=seconds, read=None, write=WRITE_SECONDS, pool=seconds),
        limits=limits,
        follow_redirects=False,
        event_hooks={"response": [_drop_invalid_location]},
        cookies=_BoundedCookies(),
    )


class _BoundedCookies(CookieJar):
    """Cookies, such as one that leads to a replica. What no header can hold is dropped."""

    @override
    def set_cookie(self, cookie: Cookie) -> None:
        text = f"{cookie.name}={cookie.value}"
        is_valid = text.isascii() and text.isprintable() and len(text) <= _MAX_COOKIE
        if is_valid and len(self) < _MAX_COOKIES:
            super().set_cookie(cookie)


async def _drop_invalid_location(response: httpx.Response) -> None:
    """Drop the target of a redirect on whose host httpx fails, although it is not followed."""
    if "location" not in response.headers:
        return
    try:
        _ = response.url.join(response.headers["location"]).host
    except (httpx.InvalidURL, ValueError):
        del response.headers["location"]


class _DirectClient(httpx.AsyncClient):
    """Client that sends nothing for this machine to a proxy of HTTP_PROXY.

    Such a proxy would get it with its key, and unencrypted. httpx's own `mounts` cannot name all of
    127.0.0.0/8, nor every spelling of `::1`.
    """

    @override
    def _transport_for_url(self, url: httpx.URL) -> httpx.AsyncBaseTransport:
        return self._transport if is_loopback_host(url.host) else super()._transport_for_url(url)


@asynccontextmanager
async def ensure_closed(response: httpx.Response) -> AsyncIterator[httpx.Response]:
    """Close a streamed response at the end, even when the caller was cancelled."""
    try:
        yield response
    finally:
        with anyio.CancelScope(shield=True):
            await response.aclose()


@contextmanager
def limit_time(timeout: timedelta, *, starts_code: bool) -> Generator[None]:
    """Limit the time for a request and its whole answer.

    Args:
        timeout: Longest time.
        starts_code: Whether the request starts code when it arrives.

    Raises:
        ExecutionTimeoutError: The time is over. The code may have run.
        PoolUnavailableError: The time is over, and the request starts no code.
    """
    try:
        with anyio.fail_after(timeout.total_seconds()):
            yield
    except TimeoutError as error:
        if isinstance(error, CodeInterpreterError):  # such as an `ExecutionTimeoutError`
            raise
        seconds = math.ceil(timeout.total_seconds() * 10) / 10
        message = f"the pool did not answer within {seconds:g} s"
        if starts_code:
            raise ExecutionTimeoutError(f"{message}; {MAY_HAVE_RUN}") from None
        raise PoolUnavailableError(message, hint="check the endpoint and network") from None


@contextmanager
def limit_answer_time(
    body: AsyncIterator[bytes], timeout: timedelta
) -> Generator[AsyncIterator[bytes]]:
    """Limit the time from the end of a request's body to the end of its answer.

    Args:
        body: The body. The request must send what this function yields instead.
        timeout: Longest time.

    Raises:
        PoolUnavailableError: The time is over.
    """
    scope = anyio.CancelScope()

    async def send() -> AsyncIterator[bytes]:
        async for chunk in body:
            yield chunk
        scope.deadline = anyio.current_time() + timeout.total_seconds()

    with scope:
        yield send()
    if scope.cancelled_caught:
        raise PoolUnavailableError(f"the pool did not answer within {timeout.total_seconds():g} s")


@contextmanager
def map_transport_errors(*, starts_code: bool) -> Generator[None]:
    """Turn a failure of the transport into an exception of this package.

    Args:
        starts_code: Whether the request starts code when it arrives.

    Raises:
        PoolUnavailableError: Nothing was started.
        ExecutionTimeoutError: No answer came in time. The code may have run.
        PoolError: The connection broke. The code may have run.
        ConfigurationError: The request is invalid or the pool is closed. It was not sent.
    """
    try:
        yield
    except _NOT_SENT as error:
        raise PoolUnavailableError(
            f"the pool cannot be reached ({_get_type_name(error)})",
            hint="check the endpoint and network",
        ) from error
    except (httpx.UnsupportedProtocol, httpx.LocalProtocolError, httpx.InvalidURL) as error:
        raise ConfigurationError(
            f"the request cannot be sent ({_get_type_name(error)})",
            hint="check the endpoint and the key",
        ) from _drop_unsafe_cause(error)
    except httpx.ReadTimeout as error:
        if starts_code:
            raise ExecutionTimeoutError(f"no answer came in time; {MAY_HAVE_RUN}") from error
        raise PoolUnavailableError("no answer came in time") from error
    except (httpx.HTTPError, httpx.StreamError) as error:
        message = f"the connection broke ({_get_type_name(error)})"
        if starts_code:
            raise PoolError(f"{message}; {MAY_HAVE_RUN}") from error
        raise PoolUnavailableError(message) from error
    except RuntimeError as error:  # httpx has no class of its own for it
        if "client has been closed" not in str(error):
            raise
        raise ConfigurationError(
            "this pool is closed", hint="close it when nothing uses it any longer"
        ) from None


@contextmanager
def map_protocol_errors(*, starts_code: bool) -> Generator[None]:
    """Add to the error of a malformed answer that the code may have run.

    Args:
        starts_code: Whether the request starts code when it arrives.

    Raises:
        ProtocolError: The answer is malformed.
    """
    try:
        yield
    except ProtocolError as error:
        if not starts_code:
            raise
        raise ProtocolError(f"{error}; {MAY_HAVE_RUN}", hint=error.hint) from error


def was_sent(error: Exception) -> bool:
    """Return whether the request behind an error may have reached the server."""
    return not isinstance(error, ConfigurationError) and not isinstance(error.__cause__, _NOT_SENT)


def _get_type_name(error: Exception) -> str:
    return type(error).__name__


def _drop_unsafe_cause(error: Exception) -> Exception | None:
    """Drop an exception whose text may repeat a header, such as the key."""
    return None if isinstance(error, httpx.LocalProtocolError) else error

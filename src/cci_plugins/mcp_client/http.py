"""The HTTP client and its failures, as exceptions of ours."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Generator
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta

import anyio
import httpx

from cci_plugins.errors import (
    ConfigurationError,
    ExecutionTimeoutError,
    PoolError,
    PoolUnavailableError,
    ProtocolError,
)

from .failures import MAY_HAVE_RUN

WRITE_SECONDS = 60
KEEPALIVE_SECONDS = 30  # below what servers keep, so that a call seldom meets a closing connection
# Nothing of the request can have reached the server.
_NOT_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError)


def make_http(
    connect_timeout: timedelta = timedelta(seconds=10), *, verify: ssl.SSLContext | bool = True
) -> httpx.AsyncClient:
    """An HTTP client that never follows a redirect, since that would hand the key on.

    How long an answer may take is bounded around each request, not for each of its pieces.
    """
    seconds = connect_timeout.total_seconds()
    return httpx.AsyncClient(
        verify=verify,
        timeout=httpx.Timeout(connect=seconds, read=None, write=WRITE_SECONDS, pool=seconds),
        limits=httpx.Limits(
            max_connections=None, max_keepalive_connections=32, keepalive_expiry=KEEPALIVE_SECONDS
        ),
        follow_redirects=False,
    )


@asynccontextmanager
async def ensure_closed(response: httpx.Response) -> AsyncIterator[httpx.Response]:
    """Close a streamed response in the end, also when the caller was cancelled."""
    try:
        yield response
    finally:
        with anyio.CancelScope(shield=True):
            await response.aclose()


@contextmanager
def map_transport_errors(*, starts_code: bool) -> Generator[None]:
    """Turn a failure of the transport into an exception that says whether to try again.

    Args:
        starts_code: Whether the request starts code once it arrives.
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
            "the request cannot be sent", hint="check the endpoint and the key"
        ) from _drop_unsafe_cause(error)
    except httpx.ReadTimeout as error:
        if starts_code:
            raise ExecutionTimeoutError(f"no answer came in time; {MAY_HAVE_RUN}") from error
        raise PoolUnavailableError("no answer came in time") from error
    except (httpx.HTTPError, httpx.StreamError) as error:
        if starts_code:
            raise PoolError(
                f"the connection broke ({_get_type_name(error)}); {MAY_HAVE_RUN}"
            ) from error
        raise PoolUnavailableError(f"the connection broke ({_get_type_name(error)})") from error


@contextmanager
def map_protocol_errors(*, starts_code: bool) -> Generator[None]:
    """Say of an answer that makes no sense whether the code may have run.

    Args:
        starts_code: Whether the request starts code once it arrives.
    """
    try:
        yield
    except ProtocolError as error:
        if not starts_code:
            raise
        raise ProtocolError(f"{error}; {MAY_HAVE_RUN}", hint=error.hint) from error


def _get_type_name(error: Exception) -> str:
    return type(error).__name__


def _drop_unsafe_cause(error: Exception) -> Exception | None:
    """Drop an exception whose words may repeat a header, such as the key."""
    return None if isinstance(error, httpx.LocalProtocolError) else error

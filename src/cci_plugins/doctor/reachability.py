"""Test requests that show whether a server answers, and the reason if it does not."""

from __future__ import annotations

import socket
import ssl

import httpx

from cci_plugins.errors import PoolUnavailableError
from cci_plugins.mcp_client.http import make_http

_TIMEOUT_SECONDS = 20


async def reach(url: str, server: str, *, ca: str | None = None) -> httpx.Response:
    """Send a request without any key, token or signature, and return the answer.

    Any HTTP status is an answer.

    Args:
        url: URL of the request.
        server: Name of the server in error messages.
        ca: File with certificates to trust in addition to the system's, or None.

    Raises:
        PoolUnavailableError: The server did not answer. The message contains the reason.
    """
    verify: ssl.SSLContext | bool = True
    if ca is not None:
        verify = ssl.create_default_context()
        verify.load_verify_locations(ca)
    try:
        async with make_http(verify=verify) as http:
            return await http.get(url, timeout=_TIMEOUT_SECONDS)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise PoolUnavailableError(
            f"{server} cannot be reached: {_describe_cause(error)}"
        ) from None


def _describe_cause(error: BaseException) -> str:
    """Return the reason by the types of the causes, since their texts may contain the host."""
    causes: list[BaseException] = [error]
    while (cause := causes[-1].__cause__ or causes[-1].__context__) is not None:
        causes.append(cause)
    for kind, reason in (
        (socket.gaierror, "its name has no address in DNS"),
        (ssl.SSLCertVerificationError, "its certificate is not trusted on this machine"),
        (ssl.SSLError, "an encrypted connection cannot be established"),
        (ConnectionRefusedError, "it refused the connection"),
        (httpx.ProxyError, "the proxy of HTTPS_PROXY does not allow it"),
        (TimeoutError, "it did not answer in time"),
        (httpx.TimeoutException, "it did not answer in time"),
    ):
        if any(isinstance(cause, kind) for cause in causes):
            return reason
    return f"the connection failed ({type(error).__name__})"

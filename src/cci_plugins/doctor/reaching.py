"""Whether anybody answers at an address, and why not."""

from __future__ import annotations

import socket
import ssl

import httpx

from cci_plugins.errors import PoolUnavailableError
from cci_plugins.mcp_client.http import make_http

_ANSWER = 20


async def reach(url: str, what: str, *, ca: str | None = None) -> httpx.Response:
    """What is answered to a request without any key, token or signature; every answer will do.

    Args:
        url: The address.
        what: Who is there, in words.
        ca: Certificates to trust beside the system's, as a file.

    Raises:
        PoolUnavailableError: Nobody answered; the words say how far it came.
    """
    trusted: ssl.SSLContext | bool = True
    if ca is not None:
        trusted = ssl.create_default_context()
        trusted.load_verify_locations(ca)
    try:
        async with make_http(verify=trusted) as http:
            return await http.get(url, timeout=_ANSWER)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise PoolUnavailableError(f"{what} cannot be reached: {_describe_cause(error)}") from None


def _describe_cause(error: BaseException) -> str:
    """How far it came, by the innermost reason; no words of the error, which may name the host."""
    causes: list[BaseException] = [error]
    while (cause := causes[-1].__cause__ or causes[-1].__context__) is not None:
        causes.append(cause)
    for kind, reason in (
        (socket.gaierror, "its name leads to no address"),
        (ssl.SSLCertVerificationError, "its certificate is not trusted here"),
        (ssl.SSLError, "no encrypted connection comes about"),
        (ConnectionRefusedError, "the connection is refused"),
        (httpx.ProxyError, "the proxy that HTTPS_PROXY names does not let it through"),
        (TimeoutError, "nothing answers in time"),
        (httpx.TimeoutException, "nothing answers in time"),
    ):
        if any(isinstance(cause, kind) for cause in causes):
            return reason
    return f"the connection broke ({type(error).__name__})"

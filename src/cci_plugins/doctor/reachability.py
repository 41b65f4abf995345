"""Test requests that show whether a server answers, and the reason if it does not."""

from __future__ import annotations

import socket
import ssl

import anyio
import httpx

from cci_plugins.common.http_bodies import ACCEPT_ENCODING
from cci_plugins.errors import PoolUnavailableError
from cci_plugins.mcp_client.bodies import read_error_body
from cci_plugins.mcp_client.http import ensure_closed, make_http

_TIMEOUT_SECONDS = 20
_BODY = {"content-encoding", "content-length", "transfer-encoding"}  # of the body as it was sent


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
            request = http.build_request(
                "GET", url, headers=ACCEPT_ENCODING, timeout=_TIMEOUT_SECONDS
            )
            with anyio.fail_after(2 * _TIMEOUT_SECONDS):
                async with ensure_closed(await http.send(request, stream=True)) as answer:
                    body = await read_error_body(answer)
            headers = {name: answer.headers[name] for name in answer.headers if name not in _BODY}
            reply = httpx.Response(answer.status_code, headers=headers, content=body)
            reply.elapsed = answer.elapsed
            return reply
    except (httpx.HTTPError, httpx.InvalidURL, TimeoutError) as error:
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

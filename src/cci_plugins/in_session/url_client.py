"""Client of one URL: requests, allowed hosts, and faults that never show the URL."""

from __future__ import annotations

import contextlib
import errno
import http.client
import socket
import ssl
from collections.abc import Iterator
from typing import IO, Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import (
    HTTPHandler,
    HTTPRedirectHandler,
    HTTPSHandler,
    ProxyHandler,
    Request,
    build_opener,
)

from cci_plugins.common.addresses import is_public

CHUNK = 1 << 20  # bytes
RESPONSE_TIMEOUT = 60.0  # seconds
RETRYABLE_STATUSES = {408, 429, 500, 502, 503, 504}
UNREACHABLE_ERRNOS = {
    errno.ENETUNREACH,
    errno.EHOSTUNREACH,
    errno.ECONNREFUSED,
    errno.EAFNOSUPPORT,
    errno.EACCES,
    errno.EPERM,
}


class TransferFault(Exception):  # noqa: N818 - it becomes a report, so no caller catches it
    """Reason why a transfer cannot continue.

    Attributes:
        kind: `unreachable`, `broken`, `refused`, `missing`, `changed`, `too_large` or `disk`.
        retryable: Whether another try may help.
    """

    def __init__(self, kind: str, message: str, *, retryable: bool = False) -> None:
        super().__init__(message)
        self.kind = kind
        self.retryable = retryable


class SameHostRedirectHandler(HTTPRedirectHandler):
    """Handler that follows a redirect only to the same host."""

    def redirect_request(  # noqa: PLR0917 - as the base class has it
        self,
        req: Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> Request | None:
        """Return None for another host, so that the caller gets the redirect as a status."""
        asked, given = urlsplit(req.full_url), urlsplit(newurl)
        if (asked.scheme, asked.netloc) != (given.scheme, given.netloc):
            return None
        return super().redirect_request(req, fp, code, msg, headers, newurl)


class PublicHttpConnection(http.client.HTTPConnection):
    """Connection without encryption to public addresses only."""

    def connect(self) -> None:
        """Connect to an address that was checked."""
        self.sock = _connect_to_any(_resolve_public_addresses(self.host, self.port), self.port)


class PublicHttpHandler(HTTPHandler):
    """Handler that opens HTTP to public addresses only. A proxy has its own rules."""

    def http_open(self, req: Request) -> http.client.HTTPResponse:
        """Open the request."""
        if req.has_proxy():
            return super().http_open(req)
        return self.do_open(PublicHttpConnection, req)


class RestrictedConnection(http.client.HTTPSConnection):
    """Connection through a proxy's Unix socket, or to public addresses only."""

    proxy_socket: str | None = None
    public_only = False

    def connect(self) -> None:
        """Connect. A proxy resolves names itself and has its own rules."""
        tunnel: str | None = self._tunnel_host  # type: ignore[attr-defined]  # set by the base class
        if tunnel and self.proxy_socket is not None:
            self.sock = socket.socket(socket.AF_UNIX)
            self.sock.settimeout(RESPONSE_TIMEOUT)
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, CHUNK)
            self.sock.connect(self.proxy_socket)
            self._tunnel()  # type: ignore[attr-defined]  # of the base class
        elif not tunnel and self.public_only:
            self.sock = _connect_to_any(_resolve_public_addresses(self.host, self.port), self.port)
        else:
            super().connect()
            return
        context: ssl.SSLContext = self._context  # type: ignore[attr-defined]  # set by the base class
        self.sock = context.wrap_socket(self.sock, server_hostname=tunnel or self.host)


class RestrictedHttpsHandler(HTTPSHandler):
    """Handler that opens HTTPS by a `RestrictedConnection`.

    Args:
        context: Trusted certificates.
        proxy_socket: The Unix socket of the proxy. Bytes then skip the session's proxy relay.
        public_only: Refuse addresses that are not public.
    """

    def __init__(
        self, context: ssl.SSLContext, *, proxy_socket: str | None, public_only: bool
    ) -> None:
        super().__init__(context=context)
        self._proxy_socket, self._public_only = proxy_socket, public_only

    def https_open(self, req: Request) -> http.client.HTTPResponse:
        """Open the request."""
        context = self._context  # type: ignore[attr-defined]  # set by the base class
        return self.do_open(self._create_connection, req, context=context)

    def _create_connection(self, host: str, **options: Any) -> RestrictedConnection:
        connection = RestrictedConnection(host, **options)
        connection.proxy_socket, connection.public_only = self._proxy_socket, self._public_only
        return connection


class UrlClient:
    """Client of one URL.

    Args:
        url: The address with its signature.
        ca: Certificates to trust in addition to the system's, in PEM.
        public_only: Refuse addresses that are not public.
        proxy_socket: The Unix socket of the proxy, if the session has one.
    """

    def __init__(
        self,
        url: str,
        *,
        ca: str | None = None,
        public_only: bool = False,
        proxy_socket: str | None = None,
    ) -> None:
        self._url = url
        self.has_responded = False
        context = ssl.create_default_context()
        if ca:
            context.load_verify_locations(cadata=ca)
        handler = RestrictedHttpsHandler(
            context, proxy_socket=proxy_socket, public_only=public_only
        )
        plain = PublicHttpHandler() if public_only else HTTPHandler()
        self._opener = build_opener(ProxyHandler(), handler, plain, SameHostRedirectHandler())

    def send(
        self, method: str, headers: dict[str, str], data: Any = None, query: str = ""
    ) -> http.client.HTTPResponse:
        """Send one request.

        Raises:
            TransferFault: The connection failed, or the status is not a success.
        """
        url = f"{self._url}{'&' if '?' in self._url else '?'}{query}" if query else self._url
        try:
            request = Request(url, data=data, headers=headers, method=method)  # noqa: S310 - http too
            response: http.client.HTTPResponse = self._opener.open(
                request, timeout=RESPONSE_TIMEOUT
            )
        except HTTPError as error:
            with error:
                fault = _build_refusal(error.code, error.headers.get("x-ms-error-code", ""))
        except (OSError, http.client.HTTPException, ValueError) as error:
            fault = _build_connection_fault(error, has_responded=self.has_responded)
        else:
            self.has_responded = True
            return response
        raise fault

    def read_chunks(self, response: http.client.HTTPResponse) -> Iterator[memoryview]:
        """Read a response in chunks. Each is valid until the next."""
        buffer = memoryview(bytearray(CHUNK))
        while True:
            try:
                count = response.readinto(buffer)
            except (OSError, http.client.HTTPException) as error:
                fault = _build_connection_fault(error, has_responded=True)
            else:
                if not count:
                    return
                yield buffer[:count]
                continue
            raise fault


def _build_refusal(status: int, code: str) -> TransferFault:
    message = f"the server returned {status} {code}".strip()
    kinds = {404: "missing", 409: "changed", 412: "changed", 416: "changed"}
    return TransferFault(
        kinds.get(status, "refused"), message, retryable=status in RETRYABLE_STATUSES
    )


def _build_connection_fault(error: Exception, *, has_responded: bool) -> TransferFault:
    """Build a fault from the error's type alone, since its text may contain the URL."""
    cause = error.reason if isinstance(error, URLError) else error
    if isinstance(cause, TransferFault):
        return cause
    if isinstance(cause, ssl.SSLCertVerificationError):
        return TransferFault("refused", "the server's certificate is not trusted here")
    number = getattr(cause, "errno", None)
    is_refused = (
        isinstance(cause, (socket.gaierror, ConnectionRefusedError)) or number in UNREACHABLE_ERRNOS
    )
    tunnel = "Tunnel connection failed" in str(cause)
    if not has_responded and (is_refused or tunnel):
        return TransferFault("unreachable", "the host cannot be reached from here", retryable=True)
    return TransferFault("broken", f"the connection broke ({type(cause).__name__})", retryable=True)


def _connect_to_any(addresses: list[str], port: int) -> socket.socket:
    for address in addresses[:-1]:
        with contextlib.suppress(OSError):
            return socket.create_connection((address, port), RESPONSE_TIMEOUT)
    return socket.create_connection((addresses[-1], port), RESPONSE_TIMEOUT)


def _resolve_public_addresses(host: str, port: int) -> list[str]:
    infos = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = [str(address[0]) for *_, address in infos]
    if not all(map(is_public, addresses)):
        raise TransferFault("refused", "the host's address is not public")
    return addresses

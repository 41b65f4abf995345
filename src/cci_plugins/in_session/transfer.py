"""Move one file between a disk and a URL, whole or not at all; standard library only.

The same code works on this machine and, sent as source, inside of sessions. Nothing it says has
the URL in it: neither its report nor its progress, and it raises nothing.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import http.client
import os
import socket
import ssl
import time
from base64 import b64encode
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import IO, Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import (
    HTTPRedirectHandler,
    HTTPSHandler,
    ProxyHandler,
    Request,
    build_opener,
)

from cci_plugins.common.addresses import is_public

CHUNK = 1 << 20
BLOCK = 32 << 20
MAX_SINGLE_PUT = (
    1 << 30
)  # one request takes up to 5,000 MiB (learn.microsoft.com, Put Blob), unresumable
MAX_TRIES = 6
RETRY_PAUSE = 0.25  # seconds, doubled after each try without any progress
RESPONSE_TIMEOUT = 60.0  # seconds for an answer
RETRYABLE_STATUSES = {408, 429, 500, 502, 503, 504}
UNREACHABLE_ERRNOS = {
    errno.ENETUNREACH,
    errno.EHOSTUNREACH,
    errno.ECONNREFUSED,
    errno.EAFNOSUPPORT,
    errno.EACCES,
    errno.EPERM,
}

ProgressHandler = Callable[[int], object]


class TransferFault(Exception):  # noqa: N818 - never leaves this module
    """Why a transfer cannot go on.

    Attributes:
        kind: `unreachable`, `broken`, `refused`, `missing`, `changed`, `too_large` or `disk`.
        again: Another try may help.
    """

    def __init__(self, kind: str, message: str, *, retryable: bool = False) -> None:
        super().__init__(message)
        self.kind = kind
        self.retryable = retryable


class SameHostRedirectHandler(HTTPRedirectHandler):
    """Follows a redirect only to the host that was asked."""

    def redirect_request(  # noqa: PLR0917 - as the base class has it
        self,
        req: Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> Request | None:
        """Refuse by returning nothing: the caller sees the redirect as a status."""
        asked, given = urlsplit(req.full_url), urlsplit(newurl)
        if (asked.scheme, asked.netloc) != (given.scheme, given.netloc):
            return None
        return super().redirect_request(req, fp, code, msg, headers, newurl)


class RestrictedConnection(http.client.HTTPSConnection):
    """Connects as it was told: by a proxy's own socket, or to public addresses only."""

    proxy_socket: str | None = None
    public_only = False

    def connect(self) -> None:
        """Connect; a proxy resolves by itself and has its own rules."""
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
    """Opens HTTPS by a kind of `RestrictedConnection`.

    Args:
        context: Which certificates are trusted.
        way_out: The Unix socket of the proxy; reaching it directly spares every byte a detour.
        public_only: Refuse addresses that are not public.
    """

    def __init__(
        self, context: ssl.SSLContext, *, proxy_socket: str | None, public_only: bool
    ) -> None:
        super().__init__(context=context)
        self._proxy_socket, self._public_only = proxy_socket, public_only

    def https_open(self, req: Request) -> http.client.HTTPResponse:
        """Open it."""
        context = self._context  # type: ignore[attr-defined]  # set by the base class
        return self.do_open(self._create_connection, req, context=context)

    def _create_connection(self, host: str, **options: Any) -> RestrictedConnection:
        connection = RestrictedConnection(host, **options)
        connection.proxy_socket, connection.public_only = self._proxy_socket, self._public_only
        return connection


class UrlClient:
    """One URL, and how it is reached.

    Args:
        url: An address with its signature.
        ca: Certificates to trust beside the system's, in PEM.
        public_only: Refuse addresses that are not public.
        way_out: The Unix socket of the proxy, where there is one.
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
        self._opener = build_opener(ProxyHandler(), handler, SameHostRedirectHandler())

    def send(
        self, method: str, headers: dict[str, str], data: Any = None, query: str = ""
    ) -> http.client.HTTPResponse:
        """Send one request; an answer that is no success is a fault."""
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

    def chunks(self, response: http.client.HTTPResponse) -> Iterator[memoryview]:
        """What an answer carries; each piece is valid until the next."""
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


class Download:
    """Writes what a URL has into a file, which takes its name when it is whole.

    Args:
        link: Where it comes from.
        path: Where it goes; what is there is replaced.
        told: Told the bytes that have arrived.
        limit: Most bytes to take.
        until: When to stop and go on by another call, as `time.monotonic` counts.
    """

    def __init__(
        self,
        client: UrlClient,
        path: Path,
        on_progress: ProgressHandler,
        *,
        limit: int,
        deadline: float,
    ) -> None:
        self._client, self._path, self._on_progress = client, path, on_progress
        self._limit, self._deadline = limit, deadline
        self._part = path.with_name(f".cci-part-{hashlib.sha256(path.name.encode()).hexdigest()}")
        self._hash = hashlib.sha256()
        self._offset = 0

    def run(self, expected: dict[str, Any], etag: str | None, *, resumed: bool) -> dict[str, Any]:
        """Fetch it all, or until the time is over.

        Args:
            expected: `size` and `sha256`, where they are known.
            etag: What the file was when an earlier call began.
            resumed: An earlier call has left a part of it.
        """
        self._etag = etag
        self._path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with self._part.open("r+b" if resumed else "wb") as file:
                while chunk := file.read(CHUNK) if resumed else b"":
                    self._add_chunk(chunk)
                if not self._fetch_with_retry(file):
                    return {"more": self._offset, "etag": self._etag}
            result = {"size": self._offset, "sha256": self._hash.hexdigest()}
            _check_result(result, expected)
            self._part.replace(self._path)
        except BaseException:
            self._part.unlink(missing_ok=True)
            raise
        return result

    def _fetch_with_retry(self, file: IO[bytes]) -> bool:
        tries, pause = 0, RETRY_PAUSE
        while True:
            before = self._offset
            try:
                return self._fetch_once(file)
            except TransferFault as fault:
                tries, pause = (0, RETRY_PAUSE) if self._offset > before else (tries + 1, pause * 2)
                if (
                    not fault.retryable
                    or tries >= _get_max_tries(fault)
                    or time.monotonic() > self._deadline
                ):
                    raise
            time.sleep(min(pause, 4.0))

    def _fetch_once(self, file: IO[bytes]) -> bool:
        headers = {}
        if self._offset and self._etag:  # without an ETag it may be another file by now
            headers = {"Range": f"bytes={self._offset}-"}
            if not self._etag.startswith("W/"):
                headers["If-Match"] = self._etag
        with self._client.send("GET", headers) as response:
            if response.status == http.client.PARTIAL_CONTENT:
                _check_part(response.headers, self._etag, self._offset)
            elif self._offset:
                self._start_over(file)
            self._etag = response.headers.get("ETag")
            total = None if response.length is None else self._offset + response.length
            for chunk in self._client.chunks(response):
                if self._offset + len(chunk) > self._limit:
                    raise TransferFault("too_large", f"it is larger than {self._limit:,} bytes")
                file.write(chunk)
                self._add_chunk(chunk)
                if time.monotonic() > self._deadline:
                    if not self._etag:
                        raise TransferFault(
                            "broken", "it takes too long, and its server has no ETag"
                        )
                    return False
        if total is not None and self._offset < total:
            raise TransferFault("broken", "the connection ended too early", retryable=True)
        return True

    def _add_chunk(self, chunk: Any) -> None:
        self._hash.update(chunk)
        self._offset += len(chunk)
        self._on_progress(self._offset)

    def _start_over(self, file: IO[bytes]) -> None:
        file.seek(0)
        file.truncate()
        self._hash, self._offset = hashlib.sha256(), 0


class Upload:
    """Sends a file to a blob's URL: in one request, or in blocks when that breaks.

    Args:
        link: Where it goes.
        path: The file.
        told: Told the bytes that were sent.
        until: When to stop and go on by another call, as `time.monotonic` counts.
    """

    def __init__(
        self, client: UrlClient, path: Path, on_progress: ProgressHandler, *, deadline: float
    ) -> None:
        self._client, self._path, self._on_progress, self._deadline = (
            client,
            path,
            on_progress,
            deadline,
        )

    def run(self, blocks: int | None) -> dict[str, Any]:
        """Send it all, or until the time is over.

        Args:
            blocks: Blocks that earlier calls have sent; None for the first call.
        """
        size = self._path.stat().st_size
        if blocks is None and size <= MAX_SINGLE_PUT:
            try:
                return {"size": size, "sha256": self._put_whole(size)}
            except TransferFault as fault:
                if not fault.retryable:
                    raise
        done = self._put_blocks(size, blocks or 0)
        if done * BLOCK < size:
            return {"more": done}
        names = "".join(f"<Latest>{_encode_block_id(number)}</Latest>" for number in range(done))
        body = f'<?xml version="1.0" encoding="utf-8"?><BlockList>{names}</BlockList>'.encode()
        self._call_with_retry(lambda: self._put(body, len(body), {}, "comp=blocklist"))
        digest = hashlib.sha256()
        with self._path.open("rb") as file:
            while chunk := file.read(CHUNK):
                digest.update(chunk)
        return {"size": size, "sha256": digest.hexdigest()}

    def _put_whole(self, size: int) -> str:
        digest = hashlib.sha256()
        self._put(self._read(0, size, digest), size, {"x-ms-blob-type": "BlockBlob"})
        return digest.hexdigest()

    def _put_blocks(self, size: int, done: int) -> int:
        while done * BLOCK < size and (not done or time.monotonic() < self._deadline):
            start, length = done * BLOCK, min(BLOCK, size - done * BLOCK)
            query = f"comp=block&blockid={_encode_block_id(done)}"
            self._call_with_retry(
                lambda start=start, length=length, query=query: self._put(  # type: ignore[misc]
                    self._read(start, length), length, {}, query
                )
            )
            done += 1
        return done

    def _call_with_retry(self, send: Callable[[], None]) -> None:
        pause = RETRY_PAUSE
        for tries in range(1, MAX_TRIES + 1):
            try:
                return send()
            except TransferFault as fault:
                if not fault.retryable or tries >= _get_max_tries(fault):
                    raise
            time.sleep(pause)
            pause *= 2
        return None

    def _put(self, data: Any, length: int, headers: dict[str, str], query: str = "") -> None:
        kind = {"Content-Type": "application/octet-stream", "Content-Length": str(length)}
        try:
            self._client.send("PUT", headers | kind, data, query).close()
        finally:
            if isinstance(data, Generator):
                data.close()  # with its file, wherever the sending stopped

    def _read(self, start: int, length: int, digest: Any = None) -> Generator[bytes]:
        with self._path.open("rb") as file:
            file.seek(start)
            while length and (chunk := file.read(min(CHUNK, length))):
                length -= len(chunk)
                if digest is not None:
                    digest.update(chunk)
                yield chunk
                start += len(chunk)
                self._on_progress(start)


def transfer(job: dict[str, Any], on_progress: ProgressHandler) -> dict[str, Any]:
    """Do what a job says.

    Args:
        job: `verb` (`get` or `put`), `url`, `path`, `seconds`, and, where they are known, `ca`,
            `public_only`, `proxy_socket`, `limit`, `size`, `sha256`, and what an earlier call said with
            `more`.
        told: Told the bytes that were moved so far.

    Returns:
        `size` and `sha256`; or `more`, when the time was over; or `failed`, the reason, with its
        `kind`.
    """
    deadline = time.monotonic() + job["seconds"]
    path = Path(job["path"])
    try:
        client = UrlClient(
            job["url"],
            ca=job.get("ca"),
            public_only=job.get("public_only", False),
            proxy_socket=job.get("proxy_socket"),
        )
        if job["verb"] == "put":
            return Upload(client, path, on_progress, deadline=deadline).run(job.get("more"))
        limit = job.get("limit") or 1 << 62
        more = job.get("more")
        return Download(client, path, on_progress, limit=limit, deadline=deadline).run(
            {"size": job.get("size"), "sha256": job.get("sha256")},
            job.get("etag"),
            resumed=more is not None,
        )
    except TransferFault as fault:
        return {"failed": str(fault), "kind": fault.kind}
    except FileNotFoundError:
        return {"failed": "there is no such file", "kind": "missing"}
    except OSError as error:
        return {"failed": os.strerror(error.errno or errno.EIO), "kind": "disk"}


def _get_max_tries(fault: TransferFault) -> int:
    return 2 if fault.kind == "unreachable" else MAX_TRIES


def _encode_block_id(number: int) -> str:
    return b64encode(f"{number:06d}".encode()).decode()


def _check_result(result: dict[str, Any], expected: dict[str, Any]) -> None:
    for what, value in expected.items():
        if value is not None and result[what] != value:
            raise TransferFault("changed", f"its {what} is not what it should be")


def _build_refusal(status: int, code: str) -> TransferFault:
    message = f"the server answered {status} {code}".strip()
    kinds = {404: "missing", 409: "changed", 412: "changed", 416: "changed"}
    return TransferFault(
        kinds.get(status, "refused"), message, retryable=status in RETRYABLE_STATUSES
    )


def _build_connection_fault(error: Exception, *, has_responded: bool) -> TransferFault:
    """A fault of the connection, told by the kind of error alone: its text may have the URL."""
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


def _check_part(headers: Any, etag: str | None, offset: int) -> None:
    """Refuse a part that would not fit to what is there."""
    if headers.get("ETag") != etag:
        raise TransferFault("changed", "it was changed meanwhile")
    if not headers.get("Content-Range", "").strip().startswith(f"bytes {offset}-"):
        raise TransferFault("changed", "the server sent another part than it was asked for")


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

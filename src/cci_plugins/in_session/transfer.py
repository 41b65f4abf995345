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
ONE_PUT = 1 << 30  # one request takes up to 5,000 MiB (learn.microsoft.com, Put Blob), unresumable
TRIES = 6
PAUSE = 0.25  # seconds, doubled after each try without any progress
WAIT = 60.0  # seconds for an answer
BUSY = {408, 429, 500, 502, 503, 504}
NO_WAY = {
    errno.ENETUNREACH,
    errno.EHOSTUNREACH,
    errno.ECONNREFUSED,
    errno.EAFNOSUPPORT,
    errno.EACCES,
    errno.EPERM,
}

Told = Callable[[int], object]


class Fault(Exception):  # noqa: N818 - never leaves this module
    """Why a transfer cannot go on.

    Attributes:
        kind: `unreachable`, `broken`, `refused`, `missing`, `changed`, `too_large` or `disk`.
        again: Another try may help.
    """

    def __init__(self, kind: str, words: str, *, again: bool = False) -> None:
        super().__init__(words)
        self.kind = kind
        self.again = again


class SameHost(HTTPRedirectHandler):
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


class Connection(http.client.HTTPSConnection):
    """Connects as it was told: by a proxy's own socket, or to public addresses only."""

    way_out: str | None = None
    public_only = False

    def connect(self) -> None:
        """Connect; a proxy resolves by itself and has its own rules."""
        tunnel: str | None = self._tunnel_host  # type: ignore[attr-defined]  # set by the base class
        if tunnel and self.way_out is not None:
            self.sock = socket.socket(socket.AF_UNIX)
            self.sock.settimeout(WAIT)
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, CHUNK)
            self.sock.connect(self.way_out)
            self._tunnel()  # type: ignore[attr-defined]  # of the base class
        elif not tunnel and self.public_only:
            self.sock = _connected(_public_addresses(self.host, self.port), self.port)
        else:
            super().connect()
            return
        context: ssl.SSLContext = self._context  # type: ignore[attr-defined]  # set by the base class
        self.sock = context.wrap_socket(self.sock, server_hostname=tunnel or self.host)


class Handler(HTTPSHandler):
    """Opens HTTPS by a kind of `Connection`.

    Args:
        context: Which certificates are trusted.
        way_out: The Unix socket of the proxy; reaching it directly spares every byte a detour.
        public_only: Refuse addresses that are not public.
    """

    def __init__(self, context: ssl.SSLContext, *, way_out: str | None, public_only: bool) -> None:
        super().__init__(context=context)
        self._way_out, self._public_only = way_out, public_only

    def https_open(self, req: Request) -> http.client.HTTPResponse:
        """Open it."""
        context = self._context  # type: ignore[attr-defined]  # set by the base class
        return self.do_open(self._connection, req, context=context)

    def _connection(self, host: str, **options: Any) -> Connection:
        made = Connection(host, **options)
        made.way_out, made.public_only = self._way_out, self._public_only
        return made


class Link:
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
        way_out: str | None = None,
    ) -> None:
        self._url = url
        self.reached = False
        context = ssl.create_default_context()
        if ca:
            context.load_verify_locations(cadata=ca)
        handler = Handler(context, way_out=way_out, public_only=public_only)
        self._opener = build_opener(ProxyHandler(), handler, SameHost())

    def send(
        self, method: str, headers: dict[str, str], data: Any = None, query: str = ""
    ) -> http.client.HTTPResponse:
        """Send one request; an answer that is no success is a fault."""
        url = f"{self._url}{'&' if '?' in self._url else '?'}{query}" if query else self._url
        try:
            request = Request(url, data=data, headers=headers, method=method)  # noqa: S310 - http too
            answer: http.client.HTTPResponse = self._opener.open(request, timeout=WAIT)
        except HTTPError as error:
            with error:
                fault = _refusal(error.code, error.headers.get("x-ms-error-code", ""))
        except (OSError, http.client.HTTPException, ValueError) as error:
            fault = _broken(error, reached=self.reached)
        else:
            self.reached = True
            return answer
        raise fault

    def pieces(self, answer: http.client.HTTPResponse) -> Iterator[memoryview]:
        """What an answer carries; each piece is valid until the next."""
        room = memoryview(bytearray(CHUNK))
        while True:
            try:
                count = answer.readinto(room)
            except (OSError, http.client.HTTPException) as error:
                fault = _broken(error, reached=True)
            else:
                if not count:
                    return
                yield room[:count]
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

    def __init__(self, link: Link, path: Path, told: Told, *, limit: int, until: float) -> None:
        self._link, self._path, self._told = link, path, told
        self._limit, self._until = limit, until
        self._part = path.with_name(f".cci-part-{hashlib.sha256(path.name.encode()).hexdigest()}")
        self._hash = hashlib.sha256()
        self._at = 0

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
                    self._take(chunk)
                if not self._fetch(file):
                    return {"more": self._at, "etag": self._etag}
            found = {"size": self._at, "sha256": self._hash.hexdigest()}
            _check(found, expected)
            self._part.replace(self._path)
        except BaseException:
            self._part.unlink(missing_ok=True)
            raise
        return found

    def _fetch(self, file: IO[bytes]) -> bool:
        tries, pause = 0, PAUSE
        while True:
            before = self._at
            try:
                return self._pull(file)
            except Fault as fault:
                tries, pause = (0, PAUSE) if self._at > before else (tries + 1, pause * 2)
                if not fault.again or tries >= _tries(fault) or time.monotonic() > self._until:
                    raise
            time.sleep(min(pause, 4.0))

    def _pull(self, file: IO[bytes]) -> bool:
        headers = {}
        if self._at and self._etag:  # without an ETag it may be another file by now
            headers = {"Range": f"bytes={self._at}-"}
            if not self._etag.startswith("W/"):
                headers["If-Match"] = self._etag
        with self._link.send("GET", headers) as answer:
            if answer.status == http.client.PARTIAL_CONTENT:
                _check_part(answer.headers, self._etag, self._at)
            elif self._at:
                self._start_over(file)
            self._etag = answer.headers.get("ETag")
            total = None if answer.length is None else self._at + answer.length
            for piece in self._link.pieces(answer):
                if self._at + len(piece) > self._limit:
                    raise Fault("too_large", f"it is larger than {self._limit:,} bytes")
                file.write(piece)
                self._take(piece)
                if time.monotonic() > self._until:
                    if not self._etag:
                        raise Fault("broken", "it takes too long, and its server has no ETag")
                    return False
        if total is not None and self._at < total:
            raise Fault("broken", "the connection ended too early", again=True)
        return True

    def _take(self, piece: Any) -> None:
        self._hash.update(piece)
        self._at += len(piece)
        self._told(self._at)

    def _start_over(self, file: IO[bytes]) -> None:
        file.seek(0)
        file.truncate()
        self._hash, self._at = hashlib.sha256(), 0


class Upload:
    """Sends a file to a blob's URL: in one request, or in blocks when that breaks.

    Args:
        link: Where it goes.
        path: The file.
        told: Told the bytes that were sent.
        until: When to stop and go on by another call, as `time.monotonic` counts.
    """

    def __init__(self, link: Link, path: Path, told: Told, *, until: float) -> None:
        self._link, self._path, self._told, self._until = link, path, told, until

    def run(self, blocks: int | None) -> dict[str, Any]:
        """Send it all, or until the time is over.

        Args:
            blocks: Blocks that earlier calls have sent; None for the first call.
        """
        size = self._path.stat().st_size
        if blocks is None and size <= ONE_PUT:
            try:
                return {"size": size, "sha256": self._whole(size)}
            except Fault as fault:
                if not fault.again:
                    raise
        done = self._blocks(size, blocks or 0)
        if done * BLOCK < size:
            return {"more": done}
        names = "".join(f"<Latest>{_block(number)}</Latest>" for number in range(done))
        body = f'<?xml version="1.0" encoding="utf-8"?><BlockList>{names}</BlockList>'.encode()
        self._persist(lambda: self._put(body, len(body), {}, "comp=blocklist"))
        digest = hashlib.sha256()
        with self._path.open("rb") as file:
            while piece := file.read(CHUNK):
                digest.update(piece)
        return {"size": size, "sha256": digest.hexdigest()}

    def _whole(self, size: int) -> str:
        digest = hashlib.sha256()
        self._put(self._read(0, size, digest), size, {"x-ms-blob-type": "BlockBlob"})
        return digest.hexdigest()

    def _blocks(self, size: int, done: int) -> int:
        while done * BLOCK < size and (not done or time.monotonic() < self._until):
            start, length = done * BLOCK, min(BLOCK, size - done * BLOCK)
            query = f"comp=block&blockid={_block(done)}"
            self._persist(
                lambda start=start, length=length, query=query: self._put(  # type: ignore[misc]
                    self._read(start, length), length, {}, query
                )
            )
            done += 1
        return done

    def _persist(self, send: Callable[[], None]) -> None:
        pause = PAUSE
        for tries in range(1, TRIES + 1):
            try:
                return send()
            except Fault as fault:
                if not fault.again or tries >= _tries(fault):
                    raise
            time.sleep(pause)
            pause *= 2
        return None

    def _put(self, data: Any, length: int, headers: dict[str, str], query: str = "") -> None:
        kind = {"Content-Type": "application/octet-stream", "Content-Length": str(length)}
        try:
            self._link.send("PUT", headers | kind, data, query).close()
        finally:
            if isinstance(data, Generator):
                data.close()  # with its file, wherever the sending stopped

    def _read(self, start: int, length: int, digest: Any = None) -> Generator[bytes]:
        with self._path.open("rb") as file:
            file.seek(start)
            while length and (piece := file.read(min(CHUNK, length))):
                length -= len(piece)
                if digest is not None:
                    digest.update(piece)
                yield piece
                start += len(piece)
                self._told(start)


def transfer(job: dict[str, Any], told: Told) -> dict[str, Any]:
    """Do what a job says.

    Args:
        job: `verb` (`get` or `put`), `url`, `path`, `seconds`, and, where they are known, `ca`,
            `public_only`, `way_out`, `limit`, `size`, `sha256`, and what an earlier call said with
            `more`.
        told: Told the bytes that were moved so far.

    Returns:
        `size` and `sha256`; or `more`, when the time was over; or `failed`, the reason, with its
        `kind`.
    """
    until = time.monotonic() + job["seconds"]
    path = Path(job["path"])
    try:
        link = Link(
            job["url"],
            ca=job.get("ca"),
            public_only=job.get("public_only", False),
            way_out=job.get("way_out"),
        )
        if job["verb"] == "put":
            return Upload(link, path, told, until=until).run(job.get("more"))
        limit = job.get("limit") or 1 << 62
        more = job.get("more")
        return Download(link, path, told, limit=limit, until=until).run(
            {"size": job.get("size"), "sha256": job.get("sha256")},
            job.get("etag"),
            resumed=more is not None,
        )
    except Fault as fault:
        return {"failed": str(fault), "kind": fault.kind}
    except FileNotFoundError:
        return {"failed": "there is no such file", "kind": "missing"}
    except OSError as error:
        return {"failed": os.strerror(error.errno or errno.EIO), "kind": "disk"}


def _tries(fault: Fault) -> int:
    return 2 if fault.kind == "unreachable" else TRIES


def _block(number: int) -> str:
    return b64encode(f"{number:06d}".encode()).decode()


def _check(found: dict[str, Any], expected: dict[str, Any]) -> None:
    for what, value in expected.items():
        if value is not None and found[what] != value:
            raise Fault("changed", f"its {what} is not what it should be")


def _refusal(status: int, code: str) -> Fault:
    words = f"the server answered {status} {code}".strip()
    kinds = {404: "missing", 409: "changed", 412: "changed", 416: "changed"}
    return Fault(kinds.get(status, "refused"), words, again=status in BUSY)


def _broken(error: Exception, *, reached: bool) -> Fault:
    """A fault of the connection, told by the kind of error alone: its text may have the URL."""
    cause = error.reason if isinstance(error, URLError) else error
    if isinstance(cause, Fault):
        return cause
    if isinstance(cause, ssl.SSLCertVerificationError):
        return Fault("refused", "the server's certificate is not trusted here")
    number = getattr(cause, "errno", None)
    shut = isinstance(cause, (socket.gaierror, ConnectionRefusedError)) or number in NO_WAY
    tunnel = "Tunnel connection failed" in str(cause)
    if not reached and (shut or tunnel):
        return Fault("unreachable", "the host cannot be reached from here", again=True)
    return Fault("broken", f"the connection broke ({type(cause).__name__})", again=True)


def _check_part(headers: Any, etag: str | None, at: int) -> None:
    """Refuse a part that would not fit to what is there."""
    if headers.get("ETag") != etag:
        raise Fault("changed", "it was changed meanwhile")
    if not headers.get("Content-Range", "").strip().startswith(f"bytes {at}-"):
        raise Fault("changed", "the server sent another part than it was asked for")


def _connected(addresses: list[str], port: int) -> socket.socket:
    for address in addresses[:-1]:
        with contextlib.suppress(OSError):
            return socket.create_connection((address, port), WAIT)
    return socket.create_connection((addresses[-1], port), WAIT)


def _public_addresses(host: str, port: int) -> list[str]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = [str(address[0]) for *_, address in found]
    if not all(map(is_public, addresses)):
        raise Fault("refused", "the host's address is not public")
    return addresses

"""The one way out of a fenced session: an HTTP proxy that lets named hosts through.

A session has no network, only a Unix socket that leads here. Names are resolved here, and what
is connected to is the very address that was looked at, so a name cannot lead elsewhere later.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import selectors
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from socketserver import BaseRequestHandler, ThreadingMixIn, UnixStreamServer
from urllib.parse import urlsplit

from cci_plugins.telemetry import logger

from .egress import Rule, reachable

HEAD_BYTES = 64 * 1024
PIECE = 1 << 20
CONNECT_SECONDS = 10.0
IDLE_SECONDS = 300.0
CONNECTIONS = 64


class EgressProxy:
    """Serves one session.

    Args:
        path: Where to listen: a Unix socket that only the session can reach.
        rules: The hosts that are let through.
    """

    def __init__(self, path: str, rules: tuple[Rule, ...]) -> None:
        self._server = _Server(path, rules)
        os.chmod(path, 0o666)  # noqa: S103, PTH101 - the folder is the session's own
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.2}, daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Stop, and cut every connection."""
        self._server.shutdown()
        self._server.server_close()
        self._server.cut()


class _Server(ThreadingMixIn, UnixStreamServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, path: str, rules: tuple[Rule, ...]) -> None:
        self.rules = rules
        self.places = threading.BoundedSemaphore(CONNECTIONS)
        self._open: set[socket.socket] = set()
        self._guard = threading.Lock()
        super().__init__(path, _Handler)

    def cut(self) -> None:
        """Cut every connection; its threads end by that."""
        with self._guard:
            for sock in self._open:
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)

    @contextlib.contextmanager
    def holding(self, *sockets: socket.socket) -> Iterator[None]:
        """Know these sockets while they are in use."""
        with self._guard:
            self._open.update(sockets)
        try:
            yield
        finally:
            with self._guard:
                self._open.difference_update(sockets)

    def handle_error(self, request: object, client_address: object) -> None:
        """A connection broke: nobody needs to know."""


class _Handler(BaseRequestHandler):
    request: socket.socket

    def __init__(self, request: socket.socket, address: object, server: _Server) -> None:
        self._host = server
        super().__init__(request, address, server)

    def handle(self) -> None:
        if not self._host.places.acquire(blocking=False):
            self._answer("503 Too many connections")
            return
        try:
            self.request.settimeout(IDLE_SECONDS)
            with self._host.holding(self.request):
                self._serve()
        finally:
            self._host.places.release()

    def _serve(self) -> None:
        head, rest = self._head()
        if not head:
            return
        asked = _Asked.read(head)
        if asked is None:
            self._answer("400 Bad Request")
            return
        upstream = self._connect(asked.host, asked.port)
        if upstream is None:
            return
        with upstream, self._host.holding(upstream):
            if asked.head:
                upstream.sendall(asked.head)
            else:
                self.request.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            upstream.sendall(rest)
            _relay(self.request, upstream)

    def _head(self) -> tuple[bytes, bytes]:
        data = bytearray()
        while b"\r\n\r\n" not in data:
            piece = self.request.recv(HEAD_BYTES)
            if not piece or len(data) > HEAD_BYTES:
                return b"", b""
            data += piece
        head, _, rest = bytes(data).partition(b"\r\n\r\n")
        return head, rest

    def _connect(self, host: str, port: int) -> socket.socket | None:
        rule = next((rule for rule in self._host.rules if rule.fits(host, port)), None)
        if rule is None:
            logger.info("egress: a session asked for %s:%d, which is not let through", host, port)
            self._answer("403 Forbidden by this session's egress setting")
            return None
        try:
            for address in _addresses(host, port):
                if not reachable(ipaddress.ip_address(address), private=rule.exact):
                    logger.info("egress: the address of %s is not let through", host)
                    self._answer("403 Forbidden address")
                    return None
                with contextlib.suppress(OSError):
                    sock = socket.create_connection((address, port), CONNECT_SECONDS)
                    sock.settimeout(IDLE_SECONDS)
                    return sock
        except OSError:
            pass
        self._answer("502 Bad Gateway")
        return None

    def _answer(self, status: str) -> None:
        with contextlib.suppress(OSError):
            self.request.sendall(
                f"HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode()
            )


@dataclass(frozen=True, slots=True)
class _Asked:
    """What a client asked for.

    Attributes:
        host: Name or address.
        port: Port.
        head: What to send on in its place; empty for a tunnel.
    """

    host: str
    port: int
    head: bytes

    @classmethod
    def read(cls, head: bytes) -> _Asked | None:
        """Read a request's head; None when it is no request of a proxy."""
        first, *lines = head.decode("latin-1").split("\r\n")
        try:
            method, target, _ = first.split(" ")
            tunnel = method == "CONNECT"
            parts = urlsplit(f"//{target}" if tunnel else target)
            host, port = (parts.hostname or "").rstrip(".").lower(), parts.port
        except ValueError:
            return None
        if not host or (not tunnel and parts.scheme != "http"):
            return None
        if tunnel:
            return cls(host, 443 if port is None else port, b"")
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        kept = [line for line in lines if not line.lower().startswith(("proxy-", "connection:"))]
        told = "\r\n".join([f"{method} {path} HTTP/1.1", *kept, "Connection: close", "", ""])
        return cls(host, 80 if port is None else port, told.encode("latin-1"))


def _addresses(host: str, port: int) -> list[str]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(address[0]) for *_, address in found]


def _relay(one: socket.socket, other: socket.socket) -> None:
    """Carry bytes both ways until both have said all, or nothing came for long."""
    room = memoryview(bytearray(PIECE))
    with selectors.DefaultSelector() as waiting:
        waiting.register(one, selectors.EVENT_READ, other)
        waiting.register(other, selectors.EVENT_READ, one)
        while waiting.get_map():
            ready = waiting.select(IDLE_SECONDS)
            if not ready:
                return
            for key, _ in ready:
                count = key.fileobj.recv_into(room)  # type: ignore[union-attr]  # a socket
                if count:
                    key.data.sendall(room[:count])
                    continue
                with contextlib.suppress(OSError):
                    key.data.shutdown(socket.SHUT_WR)
                waiting.unregister(key.fileobj)

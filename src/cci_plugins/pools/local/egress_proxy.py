"""The one way out of a fenced session: an HTTP proxy that lets named hosts through.

A session has no network, only a Unix socket that leads here. Names are resolved here, and what
is connected to is the very address that was looked at, so a name cannot lead elsewhere later.
"""

from __future__ import annotations

import contextlib
import os
import re
import selectors
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from socketserver import BaseRequestHandler, ThreadingMixIn, UnixStreamServer
from urllib.parse import urlsplit

from cci_plugins.common.log import logger

from .egress import Rule, reachable

HEAD_BYTES = 64 * 1024
PIECE = 1 << 18
CONNECT_SECONDS = 10.0
IDLE_SECONDS = 300.0
CONNECTIONS = 64
_HOST = re.compile(r"[a-z0-9_.:%-]{1,260}")


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
        self._is_cut = False
        super().__init__(path, _Handler)

    def cut(self) -> None:
        """Cut every connection; its threads end by that."""
        with self._guard:
            self._is_cut = True
            for sock in self._open:
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)

    @contextlib.contextmanager
    def holding(self, *sockets: socket.socket) -> Iterator[None]:
        """Know these sockets while they are in use."""
        with self._guard:
            if self._is_cut:
                raise ConnectionAbortedError
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
            self.request.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, PIECE)
            with self._host.holding(self.request):
                self._serve()
        finally:
            self._host.places.release()

    def _serve(self) -> None:
        head, rest = self._head()
        if not head:
            self._answer("400 Bad Request")
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
                if not reachable(address, private=rule.exact):
                    logger.info("egress: the address of %s is not let through", host)
                    self._answer("403 Forbidden address")
                    return None
                with contextlib.suppress(OSError):
                    sock = socket.create_connection((address, port), CONNECT_SECONDS)
                    sock.settimeout(IDLE_SECONDS)
                    return sock
        except (OSError, ValueError):  # ValueError: no name that could be looked up
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
        if not _HOST.fullmatch(host) or (not tunnel and parts.scheme != "http"):
            return None
        if tunnel:
            return cls(host, 443 if port is None else port, b"")
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        dropped = ("proxy-", "connection:", "host:")  # one name is looked at, and no other asked
        kept = [line for line in lines if not line.lower().startswith(dropped)]
        first, named = f"{method} {path} HTTP/1.1", f"Host: {parts.netloc.rpartition('@')[2]}"
        told = "\r\n".join([first, named, *kept, "Connection: close", "", ""])
        return cls(host, 80 if port is None else port, told.encode("latin-1"))


def _addresses(host: str, port: int) -> list[str]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(address[0]) for *_, address in found]


def _relay(one: socket.socket, other: socket.socket) -> None:
    """Carry bytes both ways until both have said all, or nothing moved for long."""
    lanes = (_Lane(one, other), _Lane(other, one))
    one.settimeout(0.0)
    other.settimeout(0.0)
    with selectors.DefaultSelector() as waiting:
        while not all(lane.done for lane in lanes):
            _watch(waiting, one, lanes)
            _watch(waiting, other, lanes)
            if not waiting.select(IDLE_SECONDS):
                return
            for lane in lanes:
                lane.move()


def _watch(
    waiting: selectors.BaseSelector, sock: socket.socket, lanes: tuple[_Lane, _Lane]
) -> None:
    """Wait for what the lanes want of this socket."""
    wanted = 0
    for lane in lanes:
        wanted |= lane.wants(sock)
    known = waiting.get_map().get(sock)
    if known is not None and known.events != wanted:
        waiting.unregister(sock)
        known = None
    if known is None and wanted:
        waiting.register(sock, wanted)


class _Lane:
    """One direction; what the target does not take yet waits here, and nothing more is read."""

    def __init__(self, source: socket.socket, target: socket.socket) -> None:
        self._source, self._target = source, target
        self._room = memoryview(bytearray(PIECE))
        self._left = self._room[:0]
        self.done = False

    def wants(self, sock: socket.socket) -> int:
        """The events of a socket that it waits for."""
        if self._left:
            return selectors.EVENT_WRITE if sock is self._target else 0
        return selectors.EVENT_READ if sock is self._source and not self.done else 0

    def move(self) -> None:
        """Carry what can be carried now."""
        with contextlib.suppress(BlockingIOError):
            if not self._left and not self.done:
                self._left = self._room[: self._source.recv_into(self._room)]
                if not self._left:
                    self.done = True
                    with contextlib.suppress(OSError):
                        self._target.shutdown(socket.SHUT_WR)
            while self._left:
                self._left = self._left[self._target.send(self._left) :]

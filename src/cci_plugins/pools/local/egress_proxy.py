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

from .egress import EgressRule, is_address_allowed

HEAD_BYTES = 64 * 1024
CHUNK_BYTES = 1 << 18
CONNECT_SECONDS = 10.0
IDLE_SECONDS = 300.0
MAX_CONNECTIONS = 64
_HOST_PATTERN = re.compile(r"[a-z0-9_.:%-]{1,260}")


class EgressProxy:
    """Serves one session.

    Args:
        path: Where to listen: a Unix socket that only the session can reach.
        rules: The hosts that are let through.
    """

    def __init__(self, path: str, rules: tuple[EgressRule, ...]) -> None:
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
        self._server.abort_connections()


class _Server(ThreadingMixIn, UnixStreamServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, path: str, rules: tuple[EgressRule, ...]) -> None:
        self.rules = rules
        self.connection_slots = threading.BoundedSemaphore(MAX_CONNECTIONS)
        self._open_sockets: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._is_aborted = False
        super().__init__(path, _Handler)

    def abort_connections(self) -> None:
        """Cut every connection; its threads end by that."""
        with self._lock:
            self._is_aborted = True
            for sock in self._open_sockets:
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)

    @contextlib.contextmanager
    def track(self, *sockets: socket.socket) -> Iterator[None]:
        """Know these sockets while they are in use."""
        with self._lock:
            if self._is_aborted:
                raise ConnectionAbortedError
            self._open_sockets.update(sockets)
        try:
            yield
        finally:
            with self._lock:
                self._open_sockets.difference_update(sockets)

    def handle_error(self, request: object, client_address: object) -> None:
        """A connection broke: nobody needs to know."""


class _Handler(BaseRequestHandler):
    request: socket.socket

    def __init__(self, request: socket.socket, address: object, server: _Server) -> None:
        self._proxy_server = server
        super().__init__(request, address, server)

    def handle(self) -> None:
        if not self._proxy_server.connection_slots.acquire(blocking=False):
            self._send_status("503 Too many connections")
            return
        try:
            self.request.settimeout(IDLE_SECONDS)
            self.request.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, CHUNK_BYTES)
            with self._proxy_server.track(self.request):
                self._serve()
        finally:
            self._proxy_server.connection_slots.release()

    def _serve(self) -> None:
        head, rest = self._read_head()
        if not head:
            self._send_status("400 Bad Request")
            return
        proxy_request = _ProxyRequest.parse(head)
        if proxy_request is None:
            self._send_status("400 Bad Request")
            return
        upstream = self._connect(proxy_request.host, proxy_request.port)
        if upstream is None:
            return
        with upstream, self._proxy_server.track(upstream):
            if proxy_request.head:
                upstream.sendall(proxy_request.head)
            else:
                self.request.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            upstream.sendall(rest)
            _relay(self.request, upstream)

    def _read_head(self) -> tuple[bytes, bytes]:
        data = bytearray()
        while b"\r\n\r\n" not in data:
            chunk = self.request.recv(HEAD_BYTES)
            if not chunk or len(data) > HEAD_BYTES:
                return b"", b""
            data += chunk
        head, _, rest = bytes(data).partition(b"\r\n\r\n")
        return head, rest

    def _connect(self, host: str, port: int) -> socket.socket | None:
        rule = next((rule for rule in self._proxy_server.rules if rule.matches(host, port)), None)
        if rule is None:
            logger.info("egress: a session asked for %s:%d, which is not let through", host, port)
            self._send_status("403 Forbidden by this session's egress setting")
            return None
        try:
            for address in _resolve_addresses(host, port):
                if not is_address_allowed(address, private=rule.is_exact):
                    logger.info("egress: the address of %s is not let through", host)
                    self._send_status("403 Forbidden address")
                    return None
                with contextlib.suppress(OSError):
                    sock = socket.create_connection((address, port), CONNECT_SECONDS)
                    sock.settimeout(IDLE_SECONDS)
                    return sock
        except (OSError, ValueError):  # ValueError: no name that could be looked up
            pass
        self._send_status("502 Bad Gateway")
        return None

    def _send_status(self, status: str) -> None:
        with contextlib.suppress(OSError):
            self.request.sendall(
                f"HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode()
            )


@dataclass(frozen=True, slots=True)
class _ProxyRequest:
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
    def parse(cls, head: bytes) -> _ProxyRequest | None:
        """Read a request's head; None when it is no request of a proxy."""
        first, *lines = head.decode("latin-1").split("\r\n")
        try:
            method, target, _ = first.split(" ")
            tunnel = method == "CONNECT"
            parts = urlsplit(f"//{target}" if tunnel else target)
            host, port = (parts.hostname or "").rstrip(".").lower(), parts.port
        except ValueError:
            return None
        if not _HOST_PATTERN.fullmatch(host) or (not tunnel and parts.scheme != "http"):
            return None
        if tunnel:
            return cls(host, 443 if port is None else port, b"")
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        dropped_prefixes = (
            "proxy-",
            "connection:",
            "host:",
        )  # one name is looked at, and no other asked
        kept = [line for line in lines if not line.lower().startswith(dropped_prefixes)]
        first, host_header = f"{method} {path} HTTP/1.1", f"Host: {parts.netloc.rpartition('@')[2]}"
        forwarded_head = "\r\n".join([first, host_header, *kept, "Connection: close", "", ""])
        return cls(host, 80 if port is None else port, forwarded_head.encode("latin-1"))


def _resolve_addresses(host: str, port: int) -> list[str]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(address[0]) for *_, address in found]


def _relay(one: socket.socket, other: socket.socket) -> None:
    """Carry bytes both ways until both have said all, or nothing moved for long."""
    pumps = (_Pump(one, other), _Pump(other, one))
    one.settimeout(0.0)
    other.settimeout(0.0)
    with selectors.DefaultSelector() as selector:
        while not all(pump.is_done for pump in pumps):
            _update_registration(selector, one, pumps)
            _update_registration(selector, other, pumps)
            if not selector.select(IDLE_SECONDS):
                return
            for pump in pumps:
                pump.transfer()


def _update_registration(
    selector: selectors.BaseSelector, sock: socket.socket, pumps: tuple[_Pump, _Pump]
) -> None:
    """Wait for what the lanes want of this socket."""
    events = 0
    for pump in pumps:
        events |= pump.get_events(sock)
    key = selector.get_map().get(sock)
    if key is not None and key.events != events:
        selector.unregister(sock)
        key = None
    if key is None and events:
        selector.register(sock, events)


class _Pump:
    """One direction; what the target does not take yet waits here, and nothing more is read."""

    def __init__(self, source: socket.socket, target: socket.socket) -> None:
        self._source, self._target = source, target
        self._buffer = memoryview(bytearray(CHUNK_BYTES))
        self._pending = self._buffer[:0]
        self.is_done = False

    def get_events(self, sock: socket.socket) -> int:
        """The events of a socket that it waits for."""
        if self._pending:
            return selectors.EVENT_WRITE if sock is self._target else 0
        return selectors.EVENT_READ if sock is self._source and not self.is_done else 0

    def transfer(self) -> None:
        """Carry what can be carried now."""
        with contextlib.suppress(BlockingIOError):
            if not self._pending and not self.is_done:
                self._pending = self._buffer[: self._source.recv_into(self._buffer)]
                if not self._pending:
                    self.is_done = True
                    with contextlib.suppress(OSError):
                        self._target.shutdown(socket.SHUT_WR)
            while self._pending:
                self._pending = self._pending[self._target.send(self._pending) :]

"""The egress proxy of a sandboxed session: an HTTP proxy that allows named hosts only.

A session has no network. Its only connection to the outside is a Unix socket to this proxy.

Each connection goes through these steps, in this order:
1. It takes one of `MAX_CONNECTIONS` slots, or gets the status 503.
2. Its head is parsed (`proxy_request`). What is not a proxy request gets the status 400.
3. The host and port must match a rule, or it gets the status 403.
4. The host is resolved here, and every address is checked before it is tried.
5. Bytes are relayed until both sides have finished or nothing moved for `IDLE_SECONDS`.

What must never happen:
- The proxy connects to an address that it did not check. It resolves a name once and connects to
  the checked address itself. A second lookup could return another address (DNS rebinding).
- A request reaches another host than the one in its request line. So the `Host` header is written
  here, a head that servers could read in two ways gets the status 400, and a plain HTTP connection
  carries one request only: what follows the body that its head declares is dropped.
- A socket stays open after `close()`. `_Server.track` knows every open socket and refuses new
  ones after the abort, also for a connection whose host was still being resolved.
- One slow direction stops the other. Each `_Pump` buffers one chunk and reads no more until the
  target has accepted it.

Why threads and not the event loop that runs the interpreters: file transfers pass through here
at 1 GB/s and more. Copying on that loop is not slower, but it delays every other callback.
Measured with 8 transfers on 2 cores: a callback waits 0.9 ms on average with threads and 3 ms on
the loop, and the wait grows with each connection. Here `recv_into` and `send` copy 256 KiB at a
time without the GIL, so the loop runs meanwhile. Name resolution would need a thread anyway.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import socket
import threading
import time
from collections.abc import Iterator
from socketserver import BaseRequestHandler, ThreadingMixIn, UnixStreamServer

from typing_extensions import override

from cci_plugins.common.log import logger

from .egress import EgressRule, is_address_allowed
from .proxy_request import ProxyRequest, RequestBody

HEAD_BYTES = 64 * 1024
CHUNK_BYTES = 1 << 18
CONNECT_SECONDS = 10.0
IDLE_SECONDS = 300.0
MAX_CONNECTIONS = 64
ACCEPT_AGAIN_SECONDS = 0.2


class EgressProxy:
    """A running proxy for one session.

    Args:
        path: The Unix socket to create. Only the session must be able to reach it.
        rules: The allowed hosts.
    """

    def __init__(self, path: str, rules: tuple[EgressRule, ...]) -> None:
        self._server = _Server(path, rules)
        try:
            os.chmod(path, 0o666)  # noqa: S103, PTH101 - only the session can enter the folder
            self._thread = threading.Thread(
                target=self._server.serve_forever, kwargs={"poll_interval": 0.2}, daemon=True
            )
            self._thread.start()
        except BaseException:
            self._server.server_close()
            raise

    def close(self) -> None:
        """Stop the proxy and abort every connection."""
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
        """Shut down every open socket, which ends the connection threads."""
        with self._lock:
            self._is_aborted = True
            for sock in self._open_sockets:
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)

    @contextlib.contextmanager
    def track(self, *sockets: socket.socket) -> Iterator[None]:
        """Register sockets so that `abort_connections` reaches them.

        Raises:
            ConnectionAbortedError: The proxy was closed already.
        """
        with self._lock:
            if self._is_aborted:
                raise ConnectionAbortedError
            self._open_sockets.update(sockets)
        try:
            yield
        finally:
            with self._lock:
                self._open_sockets.difference_update(sockets)

    @override
    def get_request(self) -> tuple[socket.socket, object]:
        """Accept a connection. While that fails, wait, because it would be tried at once."""
        try:
            return super().get_request()
        except OSError:
            time.sleep(ACCEPT_AGAIN_SECONDS)
            raise

    def handle_error(self, request: object, client_address: object) -> None:
        """Ignore a broken connection. The session sees the error itself."""


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
        proxy_request = ProxyRequest.parse(head)
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
            body = proxy_request.body
            upstream.sendall(rest if body is None else rest[: body.accept(rest)])
            _relay(self.request, upstream, body)

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
            logger.info("egress: a session requested %s:%d, which is not allowed", host, port)
            self._send_status("403 Forbidden by this session's egress setting")
            return None
        try:
            for address in _resolve_addresses(host, port):
                if not is_address_allowed(
                    address, private=rule.is_exact, loopback=rule.is_loopback
                ):
                    logger.info("egress: the address of %s is not allowed", host)
                    self._send_status("403 Forbidden address")
                    return None
                with contextlib.suppress(OSError):
                    sock = socket.create_connection((address, port), CONNECT_SECONDS)
                    sock.settimeout(IDLE_SECONDS)
                    return sock
        except (OSError, ValueError):  # ValueError: a name that cannot be encoded
            pass
        self._send_status("502 Bad Gateway")
        return None

    def _send_status(self, status: str) -> None:
        with contextlib.suppress(OSError):
            self.request.sendall(
                f"HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode()
            )


def _resolve_addresses(host: str, port: int) -> list[str]:
    entries = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(address[0]) for *_, address in entries]


def _relay(one: socket.socket, other: socket.socket, body: RequestBody | None) -> None:
    """Copy bytes both ways until both sides have finished or nothing moved for long."""
    pumps = (_Pump(one, other, body), _Pump(other, one))
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
    """Register a socket for the events that the pumps wait for."""
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
    """One direction of a connection, with a buffer of one chunk."""

    def __init__(
        self, source: socket.socket, target: socket.socket, body: RequestBody | None = None
    ) -> None:
        self._source, self._target, self._body = source, target, body
        self._buffer = memoryview(bytearray(CHUNK_BYTES))
        self._pending = self._buffer[:0]
        self.is_done = False

    def get_events(self, sock: socket.socket) -> int:
        """Return the events of a socket that this direction waits for."""
        if self._pending:
            return selectors.EVENT_WRITE if sock is self._target else 0
        return selectors.EVENT_READ if sock is self._source and not self.is_done else 0

    def transfer(self) -> None:
        """Copy the bytes that can be copied without waiting."""
        with contextlib.suppress(BlockingIOError):
            if not self._pending and not self.is_done:
                self._pending = self._buffer[: self._source.recv_into(self._buffer)]
                has_ended = not self._pending
                if self._body is not None:
                    self._pending = self._pending[: self._body.accept(self._pending)]
                if has_ended:
                    self.is_done = True
                    with contextlib.suppress(OSError):
                        self._target.shutdown(socket.SHUT_WR)
            while self._pending:
                self._pending = self._pending[self._target.send(self._pending) :]

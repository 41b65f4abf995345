"""Transport of this machine's own sign-in, whose answers are bounded in bytes and time.

azure-identity blocks a worker thread, and its HTTP library reads an answer whole. Here the answers
of Entra, of the machine's identity service and of federated sign-ins have a bound.

The library limits the wait for each packet only, so a service that sends one byte a minute would
keep the thread for ever. Each exchange therefore has a timer, which shuts its connections down:
also while they are made, and while their headers arrive. `sign_in_time` limits all exchanges of a
sign-in together, and the pauses between them.
"""

from __future__ import annotations

import socket
import time
from collections import OrderedDict
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from functools import partial
from threading import Lock, Timer
from typing import Any
from urllib.parse import urlsplit

import requests
from azure.core.pipeline.transport import RequestsTransport
from requests.adapters import HTTPAdapter
from typing_extensions import override
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection

from cci_plugins.common.http_bodies import ACCEPT_ENCODING, BodyDecoder, check_encoding
from cci_plugins.common.limits import MIB
from cci_plugins.common.urls import is_loopback_host
from cci_plugins.errors import ProtocolError

from .failures import SIGN_IN_SENDER as _SENDER
from .sign_in_time import get_remaining_time

MAX_BYTES = MIB  # a token has some kilobytes
ANSWER_SECONDS = 120.0  # for a connection, a request and its whole answer
_CONNECT_SECONDS, _READ_SECONDS = 30.0, 60.0  # for each address, and between two packets
# A read waits until it has so many bytes, so a small number keeps the time limit. A small chunk of
# gzip is decoded to little more.
_CHUNK_BYTES = 16


def build_sign_in_transport() -> RequestsTransport:
    """Return a transport for a blocking credential of azure-identity, which closes it."""
    session = _DirectSession()
    session.headers.update(ACCEPT_ENCODING)
    session.hooks["response"].append(_bound_response)
    for scheme in ("http://", "https://"):
        session.mount(scheme, _Adapter())
    return _Transport(
        session=session, connection_timeout=_CONNECT_SECONDS, read_timeout=_READ_SECONDS
    )


class _Transport(RequestsTransport):  # type: ignore[misc]  # azure-core loads it lazily
    """Transport that gives up an exchange at its time limit, and ends its connections."""

    def send(self, request: Any, *, proxies: Any = None, **config: Any) -> Any:
        """Send a request and read its whole answer."""
        with _limit_exchange(min(ANSWER_SECONDS, get_remaining_time())):
            return super().send(request, proxies=proxies, **config)

    def sleep(self, duration: float) -> None:
        """Wait before a repetition, as long as a service asked for."""
        if duration > get_remaining_time():
            raise ProtocolError(f"{_SENDER} asked to wait for {duration:g} s")
        super().sleep(duration)


class _Exchange:
    """The connections of one exchange, which another thread can end.

    Their sockets are duplicates: the library replaces, wraps and closes its own at any time.
    """

    def __init__(self) -> None:
        self.is_over = False
        self._sockets: list[socket.socket] = []
        self._lock = Lock()

    def watch(self, connection: socket.socket) -> None:
        """End a connection at the time limit, or at once if that has passed."""
        with self._lock:
            twin = socket.fromfd(connection.fileno(), connection.family, connection.type)
            self._sockets.append(twin)
            if self.is_over:
                _shut_down(twin)

    def stop(self) -> None:
        """End the connections, so that whatever waits for them fails."""
        with self._lock:
            self.is_over = True
            for twin in self._sockets:
                _shut_down(twin)

    def close(self) -> None:
        """Release the duplicates. The connections stay open."""
        with self._lock:
            for twin in self._sockets:
                twin.close()
            self._sockets.clear()


_EXCHANGE: ContextVar[_Exchange | None] = ContextVar("exchange", default=None)


@contextmanager
def _limit_exchange(seconds: float) -> Generator[None]:
    """Limit the time of an exchange.

    Raises:
        ProtocolError: The time is over.
    """
    if seconds <= 0:
        raise _build_late_error()
    exchange = _Exchange()
    timer = Timer(seconds, exchange.stop)
    timer.daemon = True
    before = _EXCHANGE.set(exchange)
    timer.start()
    try:
        yield
    except Exception:
        # a connection that was shut down fails in many ways
        if not exchange.is_over:
            raise
    finally:
        _EXCHANGE.reset(before)
        timer.cancel()
        timer.join()
        exchange.close()
    if exchange.is_over:  # also where the library took the end for an answer's own
        raise _build_late_error()


def _watch(connection: socket.socket | None) -> None:
    exchange = _EXCHANGE.get()
    if exchange is not None and connection is not None:
        exchange.watch(connection)


def _shut_down(connection: socket.socket) -> None:
    with suppress(OSError):  # it ended by itself
        connection.shutdown(socket.SHUT_RDWR)


class _WatchedConnection:
    """Addition to a connection of urllib3: the current exchange can end it."""

    sock: socket.socket | None

    def _new_conn(self) -> socket.socket:
        base: Any = super()
        made: socket.socket = base._new_conn()  # noqa: SLF001 - of the same object
        _watch(made)
        return made

    def request(self, *arguments: Any, **options: Any) -> None:
        _watch(self.sock)  # it is kept from an exchange before
        base: Any = super()
        base.request(*arguments, **options)


class _HttpConnection(_WatchedConnection, HTTPConnection):
    pass


class _HttpsConnection(_WatchedConnection, HTTPSConnection):
    pass


class _HttpPool(HTTPConnectionPool):
    ConnectionCls: Any = _HttpConnection


class _HttpsPool(HTTPSConnectionPool):
    ConnectionCls: Any = _HttpsConnection


class _Adapter(HTTPAdapter):
    """Adapter whose connections can be ended by another thread. SOCKS proxies have their own."""

    @override
    def init_poolmanager(self, *arguments: Any, **options: Any) -> None:
        super().init_poolmanager(*arguments, **options)
        _use_own_pools(self.poolmanager)

    @override
    def proxy_manager_for(self, proxy: Any, **options: Any) -> Any:
        manager = super().proxy_manager_for(proxy, **options)
        if not str(proxy).lower().startswith("socks"):
            _use_own_pools(manager)
        return manager


def _use_own_pools(manager: Any) -> None:
    manager.pool_classes_by_scheme = {"http": _HttpPool, "https": _HttpsPool}


class _DirectSession(requests.Session):
    """Session that asks an identity service of this machine past the proxy of HTTP_PROXY.

    The proxy would get the secret of that service unencrypted.
    """

    @override
    def merge_environment_settings(self, url: Any, *args: Any, **options: Any) -> Any:
        settings = super().merge_environment_settings(url, *args, **options)
        if is_loopback_host(urlsplit(url).hostname or ""):
            settings["proxies"] = OrderedDict()
        return settings


def _bound_response(response: requests.Response, **_options: Any) -> None:
    """Bound the body of a response, which the library reads after this hook."""
    try:
        check_encoding(response.headers.get("content-encoding"), _SENDER)
    except ProtocolError:
        response.close()
        raise
    # `content` and the library's other readers use it
    vars(response)["iter_content"] = partial(_iterate, response, response.iter_content)


def _iterate(
    response: requests.Response, iterate: Callable[[int], Iterable[bytes]], *_: Any, **_options: Any
) -> Iterator[bytes]:
    counter = BodyDecoder(None, limit=MAX_BYTES, sender=_SENDER)  # the library has decoded it
    end = time.monotonic() + ANSWER_SECONDS
    try:
        for chunk in iterate(_CHUNK_BYTES):
            yield from counter.feed(chunk)
            if time.monotonic() > end:
                raise _build_late_error()
    except ProtocolError:
        response.close()
        raise


def _build_late_error() -> ProtocolError:
    return ProtocolError(f"{_SENDER} did not answer within {ANSWER_SECONDS:g} s")

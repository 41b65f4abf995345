"""Transport of this machine's own sign-in, whose answers are bounded in bytes and time.

azure-identity blocks a worker thread, and its HTTP library reads an answer whole. Here the answers
of Entra, of the machine's identity service and of federated sign-ins have a bound.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import requests
from azure.core.pipeline.transport import RequestsTransport
from typing_extensions import override

from cci_plugins.common.http_bodies import ACCEPT_ENCODING, BodyDecoder, check_encoding
from cci_plugins.common.limits import MIB
from cci_plugins.common.urls import is_loopback_host
from cci_plugins.errors import ProtocolError

from .failures import SIGN_IN_SENDER as _SENDER

MAX_BYTES = MIB  # a token has some kilobytes
ANSWER_SECONDS = 120.0
_READ_SECONDS = 60.0  # between two packets
# A read waits until it has so many bytes, so a small number keeps the time limit. A small chunk of
# gzip is decoded to little more.
_CHUNK_BYTES = 16


def build_sign_in_transport() -> RequestsTransport:
    """Return a transport for a blocking credential of azure-identity, which closes it."""
    session = _DirectSession()
    session.headers.update(ACCEPT_ENCODING)
    session.hooks["response"].append(_bound_response)
    return RequestsTransport(session=session, read_timeout=_READ_SECONDS)


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
            _check_time(end)
    except ProtocolError:
        response.close()
        raise


def _check_time(end: float) -> None:
    if time.monotonic() > end:
        raise ProtocolError(f"{_SENDER} did not answer within {ANSWER_SECONDS:g} s")

"""Transport of Azure's asynchronous SDKs, which keeps to one server and to bounds.

It sends requests to the server that its client was made for only, wherever an answer leads. The
bounds are of bytes, pages and time.

azure-core reads an answer whole and decodes its gzip without a bound. Here the body of an answer is
counted while it arrives, raw and decoded. A failure is a `ProtocolError` and not an `AzureError`,
so that no policy of azure-core sends the request again. Callers put their step before its text.

A body that azure-core streams is not counted: its reader counts it, and each of its steps is small.

With `connection_verify`, the SDK reads the certificates again for each request. aiohttp takes them
for other ones then, and makes a new connection. Here, one session has them for all its requests.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import AsyncGenerator, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import aiohttp
import anyio
import anyio.lowlevel
from azure.core.pipeline.transport import AioHttpTransport
from typing_extensions import override

from cci_plugins.common.http_bodies import ACCEPT_ENCODING, REPLY_BYTES, BodyDecoder
from cci_plugins.common.urls import is_loopback_host
from cci_plugins.errors import ProtocolError

from .destinations import Destination

MAX_BYTES = REPLY_BYTES  # of one answer
MAX_PAGES, MAX_ITEMS = 1_000, 100_000  # of one list
ANSWER_SECONDS = 300.0  # for the head of an answer, and again for its body
STEP_SECONDS = 900.0  # for a request with its retries, and for a list with all its pages
_SENDER = "Azure"


def build_connection_options(
    endpoint: str, ca: Path | str | None, **options: Any
) -> dict[str, Any]:
    """Return the options of an asynchronous client for its connections.

    Args:
        endpoint: URL of the server that may get the client's requests.
        ca: File with the certificates to trust. The one of SSL_CERT_FILE when None, because
            aiohttp reads that variable only once, when it is imported.
        **options: Options of the SDK's transport, such as `read_timeout`.

    Raises:
        ConfigurationError: The endpoint is not a URL.
    """
    file = str(ca or os.environ.get("SSL_CERT_FILE") or "")
    return {"transport": BoundedTransport(endpoint, file or None, **options)}


class BoundedTransport(AioHttpTransport):  # type: ignore[misc]  # azure-core loads it lazily
    """Transport for clients of Azure's SDKs, which own and close it.

    Args:
        endpoint: URL of the server that may get the requests.
        ca: File with the certificates to trust, or None for the system's.
        **options: Options of `AioHttpTransport`, such as `read_timeout`.

    Raises:
        ConfigurationError: The endpoint is not a URL.
    """

    session: aiohttp.ClientSession | None

    def __init__(self, endpoint: str, ca: str | None = None, **options: Any) -> None:
        super().__init__(**options)
        self._destination = Destination(endpoint)
        self._ca = ca
        self._was_opened = self._is_direct = False

    async def __aenter__(self) -> Self:
        return self  # the first request opens the connections, since its host matters

    async def open(self) -> None:
        """Open the connections, with the bounded kind of response."""
        if self.session is None and not self._was_opened:
            context = ssl.create_default_context(cafile=self._ca) if self._ca else True
            self.session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(ssl=context),
                trust_env=not self._is_direct,  # proxies
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                headers=ACCEPT_ENCODING,
                response_class=_BoundedResponse,
            )
            self._was_opened = True
        await super().open()

    async def send(self, request: Any, *, stream: bool = False, **config: Any) -> Any:
        """Send a request within a limit of time, and read its answer unless it is streamed.

        Raises:
            ProtocolError: The request is for another server, and was not sent.
        """
        self._destination.check(request.url)
        # a proxy of HTTP_PROXY would get a token for this machine unencrypted
        self._is_direct = is_loopback_host(urlsplit(request.url).hostname or "")
        # `_BoundedResponse.read` limits the time of the body, which callers may read later
        seconds = ANSWER_SECONDS if stream else 2 * ANSWER_SECONDS
        with limit_azure_time(seconds):
            return await super().send(request, stream=stream, **config)


class _BoundedResponse(aiohttp.ClientResponse):
    """Response that is read whole only up to `MAX_BYTES`, raw and decoded."""

    _whole: bytes | None = None

    @override
    async def read(self) -> bytes:
        """Return the raw body, which azure-core decodes. Its decoded size is within the bound."""
        if self._whole is None:
            try:
                with limit_azure_time(ANSWER_SECONDS):
                    self._whole = await self._read_whole()
            except BaseException:
                self.close()
                raise
        return self._whole

    async def _read_whole(self) -> bytes:
        decoder = BodyDecoder(self.headers.get("content-encoding"), limit=MAX_BYTES, sender=_SENDER)
        chunks, size = [], 0
        async for raw in self.content.iter_any():
            size += len(raw)
            if size > MAX_BYTES:  # what follows the end of a gzip stream
                raise ProtocolError(f"{_SENDER}'s answer is larger than {MAX_BYTES:,} bytes")
            for _ in decoder.feed(raw):
                await anyio.lowlevel.checkpoint()
            chunks.append(raw)
        decoder.finish()
        return b"".join(chunks)


@contextmanager
def limit_azure_time(seconds: float) -> Generator[None]:
    """Limit the time that Azure may take.

    Args:
        seconds: Longest time.

    Raises:
        ProtocolError: The time is over.
    """
    with anyio.move_on_after(seconds) as scope:
        yield
    if scope.cancelled_caught:
        raise ProtocolError(f"{_SENDER} did not answer within {seconds:.0f} s")


async def iterate_items(paged: Any) -> AsyncGenerator[Any]:
    """Yield the items of a list of an SDK, from all its pages.

    Args:
        paged: The SDK's `AsyncItemPaged`.

    Raises:
        ProtocolError: The list does not end, or its pages take too long.
    """
    pages, items = paged.by_page(), 0
    deadline = anyio.current_time() + STEP_SECONDS
    for _ in range(MAX_PAGES):
        with limit_azure_time(deadline - anyio.current_time()):
            page = await anext(pages, None)
            found = [] if page is None else [item async for item in page]
        if page is None:
            return
        items += len(found)
        if items > MAX_ITEMS:
            break
        for item in found:
            yield item
    raise build_endless_error()


def build_endless_error() -> ProtocolError:
    """Return the error for a list with too many pages or items."""
    return ProtocolError(
        f"{_SENDER}'s list does not end after {MAX_PAGES:,} pages or {MAX_ITEMS:,} items"
    )

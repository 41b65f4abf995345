"""Bodies of HTTP answers: decoded here, and bounded while they are decoded.

Every client of a pool reads its answers here, through the decoder of `common.http_bodies`. Time is
bounded by `http.limit_time` around the request and its answer.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import aclosing
from datetime import timedelta
from importlib import import_module
from typing import Any, TypeVar

import anyio
import httpx

from cci_plugins.common.http_bodies import ERROR_BYTES, REPLY_BYTES, BodyDecoder
from cci_plugins.common.worker_lane import WorkerLane
from cci_plugins.errors import PoolUnavailableError, ProtocolError

T = TypeVar("T")
LARGE_BYTES = 512 * 1024  # take some milliseconds to decode
_lane = WorkerLane("decoding")


async def decode_in_lane(size: int, decode: Callable[[], T]) -> T:
    """Return the result of `decode()`, from a worker thread if it takes long.

    Args:
        size: Bytes that it decodes.
        decode: Decodes them.
    """
    return await _lane.run(decode) if size > LARGE_BYTES else decode()


class ByteBudget:
    """Bytes that the pages of one list may have together.

    Args:
        limit: Most bytes.
    """

    def __init__(self, limit: int = REPLY_BYTES) -> None:
        self._limit, self._taken = limit, 0

    def take(self, size: int) -> None:
        """Count a page of some bytes.

        Raises:
            ProtocolError: There are more than the limit.
        """
        self._taken += size
        if self._taken > self._limit:
            raise ProtocolError(f"the pool's list is larger than {self._limit:,} bytes")


async def read_body(response: httpx.Response, limit: int) -> bytes:
    """Read a whole answer.

    Args:
        response: The answer, whose body is not read yet.
        limit: Most bytes of the decoded body.

    Raises:
        ProtocolError: The body is larger, or its encoding is malformed.
    """
    if response.is_stream_consumed:
        return b"".join(_decode_consumed(response, limit))
    decoder = BodyDecoder(response.headers.get("content-encoding"), limit=limit)
    found: list[bytes] = []
    async for raw in response.aiter_raw():  # whose end the caller makes sure of
        found.extend(decoder.feed(raw))
    decoder.finish()
    return found[0] if len(found) == 1 else b"".join(found)


async def read_error_body(response: httpx.Response) -> bytes:
    """Read the body of an error, or nothing where it is malformed or too long for a reason."""
    try:
        return await read_body(response, ERROR_BYTES)
    except ProtocolError:
        return b""


async def iterate_body(
    response: httpx.Response, *, limit: int | None = None
) -> AsyncGenerator[bytes]:
    """Yield the decoded body in chunks of at most `CHUNK_BYTES`.

    Args:
        response: The answer, whose body is not read yet.
        limit: Most bytes of the decoded body. None for a caller that counts them.

    Raises:
        ProtocolError: The body is larger, or its encoding is malformed.
    """
    async with aclosing(_decode(response, limit)) as chunks:
        async for chunk in chunks:
            yield chunk


async def bound_response(response: Any, *, limit: int, sender: str) -> None:
    """Bound the body of an answer that another library reads, as a hook of its client.

    Args:
        response: The answer of httpx, or of httpx2, which newer clients of OpenAI use. Its body is
            not read yet.
        limit: Most bytes of the decoded body.
        sender: Who answered, for error messages.

    Raises:
        ProtocolError: The body has an encoding that nobody asked for. A body that is larger raises
            it in the library that reads it.
    """
    decoder = BodyDecoder(response.headers.get("content-encoding"), limit=limit, sender=sender)
    response.headers.pop("content-encoding", None)  # it is decoded before the library reads it
    library = import_module(type(response).__module__.partition(".")[0])
    response.stream = _build_stream(library.AsyncByteStream, response.stream, decoder)


def _build_stream(base: type[Any], stream: Any, decoder: BodyDecoder) -> Any:
    """Return a stream of the library's own type that decodes another one."""

    class BoundedStream(base):  # type: ignore[misc]  # its library is known at run time
        async def __aiter__(self) -> AsyncIterator[bytes]:
            async for raw in stream:
                for chunk in decoder.feed(raw):
                    yield chunk
            decoder.finish()

        async def aclose(self) -> None:
            await stream.aclose()

    return BoundedStream()


async def limit_pace(
    chunks: AsyncGenerator[bytes], patience: timedelta, pace: int
) -> AsyncGenerator[bytes]:
    """Yield chunks as they arrive, and stop where they come much too slowly.

    Only the wait for chunks counts, and not what the caller does with them.

    Args:
        chunks: The chunks.
        patience: Wait that is allowed in addition to the pace.
        pace: Bytes per second, on average.

    Raises:
        PoolUnavailableError: The chunks come too slowly.
    """
    size, waited = 0, 0.0
    async with aclosing(chunks):
        while True:
            begun, left = anyio.current_time(), patience.total_seconds() + size / pace - waited
            try:
                with anyio.fail_after(left):
                    chunk = await anext(chunks, None)
            except TimeoutError:
                raise PoolUnavailableError(
                    f"the pool sent only {size:,} bytes in {waited + left:.0f} s"
                ) from None
            if chunk is None:
                return
            waited += anyio.current_time() - begun
            size += len(chunk)
            yield chunk


async def _decode(response: httpx.Response, limit: int | None) -> AsyncGenerator[bytes]:
    if response.is_stream_consumed:
        for chunk in _decode_consumed(response, limit):
            yield chunk
        return
    decoder = BodyDecoder(response.headers.get("content-encoding"), limit=limit)
    async for raw in response.aiter_raw():
        for chunk in decoder.feed(raw):
            yield chunk
    decoder.finish()


def _decode_consumed(response: httpx.Response, limit: int | None) -> Iterator[bytes]:
    """Yield a body that is in memory already, as with httpx's own test transport."""
    return BodyDecoder(None, limit=limit).feed(response.content)

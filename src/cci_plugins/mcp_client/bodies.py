"""Bodies of HTTP answers: decoded here, and bounded while they are decoded.

httpx decodes a whole chunk at once, so that 64 KiB of gzip become 64 MiB before anybody can look.
This module asks for gzip only and decodes it in small steps. Every client of a pool reads its
answers here. Time is bounded by `http.limit_time` around the request and its answer.
"""

from __future__ import annotations

import zlib
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import aclosing
from datetime import timedelta

import anyio
import httpx

from cci_plugins.common.limits import MIB
from cci_plugins.errors import PoolUnavailableError, ProtocolError

ACCEPT_ENCODING: Mapping[str, str] = {"accept-encoding": "gzip"}
RUN_BYTES = 160 * MIB  # twice the results of a run, which MCP repeats, and both streams
REPLY_BYTES = 32 * MIB  # of an answer to anything but a run, such as a list of files
ERROR_BYTES = 64 * 1024
CHUNK_BYTES = 256 * 1024
_GZIP = 16 + zlib.MAX_WBITS  # zlib's number for a gzip header


async def read_body(response: httpx.Response, limit: int) -> bytes:
    """Read a whole answer.

    Args:
        response: The answer, whose body is not read yet.
        limit: Most bytes of the decoded body.

    Raises:
        ProtocolError: The body is larger, or its encoding is malformed.
    """
    async with aclosing(iterate_body(response, limit=limit)) as chunks:
        return b"".join([chunk async for chunk in chunks])


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
    size = 0
    async with aclosing(_decode(response)) as chunks:
        async for chunk in chunks:
            size += len(chunk)
            if limit is not None and size > limit:
                raise ProtocolError(f"the pool's answer is larger than {limit:,} bytes")
            yield chunk


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


async def _decode(response: httpx.Response) -> AsyncGenerator[bytes]:
    if response.is_stream_consumed:  # it is in memory, as with httpx's own test transport
        for chunk in _split(response.content):
            yield chunk
        return
    encoding = response.headers.get("content-encoding", "").strip().lower()
    if encoding not in {"", "identity", "gzip", "x-gzip"}:
        raise ProtocolError(
            f"the pool's answer has an encoding that was not asked for ({encoding[:40]!a})"
        )
    inflater = _Inflater() if "gzip" in encoding else None
    async for raw in response.aiter_raw():
        for chunk in _split(raw) if inflater is None else inflater.feed(raw):
            yield chunk
    if inflater is not None and not inflater.is_complete:
        raise ProtocolError("the pool's answer ended too early")


class _Inflater:
    """Decoder of gzip that never holds more than one chunk."""

    def __init__(self) -> None:
        self._stream = zlib.decompressobj(_GZIP)
        self._is_empty = True

    @property
    def is_complete(self) -> bool:
        """Whether the stream has ended, or never began as for an answer without a body."""
        return self._is_empty or self._stream.eof

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Decode the next bytes. What follows the end of the stream is ignored."""
        self._is_empty = self._is_empty and not data
        try:
            while not self._stream.eof:
                chunk = self._stream.decompress(data, CHUNK_BYTES)
                data = self._stream.unconsumed_tail
                if chunk:
                    yield chunk
                if not data and len(chunk) < CHUNK_BYTES:
                    return
        except zlib.error:
            raise ProtocolError(
                "the pool's answer is not gzip, although its header names it"
            ) from None


def _split(data: bytes) -> Iterator[bytes]:
    for start in range(0, len(data), CHUNK_BYTES):
        yield data[start : start + CHUNK_BYTES]

"""Bounds for the bodies of HTTP answers, and a decoder that keeps to them.

HTTP libraries decode a whole chunk of gzip at once, so that 64 KiB become 64 MiB before anybody
can look. `BodyDecoder` decodes in small steps. The clients of pools, of Azure's SDKs and of models
use it, each with the library that it has.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping

from cci_plugins.errors import ProtocolError

from .limits import MIB

ACCEPT_ENCODING: Mapping[str, str] = {"accept-encoding": "gzip"}
RUN_BYTES = 160 * MIB  # twice the results of a run, which MCP repeats, and both streams
REPLY_BYTES = 32 * MIB  # of an answer to anything but a run, such as a list of files
ERROR_BYTES = 64 * 1024
CHUNK_BYTES = 256 * 1024
_GZIP = 16 + zlib.MAX_WBITS  # zlib's number for a gzip header
_MAX_SHOWN = 40  # characters of an odd header


def check_encoding(encoding: str | None, sender: str) -> bool:
    """Return whether a body is gzip.

    Args:
        encoding: The header `Content-Encoding`.
        sender: Who answered, for the error message.

    Raises:
        ProtocolError: The body has another encoding, which nobody asked for.
    """
    kind = (encoding or "").strip().lower()
    if kind not in {"", "identity", "gzip", "x-gzip"}:
        raise ProtocolError(
            f"{sender}'s answer has an encoding that was not asked for ({kind[:_MAX_SHOWN]!a})"
        )
    return "gzip" in kind


class BodyDecoder:
    """Decoder of one body, which counts what it decodes and never holds more than a chunk.

    Args:
        encoding: The header `Content-Encoding`.
        limit: Most bytes of the decoded body. None for a caller that counts them.
        sender: Who answered, for error messages.

    Raises:
        ProtocolError: The body has an encoding that nobody asked for.
    """

    def __init__(
        self, encoding: str | None, *, limit: int | None, sender: str = "the pool"
    ) -> None:
        self._limit, self._sender, self._size = limit, sender, 0
        is_gzip = check_encoding(encoding, sender)
        self._stream = zlib.decompressobj(_GZIP) if is_gzip else None
        self._is_empty = True

    def feed(self, raw: bytes) -> Iterator[bytes]:
        """Decode the next bytes, in chunks of at most `CHUNK_BYTES`.

        What follows the end of a gzip stream is ignored.

        Raises:
            ProtocolError: The body is larger than the limit, or is not gzip.
        """
        for chunk in _split(raw) if self._stream is None else self._inflate(self._stream, raw):
            self._size += len(chunk)
            if self._limit is not None and self._size > self._limit:
                raise ProtocolError(f"{self._sender}'s answer is larger than {self._limit:,} bytes")
            yield chunk

    def finish(self) -> None:
        """Check that the body is complete.

        Raises:
            ProtocolError: The gzip stream has not ended.
        """
        if self._stream is not None and not (self._is_empty or self._stream.eof):
            raise ProtocolError(f"{self._sender}'s answer ended too early")

    def _inflate(self, stream: zlib._Decompress, data: bytes) -> Iterator[bytes]:
        self._is_empty = self._is_empty and not data
        try:
            while not stream.eof:
                chunk = stream.decompress(data, CHUNK_BYTES)
                data = stream.unconsumed_tail
                if chunk:
                    yield chunk
                if not data and len(chunk) < CHUNK_BYTES:
                    return
        except zlib.error:
            raise ProtocolError(
                f"{self._sender}'s answer is not gzip, although its header names it"
            ) from None


def _split(data: bytes) -> Iterator[bytes]:
    for start in range(0, len(data), CHUNK_BYTES):
        yield data[start : start + CHUNK_BYTES]

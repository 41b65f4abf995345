"""Requests to the egress proxy: the parsed head, and the extent of the body.

Servers differ in how they read an unusual head: a bare line feed as the end of a line, a space
before the colon, a line that continues the one before, two lengths. Code can use that to have a
server see another `Host`, or a second request in what the proxy takes for a body. So a head in any
of these forms is invalid here, and `RequestBody` ends the body where its head declares it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from typing_extensions import Buffer

_HOST_PATTERN = re.compile(r"[a-z0-9_.:%-]{1,260}")
_NAME = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_REQUEST_LINE = re.compile(rf"({_NAME}) ([\x21-\x7e\x80-\xff]+) \S+")
_HEADER_LINE = re.compile(rf"({_NAME}):[ \t]*([^\x00-\x08\x0a-\x1f\x7f]*)")
_DROPPED_HEADERS = frozenset({"connection", "host", "keep-alive", "upgrade"})
_CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[^\r\n]*)?\r\n")
_MAX_CHUNK_LINE = 4096


class RequestBody:
    """The body that a head declares, and how much of it has passed.

    Args:
        length: Its bytes. None if it is sent in chunks.
    """

    def __init__(self, length: int | None) -> None:
        self._is_chunked = length is None
        self._left = length or 0
        self._line = bytearray()  # of the chunk or trailer that has begun
        self._is_trailer = False
        self._has_chunk_end = False  # a chunk of data was complete, its CRLF is due
        self._is_complete = length == 0

    def accept(self, data: Buffer) -> int:
        """Return how many bytes of this data belong to the body. The rest must be dropped."""
        view = memoryview(data)
        position = 0
        while position < len(view) and not self._is_complete:
            if self._left:
                step = min(self._left, len(view) - position)
                self._left -= step
                position += step
                self._is_complete = not self._left and not self._is_chunked
                continue
            self._line += view[position : position + 1]
            position += 1
            if self._line.endswith(b"\n"):
                self._read_line()
            elif len(self._line) > _MAX_CHUNK_LINE:
                self._is_complete = True
        return position

    def _read_line(self) -> None:
        """Read the line that is complete. An invalid one ends the body."""
        line, self._line = bytes(self._line), bytearray()
        if self._has_chunk_end:
            self._has_chunk_end = False
            self._is_complete = line != b"\r\n"
        elif self._is_trailer:
            self._is_complete = line == b"\r\n" or not line.endswith(b"\r\n")
        else:
            match = _CHUNK_LINE.fullmatch(line)
            self._is_complete = match is None
            self._left = int(match[1], 16) if match else 0
            self._has_chunk_end = bool(self._left)
            self._is_trailer = match is not None and not self._left


@dataclass(frozen=True, slots=True)
class ProxyRequest:
    """A parsed proxy request.

    Attributes:
        host: Name or address.
        port: Port.
        head: The request head to forward. It is empty for a tunnel.
        body: The body that follows. None for a tunnel, in which everything passes.
    """

    host: str
    port: int
    head: bytes
    body: RequestBody | None = None

    @classmethod
    def parse(cls, head: bytes) -> ProxyRequest | None:
        """Parse a request's head. Return None if it is not a proxy request."""
        first, *lines = head.decode("latin-1").split("\r\n")
        request_line = _REQUEST_LINE.fullmatch(first)
        headers = [_HEADER_LINE.fullmatch(line) for line in lines]
        if request_line is None or None in headers:
            return None
        method, target = request_line.groups()
        is_tunnel = method == "CONNECT"
        try:
            parts = urlsplit(f"//{target}" if is_tunnel else target)
            host, port = (parts.hostname or "").rstrip(".").lower(), parts.port
        except ValueError:
            return None
        if not _HOST_PATTERN.fullmatch(host) or (not is_tunnel and parts.scheme != "http"):
            return None
        if is_tunnel:
            return cls(host, 443 if port is None else port, b"")
        fields = [(each[1].lower(), each[2].strip()) for each in headers if each is not None]
        try:
            body = _parse_body(fields)
        except ValueError:
            return None
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        # the host that was checked is the only one that the server may see
        kept = [
            line for line, (name, _) in zip(lines, fields, strict=True) if not _is_dropped(name)
        ]
        first, host_header = f"{method} {path} HTTP/1.1", f"Host: {parts.netloc.rpartition('@')[2]}"
        forwarded_head = "\r\n".join([first, host_header, *kept, "Connection: close", "", ""])
        return cls(host, 80 if port is None else port, forwarded_head.encode("latin-1"), body)


def _is_dropped(name: str) -> bool:
    return name in _DROPPED_HEADERS or name.startswith("proxy-")


def _parse_body(fields: list[tuple[str, str]]) -> RequestBody:
    """Return the body that these headers declare.

    Raises:
        ValueError: Servers could read them in different ways.
    """
    lengths = [value for name, value in fields if name == "content-length"]
    encodings = [value.lower() for name, value in fields if name == "transfer-encoding"]
    if encodings:
        if encodings != ["chunked"] or lengths:
            raise ValueError("an ambiguous length")
        return RequestBody(None)
    if not lengths:
        return RequestBody(0)
    if len(lengths) > 1 or not (lengths[0].isascii() and lengths[0].isdigit()):
        raise ValueError("an ambiguous length")
    return RequestBody(int(lengths[0]))

"""The first file of a `multipart/form-data` body, as a stream.

Starlette's own parser cannot replace this module, for three reasons:

- It stores the whole upload on the server's disk, outside of the session's disk quota. Here each
  chunk goes straight to the pool, as fast as the pool accepts it.
- It returns the file's name only after its content. Here a bad name is refused before the content
  is read.
- It bounds neither the size of a file nor, with older releases of python-multipart, of a header.

So this module drives python-multipart's parser itself. The parser calls back while a chunk is
written to it. The callbacks ignore every part until one has a file name, and the rest after it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from python_multipart import MultipartParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header

from .errors import RequestError

_MAX_HEADER_BYTES = 16 * 1024
_MAX_BOUNDARY_BYTES = 200  # RFC 2046 allows 70


class FileUpload:
    """A file that a client uploads. `open` reads its name, then `content` its bytes.

    Args:
        content_type: The request's header `Content-Type`.
        stream: The request's body.
    """

    def __init__(self, content_type: str, stream: AsyncIterator[bytes]) -> None:
        self._content_type = content_type
        self._stream = stream
        self._headers: dict[bytes, bytes] = {}
        self._header, self._value = b"", b""
        self._filename: str | None = None
        self._chunks: list[bytes] = []
        self._is_complete = False

    async def open(self) -> str:
        """Read as far as the file's name, and return it.

        Raises:
            RequestError: The body is not a multipart form, or has no file.
        """
        first = await self._read_first_line()
        boundary = _find_boundary(self._content_type, first)
        self._parser = MultipartParser(boundary, self._build_callbacks())
        self._write(first)
        size = len(first)
        while self._filename is None:
            chunk = await anext(self._stream, None)
            if chunk is None or size > _MAX_HEADER_BYTES:
                raise _build_no_file_error()
            size += len(chunk)
            self._write(chunk)
        return self._filename

    async def content(self) -> AsyncIterator[bytes]:
        """Yield the file's bytes in chunks.

        Raises:
            RequestError: The body ends before the file does.
        """
        while True:
            chunks, self._chunks = self._chunks, []
            for chunk in chunks:
                yield chunk
            if self._is_complete:
                return
            following = await anext(self._stream, None)
            if following is None:
                raise RequestError(400, "InvalidRequest", "The body ended before the file did.")
            self._write(following)

    async def _read_first_line(self) -> bytes:
        """Return the beginning of the body, including its first line unless that is too long."""
        start = b""
        while b"\r\n" not in start and len(start) < _MAX_BOUNDARY_BYTES:
            chunk = await anext(self._stream, None)
            if chunk is None:
                break
            start += chunk
        return start

    def _write(self, chunk: bytes) -> None:
        try:
            self._parser.write(chunk)
        except FormParserError:
            raise _build_no_file_error() from None

    def _build_callbacks(self) -> Any:
        return {
            "on_part_begin": self._headers.clear,
            "on_header_field": self._on_header_field,
            "on_header_value": self._on_header_value,
            "on_header_end": self._on_header_end,
            "on_headers_finished": self._on_headers_finished,
            "on_part_data": self._on_part_data,
            "on_part_end": self._on_part_end,
        }

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _on_header_end(self) -> None:
        self._headers[self._header.lower()] = self._value
        self._header, self._value = b"", b""

    def _on_headers_finished(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition", b""))
        filename = options.get(b"filename")
        if self._filename is None and filename is not None:
            self._filename = filename.decode("utf-8", "replace")

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        if self._filename is not None and not self._is_complete:
            self._chunks.append(data[start:end])

    def _on_part_end(self) -> None:
        self._is_complete = self._filename is not None


def _find_boundary(content_type: str, first: bytes) -> bytes:
    """Return the boundary from the header, or else from the body's first line.

    Semantic Kernel's SessionsPythonTool keeps the `application/json` of an earlier run on its
    HTTP client and sends an upload under it.
    """
    kind, options = parse_options_header(content_type)
    boundary = options.get(b"boundary", b"") if kind == b"multipart/form-data" else b""
    line, end, _ = first.partition(b"\r\n")
    if not boundary and line.startswith(b"--") and end:
        boundary = line[2:]
    if not 0 < len(boundary) <= _MAX_BOUNDARY_BYTES:
        raise _build_no_file_error()
    return boundary


def _build_no_file_error() -> RequestError:
    return RequestError(400, "InvalidRequest", "The body must be multipart/form-data with a file.")

"""The first file of a `multipart/form-data` body, as a stream."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

from python_multipart import MultipartParser
from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import parse_options_header

from .errors import RequestError

_MAX_HEADER_BYTES = 16 * 1024
_MAX_BOUNDARY_BYTES = 200


@dataclass(slots=True)
class _Part:
    """What the parser found so far of the first part that is a file."""

    headers: dict[str, bytes] = field(default_factory=dict)
    filename: str | None = None
    data: list[bytes] = field(default_factory=list)
    is_complete: bool = False


class FileUpload:
    """A file on its way in.

    Attributes:
        filename: The name its part bears.
    """

    def __init__(self, content_type: str, stream: AsyncIterator[bytes]) -> None:
        self.filename = ""
        self._content_type = content_type
        self._stream = stream
        self._part = _Part()
        self._name, self._value = b"", b""

    async def open(self) -> None:
        """Read as far as the file's name.

        Raises:
            RequestError: The body is no multipart form, or has no file.
        """
        first = await self._read_first_line()
        boundary = _find_boundary(self._content_type, first)
        self._parser = MultipartParser(boundary, self._build_callbacks())
        self._write(first)
        read = len(first)
        while self._part.filename is None:
            chunk = await anext(self._stream, None)
            if chunk is None or read > _MAX_HEADER_BYTES:
                raise _build_no_file_error()
            read += len(chunk)
            self._write(chunk)
        self.filename = self._part.filename

    async def _read_first_line(self) -> bytes:
        """The beginning of the body, with its first line whole if it is not too long."""
        start = b""
        while b"\r\n" not in start and len(start) < _MAX_BOUNDARY_BYTES:
            chunk = await anext(self._stream, None)
            if chunk is None:
                break
            start += chunk
        return start

    async def content(self) -> AsyncIterator[bytes]:
        """The file's bytes, in pieces.

        Raises:
            RequestError: The body ends before the file does.
        """
        while True:
            data, self._part.data = self._part.data, []
            for chunk in data:
                yield chunk
            if self._part.is_complete:
                return
            following = await anext(self._stream, None)
            if following is None:
                raise RequestError(400, "InvalidRequest", "The upload ended before the file.")
            self._write(following)

    def _write(self, chunk: bytes) -> None:
        try:
            self._parser.write(chunk)
        except MultipartParseError:
            raise _build_no_file_error() from None

    def _build_callbacks(self) -> Any:
        def slice_into(callback: Callable[[bytes], None]) -> Callable[[bytes, int, int], None]:
            return lambda data, start, end: callback(data[start:end])

        return {
            "on_part_begin": self._on_part_begin,
            "on_header_field": slice_into(self._on_header_field),
            "on_header_value": slice_into(self._on_header_value),
            "on_header_end": self._on_header_end,
            "on_headers_finished": self._on_headers_finished,
            "on_part_data": slice_into(self._on_part_data),
            "on_part_end": self._on_part_end,
        }

    def _on_part_begin(self) -> None:
        self._part.headers = {}

    def _on_header_field(self, chunk: bytes) -> None:
        self._name += chunk

    def _on_header_value(self, chunk: bytes) -> None:
        self._value += chunk

    def _on_header_end(self) -> None:
        self._part.headers[self._name.decode("latin-1").lower()] = self._value
        self._name, self._value = b"", b""

    def _on_headers_finished(self) -> None:
        if self._part.filename is None:
            _, options = parse_options_header(self._part.headers.get("content-disposition", b""))
            filename = options.get(b"filename")
            if filename is not None:
                self._part.filename = filename.decode("utf-8", "replace")

    def _on_part_data(self, chunk: bytes) -> None:
        if self._part.filename is not None and not self._part.is_complete:
            self._part.data.append(chunk)

    def _on_part_end(self) -> None:
        if self._part.filename is not None:
            self._part.is_complete = True


def _find_boundary(content_type: str, first: bytes) -> bytes:
    """The boundary, from the header or, where a client lost that, from the body's first line.

    Semantic Kernel's SessionsPythonTool keeps the `application/json` of an earlier run on its
    HTTP client and sends an upload under it.
    """
    kind, options = parse_options_header(content_type)
    boundary = options.get(b"boundary")
    if kind == b"multipart/form-data" and boundary:
        return boundary
    line, end, _ = first.partition(b"\r\n")
    if line.startswith(b"--") and end and len(line) <= _MAX_BOUNDARY_BYTES:
        return line[2:]
    raise _build_no_file_error()


def _build_no_file_error() -> RequestError:
    return RequestError(400, "InvalidRequest", "The body must be multipart/form-data with a file.")

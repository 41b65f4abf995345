"""Data URLs: content that is written into the address itself (RFC 2397)."""

from __future__ import annotations

import base64
import binascii
import mimetypes
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

from cci_plugins.errors import FileTransferError

_SCHEME = "data:"
# Longer texts are not shown in an error.
_MAX_SHOWN = 40


class DataUrl(NamedTuple):
    """Content of a data URL.

    Attributes:
        media_type: Its media type, `text/plain` if the URL names none.
        content: The bytes.
    """

    media_type: str
    content: bytes

    @property
    def file_name(self) -> str:
        """A name for the content, such as `data.csv`."""
        return f"data{mimetypes.guess_extension(self.media_type) or ''}"


def is_data_url(url: object) -> bool:
    """Return whether a value is the text of a data URL."""
    return isinstance(url, str) and url[: len(_SCHEME)].lower() == _SCHEME


def parse_data_url(url: str) -> DataUrl:
    """Return the content of a data URL.

    Args:
        url: `data:[media type][;base64],content`. The content is percent-encoded, also in base64.

    Raises:
        FileTransferError: It has no comma, or its base64 is not valid.
    """
    head, comma, body = url[len(_SCHEME) :].partition(",")
    if not comma:
        raise FileTransferError(
            f"{url[:_MAX_SHOWN]!a} is not a data URL: it has no comma before its content",
            hint="write it as data:text/csv;base64,...",
        )
    media_type, *parameters = (part.strip().lower() for part in head.split(";"))
    content = unquote_to_bytes(body)
    if "base64" in parameters:
        try:
            data = b"".join(content.split())
            content = base64.b64decode(data + b"=" * (-len(data) % 4), validate=True)
        except binascii.Error as error:
            raise FileTransferError(
                f"the content of {url[:_MAX_SHOWN]!a} is not base64: {error}",
                hint="encode it again, for example with base64.b64encode",
            ) from error
    return DataUrl(media_type or "text/plain", content)

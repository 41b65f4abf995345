"""The body of an upload to the REST API."""

from __future__ import annotations

from collections.abc import AsyncIterator


async def encode_multipart(
    boundary: str, filename: str, content: AsyncIterator[bytes]
) -> AsyncIterator[bytes]:
    """Encode one file as `multipart/form-data` in chunks (RFC 7578).

    Args:
        boundary: Text that separates the parts.
        filename: Name of the file.
        content: Content of the file.
    """
    quoted = filename.replace('"', '\\"')
    yield (
        f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{quoted}"\r\n'
        "Content-Type: application/octet-stream\r\n\r\n"
    ).encode()
    async for chunk in content:
        yield chunk
    yield f"\r\n--{boundary}--\r\n".encode()

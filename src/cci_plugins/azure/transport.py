"""Connections of the Azure SDK's asynchronous clients, with certificates of another authority.

With `connection_verify`, the SDK reads the certificates again for each request. aiohttp takes them
for other ones then, and makes a new connection. Here, one session has them for all its requests.
"""

from __future__ import annotations

import os
import ssl
from pathlib import Path
from typing import Any

import aiohttp
from azure.core.pipeline.transport import AioHttpTransport


def build_connection_options(ca: Path | str | None, **options: Any) -> dict[str, Any]:
    """Return the options of an asynchronous client for its connections.

    Args:
        ca: File with the certificates to trust. The one of SSL_CERT_FILE when None, because
            aiohttp reads that variable only once, when it is imported.
        **options: Options of the SDK's transport, such as `read_timeout`.
    """
    file = str(ca or os.environ.get("SSL_CERT_FILE") or "")
    return {"transport": _TrustingTransport(file, **options)} if file else options


class _TrustingTransport(AioHttpTransport):  # type: ignore[misc]  # azure-core loads it lazily
    """The SDK's transport, with one set of certificates for all its connections."""

    def __init__(self, ca: str, **options: Any) -> None:
        super().__init__(**options)
        self._ca = ca
        self._is_new = True

    async def open(self) -> None:
        """Open the session, as the SDK does, but with the certificates."""
        if self._is_new:
            context = ssl.create_default_context(cafile=self._ca)
            self.session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(ssl=context),
                trust_env=True,  # proxies
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
            )
            self._is_new = False
        await super().open()

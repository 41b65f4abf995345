"""The servers that a client of Azure may send its token or key to.

Azure's SDKs go wherever an answer leads them: to the next page of a list, to the state of a long
operation (`Location`, `Azure-AsyncOperation`), and along redirects. A client may go on to its own
server only. Resource Manager has further hosts of its own, one for each region.
"""

from __future__ import annotations

import re

from cci_plugins.common.urls import AmbiguousUrlError, UrlParts, split_url
from cci_plugins.errors import ConfigurationError, ProtocolError

_SERVER = re.compile(r"[^/?#]*://[^/?#]*")
_HTTPS_PORT = 443
# Azure alone gives out the names below these.
_REGIONAL = tuple(
    f".management.{cloud}" for cloud in ("azure.com", "usgovcloudapi.net", "chinacloudapi.cn")
)
_MAX_SHOWN = 100


class Destination:
    """The server that a client was made for.

    Args:
        endpoint: URL of the client's endpoint.

    Raises:
        ConfigurationError: The URL is invalid, or clients may read it in different ways.
    """

    def __init__(self, endpoint: str) -> None:
        try:
            self._own = _read_server(endpoint)
        except AmbiguousUrlError as error:
            raise ConfigurationError(
                f"the address of Azure's service is invalid: {error}", hint="correct the endpoint"
            ) from None

    def check(self, url: str) -> None:
        """Refuse a URL on another server, before anything is sent there.

        Args:
            url: URL of a request.

        Raises:
            ProtocolError: It is on another server. The text has its host.
        """
        try:
            other = _read_server(url)
        except AmbiguousUrlError as error:
            raise ProtocolError(
                f"Azure's answer leads to another host, at an invalid URL: {error}"
            ) from None
        own = self._own
        is_own = (other.scheme, other.host, other.port) == (own.scheme, own.host, own.port)
        if not (is_own or self._is_regional(other)):
            server = f"{other.scheme}://{other.host}:{other.port}"[:_MAX_SHOWN]
            raise ProtocolError(
                f"Azure's answer leads to another host ({server}), which gets no token or key"
            )

    def _is_regional(self, other: UrlParts) -> bool:
        """Return whether a server is Resource Manager's for a region of the same cloud."""
        below = f".{self._own.host}"
        is_https = (other.scheme, other.port) == ("https", _HTTPS_PORT)
        return is_https and below in _REGIONAL and other.host.endswith(below)


def _read_server(url: str) -> UrlParts:
    """Return the scheme, host and port of a URL, whose path may have any characters."""
    server = _SERVER.match(url)
    return split_url(url if server is None else server[0])

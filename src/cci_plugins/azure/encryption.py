"""Keys and tokens on a connection without encryption."""

from __future__ import annotations

from functools import cache

import httpx

from cci_plugins.common.log import logger
from cci_plugins.common.urls import is_loopback_host
from cci_plugins.errors import ConfigurationError


def check_token_url(url: httpx.URL) -> None:
    """Refuse to send a token without encryption, except to this machine.

    Raises:
        ConfigurationError: The URL is not https, and its host is not loopback.
    """
    if url.scheme != "https" and not is_loopback_host(url.host):
        raise ConfigurationError(
            f"a Microsoft Entra token cannot be sent to {url.host} by {url.scheme}, without "
            "encryption",
            hint="use the endpoint's https URL. Only localhost may use http",
        )


def warn_of_plain_key(url: httpx.URL) -> None:
    """Warn once for each host that a key is sent to without encryption."""
    if url.scheme != "https" and not is_loopback_host(url.host):
        _warn_of_plain_key(url.host)


@cache
def _warn_of_plain_key(host: str) -> None:
    logger.warning(
        "the pool's key is sent to %s without encryption (http), so others on the network can read "
        "it; use https",
        host,
    )

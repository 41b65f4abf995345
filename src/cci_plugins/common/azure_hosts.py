"""Azure's own hosts, the only ones that get the tokens of a sign-in.

A suffix is listed only if Azure alone gives out the names below it. The sovereign clouds of the
United States and China follow the public one. `learn.microsoft.com` has the lists: "Container
Apps dynamic sessions", "Securing a virtual network in Azure Container Apps" (its firewall rules
have the suffix of China), "Storage account endpoints" and "Azure OpenAI in Azure Government".

Pools and gateways of every customer of Azure have names below one suffix. So this keeps a token
from other hosts only: anyone can have a pool there.
"""

from __future__ import annotations

from typing import Literal
from urllib.parse import urlsplit

from cci_plugins.errors import ConfigurationError

from .urls import is_loopback_host

Service = Literal["sessions", "storage", "foundry"]

_SUFFIXES: dict[Service, tuple[str, ...]] = {
    "sessions": (
        ".dynamicsessions.io",
        ".azurecontainerapps.io",
        ".azurecontainerapps.us",
        ".azurecontainerapps.cn",
    ),
    "storage": (
        ".core.windows.net",
        ".core.usgovcloudapi.net",
        ".core.chinacloudapi.cn",
        ".storage.azure.net",
    ),
    "foundry": (
        ".services.ai.azure.com",
        ".cognitiveservices.azure.com",
        ".openai.azure.com",
        ".services.ai.azure.us",
        ".cognitiveservices.azure.us",
        ".openai.azure.us",
        ".services.ai.azure.cn",
        ".cognitiveservices.azure.cn",
        ".openai.azure.cn",
    ),
}


def may_get_sign_in(url: str, service: Service) -> bool:
    """Return whether an endpoint may get tokens of a sign-in: by https a host of Azure's own.

    An emulator on this machine may get them too.

    Args:
        url: An endpoint.
        service: The service that the endpoint belongs to.
    """
    scheme, host = _read_host(url)
    is_azure = scheme == "https" and host.endswith(_SUFFIXES[service])
    return is_azure or is_loopback_host(host)


def check_sign_in_host(url: str, service: Service) -> None:
    """Refuse to send a token of this machine's own sign-in to a host that is not Azure's.

    A credential that the application passed is the application's own decision.

    Raises:
        ConfigurationError: It is another host.
    """
    if not may_get_sign_in(url, service):
        host = _read_host(url)[1] or "the endpoint"
        raise ConfigurationError(
            f"{host} is not a host of Azure's own, so it gets no token of this machine's sign-in",
            hint="correct the endpoint, or pass the credential for it yourself",
        )


def _read_host(url: str) -> tuple[str, str]:
    """Return the scheme and the host of an endpoint, each empty if it is missing."""
    try:
        parts = urlsplit(url)
        return parts.scheme, (parts.hostname or "").lower()
    except ValueError:
        return "", ""

"""Azure's own hosts, the only ones that get the tokens of a sign-in.

A suffix is listed only if Azure alone gives out the names below it. The sovereign clouds of the
United States and China follow the public one. `learn.microsoft.com` has the lists: "Container
Apps dynamic sessions", "Storage account endpoints" and "Azure OpenAI in Azure Government".
"""

from __future__ import annotations

from typing import Literal
from urllib.parse import urlsplit

Service = Literal["sessions", "storage", "foundry"]

_SUFFIXES: dict[Service, tuple[str, ...]] = {
    "sessions": (
        ".dynamicsessions.io",
        ".azurecontainerapps.io",
        ".azurecontainerapps.us",
        ".azurecontainerapps-china.cn",
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


def is_azure_host(url: str, service: Service) -> bool:
    """Return whether a URL leads by https to a host of Azure's own.

    Args:
        url: An endpoint.
        service: The service that the endpoint belongs to.
    """
    try:
        parts = urlsplit(url)
        host = (parts.hostname or "").lower()
    except ValueError:
        return False
    return parts.scheme == "https" and host.endswith(_SUFFIXES[service])

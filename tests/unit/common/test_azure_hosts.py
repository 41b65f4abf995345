"""The token of a sign-in goes to Azure's own hosts only, also in its sovereign clouds."""

from __future__ import annotations

import pytest

from cci_plugins.common.azure_hosts import Service, check_sign_in_host, may_get_sign_in
from cci_plugins.errors import ConfigurationError


@pytest.mark.parametrize(
    ("url", "service"),
    [
        ("https://westeurope.dynamicsessions.io/subscriptions/a", "sessions"),
        ("https://pool.env-1.westeurope.azurecontainerapps.io/mcp", "sessions"),
        ("https://pool.env-1.usgovvirginia.azurecontainerapps.us/mcp", "sessions"),
        ("https://pool.env-1.chinanorth3.azurecontainerapps.cn/mcp", "sessions"),
        ("https://ACCOUNT.BLOB.CORE.WINDOWS.NET/", "storage"),
        ("https://account.blob.core.chinacloudapi.cn/", "storage"),
        ("https://hub.services.ai.azure.com/api/projects/one", "foundry"),
        ("http://localhost:8080/mcp", "sessions"),
        ("http://127.0.0.1:10000/", "storage"),
    ],
)
def test_a_host_of_azure_or_this_machine_gets_the_token(url: str, service: Service) -> None:
    assert may_get_sign_in(url, service)
    check_sign_in_host(url, service)


@pytest.mark.parametrize(
    ("url", "service"),
    [
        ("http://pool.env-1.westeurope.azurecontainerapps.io/mcp", "sessions"),
        ("https://azurecontainerapps.io.example.com/mcp", "sessions"),
        ("https://pool.azurecontainerapps-china.cn/mcp", "sessions"),
        ("https://notdynamicsessions.io/", "sessions"),
        ("https://account.blob.core.windows.net/", "sessions"),
        ("https://westeurope.dynamicsessions.io/", "storage"),
        ("https://westeurope.dynamicsessions.io@example.com/", "sessions"),
        ("https://example.com/?.dynamicsessions.io", "sessions"),
        ("https://[::1", "sessions"),
        ("", "foundry"),
    ],
)
def test_another_host_gets_no_token(url: str, service: Service) -> None:
    assert not may_get_sign_in(url, service)
    with pytest.raises(ConfigurationError, match="so it gets no token"):
        check_sign_in_host(url, service)

"""A client of Azure goes on to its own server only."""

from __future__ import annotations

import pytest

from cci_plugins.azure.destinations import Destination
from cci_plugins.errors import ConfigurationError, ProtocolError

ARM = "https://management.azure.com"


@pytest.mark.parametrize(
    ("endpoint", "url"),
    [
        (ARM, f"{ARM}/subscriptions?page=2"),
        (ARM, "https://MANAGEMENT.azure.com:443/x y?a=<b>#c"),
        (ARM, "https://eastus.management.azure.com/subscriptions/s/operations/1"),
        ("https://management.usgovcloudapi.net/", "https://x.management.usgovcloudapi.net"),
        ("http://127.0.0.1:10000/account", "http://127.0.0.1:10000/account/c?comp=list"),
    ],
)
def test_its_own_server_and_the_regions_of_resource_manager_are_allowed(
    endpoint: str, url: str
) -> None:
    Destination(endpoint).check(url)


@pytest.mark.parametrize(
    ("endpoint", "url"),
    [
        (ARM, "https://elsewhere.example/subscriptions"),
        (ARM, "http://management.azure.com/subscriptions"),
        (ARM, "https://management.azure.com:8443/subscriptions"),
        (ARM, "http://eastus.management.azure.com/"),
        (ARM, "https://eastus.management.azure.com:8443/"),
        (ARM, "https://management.usgovcloudapi.net/"),
        (ARM, "https://eastus.management.usgovcloudapi.net/"),
        (ARM, "https://xmanagement.azure.com/"),
        (ARM, "https://management.azure.com.elsewhere.example/"),
        (ARM, "https://management.azure.com@elsewhere.example/"),
        (ARM, "https://elsewhere.example\\@management.azure.com/"),
        (ARM, "//management.azure.com/"),
        (ARM, "/subscriptions"),
        (ARM, "http://["),
        ("https://a.blob.core.windows.net", "https://x.a.blob.core.windows.net/c"),
        ("https://a.blob.core.windows.net", "https://b.blob.core.windows.net/c"),
        ("http://127.0.0.1:10000", "http://localhost:10000/"),
    ],
)
def test_another_server_is_refused(endpoint: str, url: str) -> None:
    with pytest.raises(ProtocolError, match="another host"):
        Destination(endpoint).check(url)


def test_the_other_host_is_named() -> None:
    with pytest.raises(ProtocolError, match=r"\(https://elsewhere.example:443\), which gets no"):
        Destination(ARM).check("https://elsewhere.example/?sig=secret")


@pytest.mark.parametrize("endpoint", ["", "management.azure.com", "https://[", "https://a@b"])
def test_an_endpoint_must_be_a_url(endpoint: str) -> None:
    with pytest.raises(ConfigurationError, match="address of Azure's service is invalid"):
        Destination(endpoint)

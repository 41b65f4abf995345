"""Tokens go to https and to this machine only. A key over http causes one warning per host."""

from __future__ import annotations

import asyncio
import logging
from typing import Any
from uuid import uuid4

import httpx
import pytest

from cci_plugins import BlobStorage, CodeInterpreter
from cci_plugins.azure.credentials import Bearer, ProviderAuth, StaticKey
from cci_plugins.azure.pool_resource import PoolResource
from cci_plugins.common.urls import is_loopback_host
from cci_plugins.errors import CodeInterpreterError, ConfigurationError
from cci_plugins.foundry.project import Project
from cci_plugins.in_session.url_client import TransferFault, UrlClient
from cci_plugins.mcp_client.http import make_http
from cci_plugins.pools.azure.mcp_pool import PlatformSessionPool
from cci_plugins.pools.azure.rest_pool import CustomSessionPool

RESOURCE = "/subscriptions/S/resourceGroups/G/providers/Microsoft.App/sessionPools/P"
OUTSIDE = ["http://pool.example", "http://10.1.2.3:8080", "http://127.0.0.1.nip.io", "http://[::2]"]


def _list_warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [one.getMessage() for one in caplog.records if one.levelno >= logging.WARNING]


class Credential:
    """A credential that counts the tokens it gave out."""

    def __init__(self) -> None:
        self.tokens = 0

    def get_token(self, *_: str, **__: Any) -> str:
        """Return a token."""
        self.tokens += 1
        return "the-token"


@pytest.mark.parametrize("url", OUTSIDE)
def test_a_token_or_account_key_over_http_is_an_error(url: str) -> None:
    credential = Credential()
    for build in (
        lambda: CustomSessionPool(url, credential=credential),
        lambda: CustomSessionPool(url, credential="a-token"),
        lambda: CodeInterpreter.azure(url),
        lambda: PlatformSessionPool(f"{url}/mcp", key="a-key", credential=credential),
        lambda: PlatformSessionPool(f"{url}/mcp", resource_id=RESOURCE, credential=credential),
        lambda: BlobStorage(url, "c", key="a2V5"),
        lambda: BlobStorage(url, "c", credential=credential),
        lambda: Project(f"{url}/api/projects/p", credential=credential),
    ):
        with pytest.raises(ConfigurationError, match="https"):
            build()
    assert credential.tokens == 0


@pytest.mark.parametrize("url", ["http://127.0.0.1:9", "http://127.1.2.3:9", "http://[::1]:9"])
def test_loopback_may_use_http(url: str, caplog: pytest.LogCaptureFixture) -> None:
    CustomSessionPool(url, credential="a-token")
    PlatformSessionPool(f"{url}/mcp", key="a-key")
    BlobStorage(url, "c", key="a2V5")
    assert _list_warnings(caplog) == []


def test_only_literal_names_of_this_machine_are_loopback() -> None:
    assert all(map(is_loopback_host, ("localhost", "LOCALHOST", "127.0.0.1", "::1", "[::1]")))
    assert not any(
        map(is_loopback_host, ("localhost.example", "127.0.0.1.nip.io", "0.0.0.0", "", "my-host"))
    )


@pytest.mark.anyio
async def test_a_request_carries_a_token_over_https_only(
    caplog: pytest.LogCaptureFixture,
) -> None:
    host, sent = f"{uuid4().hex}.example", []

    async def answer(request: httpx.Request) -> httpx.Response:
        sent.append(request.headers.get("x-ms-apikey") or request.headers.get("authorization"))
        return httpx.Response(200)

    async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as http:
        http.auth = ProviderAuth(Bearer("a-token"))
        with pytest.raises(ConfigurationError, match=host):
            await http.get(f"http://{host}/")
        await http.get(f"https://{host}/")
        http.auth = ProviderAuth(Bearer(None))
        with pytest.raises(ConfigurationError, match="not a host of Azure's own"):
            await http.get(f"https://{host}/")
        assert sent == ["Bearer a-token"]
        http.auth = ProviderAuth(StaticKey("a-key"))
        with caplog.at_level(logging.WARNING, "cci_plugins"):
            for url in (f"http://{host}/", f"http://{host}:8080/b", f"http://2{host}/"):
                await http.get(url)
    assert sent[1:] == ["a-key"] * 3
    warnings = _list_warnings(caplog)
    assert len(warnings) == 2
    assert f"sent to {host} without encryption" in warnings[0]
    assert "a-key" not in str(warnings)


def test_a_host_of_invalid_punycode_is_an_invalid_endpoint() -> None:
    url = "https://xn--zzzz.example"
    for build in (
        lambda: CustomSessionPool(url, credential="a-token"),
        lambda: PlatformSessionPool(f"{url}/mcp", key="a-key"),
        lambda: Project(f"{url}/api/projects/p", credential="a-token"),
    ):
        with pytest.raises(ConfigurationError, match="endpoint"):
            build()


def test_a_pools_key_over_http_is_sent_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    host = f"{uuid4().hex}.example"
    for _ in range(2):
        PlatformSessionPool(f"http://{host}/mcp", key="a-key")
    assert [host in message for message in _list_warnings(caplog)] == [True]


def test_resource_manager_is_reached_by_https_only() -> None:
    from cci_plugins.azure.options import Azure
    from cci_plugins.azure.resource_manager import ArmClient

    with pytest.raises(ConfigurationError, match="https"):
        ArmClient(Azure(credential="a-token", endpoint="http://arm.example"))
    PoolResource(RESOURCE, credential="a-token")


def test_a_proxy_gets_nothing_that_is_meant_for_this_machine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://proxy.example:3128")
    http = make_http()
    for host in ("localhost", "LOCALHOST", "127.0.0.1", "127.1.2.3", "[::1]", "[0:0:0:0:0:0:0:1]"):
        assert http._transport_for_url(httpx.URL(f"http://{host}:8765/mcp")) is http._transport
    assert http._transport_for_url(httpx.URL("http://pool.example/")) is not http._transport


@pytest.mark.anyio
async def test_azures_clients_send_nothing_for_this_machine_to_a_proxy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    requests: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        requests.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 404 Not Found\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")
        writer.close()

    proxy = await asyncio.start_server(serve, "127.0.0.1", 0)
    target = await asyncio.start_server(serve, "127.0.0.1", 0)
    ports = [one.sockets[0].getsockname()[1] for one in (proxy, target)]
    for name in ("HTTP_PROXY", "http_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{ports[0]}")
    pool = PoolResource(RESOURCE, credential="a-token", endpoint=f"http://127.0.0.1:{ports[1]}")
    with pytest.raises(CodeInterpreterError):
        await pool.fetch_key()
    await pool.aclose()
    proxy.close()
    target.close()
    assert [one.split(b" ")[1][:15] for one in requests] == [b"/subscriptions/"]


def test_an_identity_service_of_this_machine_is_asked_past_a_proxy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from cci_plugins.azure.sign_in_transport import build_sign_in_transport

    for name in ("HTTP_PROXY", "http_proxy"):
        monkeypatch.setenv(name, "http://proxy.example:3128")
    session: Any = build_sign_in_transport().session

    def find_proxies(host: str) -> Any:
        url = f"http://{host}/msi/token"
        return session.merge_environment_settings(url, {}, None, None, None)["proxies"]

    assert not any(map(find_proxies, ("127.0.0.1:42356", "localhost:8081", "[::1]:80")))
    assert find_proxies("service.example")["http"] == "http://proxy.example:3128"


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "169.254.169.254", "10.0.0.1"])
def test_http_is_checked_for_public_addresses_like_https(host: str) -> None:
    with pytest.raises(TransferFault, match="not public"):
        UrlClient(f"http://{host}:9/a", public_only=True).send("GET", {})

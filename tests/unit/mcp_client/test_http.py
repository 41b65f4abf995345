"""The HTTP client that carries the key."""

import httpx
import pytest

from cci_plugins.errors import ConfigurationError, PoolError
from cci_plugins.mcp_client import http
from cci_plugins.mcp_client.client import McpClient


def test_a_client_follows_no_redirect_which_would_pass_the_key_on():
    assert http.make_http().follow_redirects is False


@pytest.mark.anyio
async def test_a_request_after_the_end_of_the_client_is_an_error_of_this_package() -> None:
    client = http.make_http()
    await client.aclose()
    with pytest.raises(ConfigurationError, match="this pool is closed"):
        with http.map_transport_errors(starts_code=True):
            await client.get("http://127.0.0.1:9")
    with pytest.raises(RuntimeError, match="another"):
        with http.map_transport_errors(starts_code=True):
            raise RuntimeError("another")


@pytest.mark.anyio
async def test_headers_on_which_the_http_library_fails_are_no_foreign_errors() -> None:
    sent: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        sent.append(request.headers.get("cookie", ""))
        cookies = ["\xff=1", "a=\u2603", "replica=one", f"long={'x' * 10_000}"]
        cookies += [f"c{number}=1" for number in range(200)]
        headers = [(b"set-cookie", cookie.encode()) for cookie in cookies]
        headers.append((b"location", b"http://xn--zzzz.example/"))
        return httpx.Response(302 if len(sent) > 1 else 404, headers=headers)

    async with http.make_http() as own:
        own._transport = httpx.MockTransport(answer)
        client = McpClient("http://127.0.0.1/mcp", http=own)
        for words in ("404", "redirect"):
            with pytest.raises(PoolError, match=words):
                await client.initialize()
    assert "replica=one" in sent[1]
    assert len(sent[1]) < 1_000

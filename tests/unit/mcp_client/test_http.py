"""The HTTP client that carries the key."""

import pytest

from cci_plugins.errors import ConfigurationError
from cci_plugins.mcp_client import http


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

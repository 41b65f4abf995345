"""The HTTP client that carries the key."""

from cci_plugins.mcp_client import http


def test_a_client_follows_no_redirect_which_would_pass_the_key_on():
    assert http.make_http().follow_redirects is False

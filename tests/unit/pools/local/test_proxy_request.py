"""Requests to the egress proxy: what a server could read in two ways is refused."""

from __future__ import annotations

import pytest

from cci_plugins.pools.local.egress import is_address_allowed, parse_egress_rules
from cci_plugins.pools.local.proxy_request import ProxyRequest, RequestBody

SMUGGLED = [
    "X: 1\nHost: other.example",
    "X: 1\rHost: other.example",
    "Host : other.example",
    "Host\t: other.example",
    " Host: other.example",
    "\tHost: other.example",
    "X: 1\r\n Host: other.example",
    ": other.example",
    "Host",
    "X\0: 1",
    "X: \x0b1",
    "Content-Length: 1\r\nContent-Length: 2",
    "Content-Length: +1",
    "Content-Length: 1, 1",
    "Content-Length: 1\r\nTransfer-Encoding: chunked",
    "Transfer-Encoding: chunked, identity",
    "Transfer-Encoding: \x0bchunked",
]


@pytest.mark.parametrize("lines", SMUGGLED, ids=ascii)
def test_a_head_that_hides_another_host_is_invalid(lines: str) -> None:
    assert (
        ProxyRequest.parse(f"GET http://a.example/ HTTP/1.1\r\n{lines}".encode("latin-1")) is None
    )


@pytest.mark.parametrize(
    "first",
    [
        "GET\nHost: http://a.example/ HTTP/1.1",
        "GET http://a.example/\nHost:other HTTP/1.1",
        "GET http://a.exa\tmple/ HTTP/1.1",
        "G(ET http://a.example/ HTTP/1.1",
        "GET http://a.example/ HTTP/1.1 x",
    ],
    ids=ascii,
)
def test_a_request_line_has_three_plain_parts(first: str) -> None:
    assert ProxyRequest.parse(first.encode("latin-1")) is None


def test_the_only_host_is_the_one_of_the_request_line() -> None:
    head = (
        "POST http://me@A.example:81/p?q HTTP/1.1\r\nhost: other\r\nHOST: third\r\nX: 1\r\n"
        "Upgrade: h2c\r\nKeep-Alive: 9\r\nContent-Length: 3"
    )
    parsed = ProxyRequest.parse(head.encode())
    assert parsed is not None
    assert (parsed.host, parsed.port) == ("a.example", 81)
    assert parsed.head == (
        b"POST /p?q HTTP/1.1\r\nHost: A.example:81\r\nX: 1\r\nContent-Length: 3\r\n"
        b"Connection: close\r\n\r\n"
    )
    assert parsed.body is not None
    assert parsed.body.accept(b"abcGET / HTTP/1.1\r\nHost: other") == 3
    assert parsed.body.accept(b"more") == 0


def test_a_request_without_a_length_has_no_body() -> None:
    parsed = ProxyRequest.parse(b"GET http://a.example/ HTTP/1.1")
    assert parsed is not None
    assert parsed.body is not None
    assert parsed.body.accept(b"GET / HTTP/1.1\r\nHost: other\r\n\r\n") == 0


@pytest.mark.parametrize("step", [1, 2, 3, 100])
@pytest.mark.parametrize("trailer", [b"", b"X: 1\r\n"])
def test_a_chunked_body_ends_with_its_last_chunk(step: int, trailer: bytes) -> None:
    whole = b"3\r\nabc\r\n1A;x=1\r\n" + b"\n" * 26 + b"\r\n0\r\n" + trailer + b"\r\n"
    sent, body, passed = whole + b"GET / HTTP/1.1\r\n\r\n", RequestBody(None), 0
    for start in range(0, len(sent), step):
        passed += body.accept(sent[start : start + step])
    assert passed == len(whole)


def test_an_invalid_chunk_ends_the_body() -> None:
    for start in (b"x\r\n", b"3\n", b"-3\r\n", b"3\r\nabcd\r\n", b"0" * 5000):
        body = RequestBody(None)
        body.accept(start)
        assert body.accept(b"3\r\nabc\r\n") == 0


@pytest.mark.parametrize(
    ("rule", "is_loopback"),
    [
        ("127.0.0.1", True),
        ("[::1]:80", True),
        ("localhost:10000", True),
        ("db.localhost", True),
        ("azurite:10000", True),
        ("files.example.com", False),
        ("files.example.com:8080", False),
        ("10.0.0.1", False),
        ("*.example.com", False),
        ("*.localhost", False),
    ],
)
def test_only_a_rule_that_names_this_machine_reaches_it(rule: str, *, is_loopback: bool) -> None:
    (parsed,) = parse_egress_rules((rule,))
    assert parsed.is_loopback is is_loopback
    for address in ("127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1"):
        assert is_address_allowed(address, private=True, loopback=is_loopback) is is_loopback
    assert is_address_allowed("10.0.0.1", private=True, loopback=is_loopback)

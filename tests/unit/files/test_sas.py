"""A SAS is read, URLs are accepted or refused, and no URL shows its secret."""

from __future__ import annotations

import copy
import ipaddress
import json
import logging
import pickle  # noqa: TID251 - to see it refused
import re
import socket
import traceback
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from urllib.parse import quote, urlsplit
from urllib.request import Request

import httpx
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from tests.examples import examples

from cci_plugins.common.addresses import is_public
from cci_plugins.common.urls import AmbiguousUrlError, SecretUrl, split_url
from cci_plugins.errors import CodeInterpreterError, FileTransferError
from cci_plugins.files.sas import (
    STORAGE_HOSTS,
    SasPolicy,
    accept,
    check,
    inspect,
)
from cci_plugins.redaction import redact

NOW = datetime(2026, 5, 1, 12, 0, tzinfo=UTC)
SIG = "kJ3x+9Zq/Lm0aBcD1eFgH2iJkL3mNoPqR4sTuVwX5y8="
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
BASE = "https://acct.blob.core.windows.net/data/in/sales%202026.csv"
POLICY = SasPolicy()


def sas(base: str = BASE, **fields: str) -> str:
    given_fields = {"sv": "2024-11-04", "sr": "b", "sp": "r", "se": "2026-05-01T13:00:00Z"}
    given_fields |= {"sig": SIG} | fields
    return base + "?" + "&".join(f"{k}={quote(v, safe='')}" for k, v in given_fields.items() if v)


def codes(url: str, policy: SasPolicy = POLICY, *, now: datetime = NOW) -> dict[str, str]:
    return {finding.code: finding.severity for finding in check(url, policy, now=now)}


@pytest.fixture(autouse=True)
def unregister_the_signature() -> Iterator[None]:
    yield
    SecretUrl(sas()).forget()


# Signatures of the SDK


def blob_sas(**options: object) -> str:
    from azure.storage.blob import generate_blob_sas

    options = {"account_key": KEY, "permission": "r", "expiry": NOW + timedelta(hours=1)} | options
    token = generate_blob_sas("acct", "data", "in/sales 2026.csv", **options)  # type: ignore[arg-type]
    return f"{BASE}?{token}"


def test_a_service_sas_of_the_sdk_is_read() -> None:
    info = inspect(
        blob_sas(start=NOW - timedelta(minutes=5), ip="1.2.3.4-1.2.3.9", protocol="https")
    )
    assert info.kind == "service"
    assert (info.permissions, info.resource, info.protocol) == ("r", "b", "https")
    assert (info.starts_at, info.expires_at) == (
        NOW - timedelta(minutes=5),
        NOW + timedelta(hours=1),
    )
    assert info.ip_range == ("1.2.3.4", "1.2.3.9")
    assert (info.host, info.container, info.blob) == (
        "acct.blob.core.windows.net",
        "data",
        "in/sales 2026.csv",
    )
    assert info.version >= "2020"
    assert info.problems == ()
    assert codes(blob_sas()) == {}


def test_a_stored_policy_sas_of_the_sdk_is_read() -> None:
    url = blob_sas(permission=None, expiry=None, policy_id="readers")
    info = inspect(url)
    assert (info.kind, info.policy_id, info.expires_at, info.permissions) == (
        "stored_policy",
        "readers",
        None,
        "",
    )
    assert info.problems == ()
    assert codes(url) == {"hidden-expiry": "warn"} | {"hidden-permissions": "warn"}


def test_a_container_sas_of_the_sdk_is_read() -> None:
    from azure.storage.blob import ContainerSasPermissions, generate_container_sas

    token = generate_container_sas(
        "acct",
        "data",
        account_key=KEY,
        permission=ContainerSasPermissions(read=True, list=True, delete=True),
        expiry=NOW + timedelta(days=30),
    )
    info = inspect(f"{BASE}?{token}")
    assert (info.kind, info.resource, set(info.permissions)) == ("service", "c", set("rld"))
    assert codes(f"{BASE}?{token}") == dict.fromkeys(
        ("lifetime", "more-permissions", "container-wide"), "warn"
    )


def test_an_account_sas_of_the_sdk_is_read() -> None:
    from azure.storage.blob import AccountSasPermissions, ResourceTypes, generate_account_sas

    def url(kinds: ResourceTypes) -> str:
        permission = AccountSasPermissions(read=True)
        token = generate_account_sas("acct", KEY, kinds, permission, NOW + timedelta(hours=1))
        return f"{BASE}?{token}"

    info = inspect(url(ResourceTypes(object=True, service=True)))
    assert (info.kind, info.services, set(info.resource_types)) == ("account", "b", set("so"))
    assert codes(url(ResourceTypes(object=True))) == {"account-wide": "warn"}
    assert codes(url(ResourceTypes(container=True)))["permission"] == "refuse"


def test_a_user_delegation_sas_of_the_sdk_is_read() -> None:
    from azure.storage.blob import UserDelegationKey

    key = UserDelegationKey()
    key.signed_oid = key.signed_tid = "00000000-0000-0000-0000-000000000001"
    key.signed_start, key.signed_expiry = "2026-05-01T11:00:00Z", "2026-05-01T12:30:00Z"
    key.signed_service, key.signed_version, key.value = "b", "2024-11-04", KEY
    url = blob_sas(account_key=None, user_delegation_key=key)
    info = inspect(url)
    assert (info.kind, info.problems) == ("user_delegation", ())
    assert info.key_expires_at == NOW + timedelta(minutes=30)
    assert codes(url) == {}
    assert codes(url, now=NOW + timedelta(minutes=45)) == {"expired": "refuse"}


@examples(150)
@given(
    permission=st.sets(st.sampled_from("racwdxlti"), min_size=1),
    minutes=st.integers(-2000, 5000),
    early=st.none() | st.integers(0, 3000),
    blob=st.text(min_size=1, max_size=30),
)
def test_every_sas_of_the_sdk_is_read(
    permission: set[str], minutes: int, early: int | None, blob: str
) -> None:
    from azure.storage.blob import BlobSasPermissions, generate_blob_sas

    assume(blob.isprintable())
    expiry = NOW + timedelta(minutes=minutes)
    start = None if early is None else expiry - timedelta(minutes=early)
    token = generate_blob_sas(
        "acct",
        "data",
        blob,
        account_key=KEY,
        permission=BlobSasPermissions.from_string("".join(permission)),
        expiry=expiry,
        start=start,
    )
    url = f"https://acct.blob.core.windows.net/data/{quote(blob)}?{token}"
    info = inspect(url)
    assert (info.kind, info.blob, info.expires_at, info.starts_at) == (
        "service",
        blob,
        expiry,
        start,
    )
    found = codes(url)
    assert ("expired" in found) == (minutes <= 0)
    assert (found.get("permission") == "refuse") == ("r" not in permission)


# Times and invalid fields


@pytest.mark.parametrize(
    ("text", "time"),
    [
        ("2026-05-01", datetime(2026, 5, 1, tzinfo=UTC)),
        ("2026-05-01T13:00Z", datetime(2026, 5, 1, 13, tzinfo=UTC)),
        ("2026-05-01T13:00:05Z", datetime(2026, 5, 1, 13, 0, 5, tzinfo=UTC)),
        ("2026-05-01T13:00:05.1234567Z", datetime(2026, 5, 1, 13, 0, 5, 123456, tzinfo=UTC)),
        ("2026-05-01T13:00:05", datetime(2026, 5, 1, 13, 0, 5, tzinfo=UTC)),
        ("2026-05-01T13:00:05+02:00", datetime(2026, 5, 1, 11, 0, 5, tzinfo=UTC)),
    ],
)
def test_every_format_of_a_time_is_read(text: str, time: datetime) -> None:
    assert inspect(sas(se=text)).expires_at == time
    assert inspect(sas().replace("2026-05-01T13%3A00%3A00Z", text)).expires_at == time


@pytest.mark.parametrize(
    "text",
    [
        "x",
        "2026-13-01",
        "2026-02-30",
        "20260501",
        "2026-05-01T25:00Z",
        "9999-12-31T23:59-14:00",
        "0001-01-01T00:00+14:00",
        "2026-05-01T13Z",
        "\N{FULLWIDTH DIGIT TWO}026-05-01",
        "2026-05-01T13:00:00+99:99",
    ],
)
def test_a_malformed_time_is_refused(text: str) -> None:
    assert codes(sas(se=text))["malformed"] == "refuse"


REFUSED = {
    "expired": sas(se="2026-05-01T11:59:59Z"),
    "not-yet-valid": sas(st="2026-05-01T12:06:00Z"),
    "never-valid": sas(st="2026-05-01T12:04:00Z", se="2026-05-01T12:03:00Z"),
    "permission": sas(sp="cw"),
    "no-expiry": sas(se=""),
    "no-permissions": sas(sp=""),
    "no-signature": sas(sig=""),
    "duplicate": sas() + "&SIG=x",
    "malformed": sas(sr="z"),
    "mixed": sas(ss="b"),
    "scheme": sas().replace("https:", "http:"),
    "host": "https://example.com/x",
    "private-address": "https://10.0.0.1/x",
    "url": "nonsense",
}


@pytest.mark.parametrize("code", REFUSED)
def test_a_url_is_refused_with_a_reason_and_a_hint(code: str) -> None:
    assert codes(REFUSED[code])[code] == "refuse"
    with pytest.raises(FileTransferError, match="the URL was refused: ") as caught:
        accept(REFUSED[code], now=NOW)
    assert caught.value.hint


@pytest.mark.parametrize(
    "more",
    [{"sp": "R!"}, {"spr": "http"}, {"sip": "x"}, {"sip": "1.2.3.4-1.2.3.1"}, {"sv": "new"}],
)
def test_an_invalid_field_is_refused(more: dict[str, str]) -> None:
    assert codes(sas(**more))["malformed"] == "refuse"


def test_times_may_differ_by_the_clock_skew() -> None:
    assert codes(sas(st="2026-05-01T12:04:00Z")) == {}
    assert codes(sas(se="2026-05-02T12:04:00Z")) == {}
    assert codes(sas(se="2026-05-02T12:06:00Z")) == {"lifetime": "warn"}


def test_the_policy_names_the_permissions_that_are_needed() -> None:
    writing = SasPolicy(permissions_needed="cw")
    assert codes(sas(sp="cw"), writing) == {}
    assert codes(sas(sp="rcw"), writing) == {"more-permissions": "warn"}
    assert codes(sas(sip="1.2.3.4")) == {"ip-range": "warn"}


def test_a_url_without_sas_is_fine_on_an_allowed_host() -> None:
    assert codes(BASE) == codes(BASE + "?comp=x&comp=y") == {}


@examples(300)
@given(st.text(max_size=80) | st.text(max_size=60).map(lambda query: f"{BASE}?sig=x&{query}"))
def test_any_text_raises_only_errors_of_this_package(text: str) -> None:
    inspect(text)
    check(text, POLICY, now=NOW)
    try:
        accept(text, now=NOW)
    except CodeInterpreterError as error:
        assert error.hint  # noqa: PT017 - most raise nothing


# Hosts

GOOD_HOSTS = [
    "acct.blob.core.windows.net",
    "ACCT.Blob.Core.Windows.Net",
    "acct.blob.core.windows.net:443",
    "acct-secondary.blob.core.windows.net",
    "acct.dfs.core.windows.net",
    "acct.file.core.windows.net",
    "acct.z12.blob.storage.azure.net",
    "acct.blob.core.usgovcloudapi.net",
    "acct.blob.core.chinacloudapi.cn",
]
BAD_HOSTS = [
    "evilblob.core.windows.net",
    "blob.core.windows.net",
    ".blob.core.windows.net",
    "a..blob.core.windows.net",
    "a.b.blob.core.windows.net",
    "acct.privatelink.blob.core.windows.net",
    "acct.blob.core.windows.net.evil.com",
    "acct.blob.core.windows.net.",
    "acct.blob.core.windows.net:8443",
    "acct.blob.core.windows.net:80",
    "acct.blob.core.windows.net:0",
    "acct.blob.core.windows.net:99999",
    "acct.blob.core.windows.net:443@evil.com",
    "acct.blob.core.windows.net@evil.com",
    "evil.com@acct.blob.core.windows.net",
    "evil.com\\@acct.blob.core.windows.net",
    "evil.com\\.blob.core.windows.net",
    "evil.com#.blob.core.windows.net",
    "evil.com?.blob.core.windows.net",
    "evil.com/.blob.core.windows.net",
    "evil.com%2f.blob.core.windows.net",
    "evil.com%00.blob.core.windows.net",
    "evil.com\t.blob.core.windows.net",
    "evil.com\n.blob.core.windows.net",
    "evil.com .blob.core.windows.net",
    "acct.blob.core.windows.net\n",
    "acct。blob。core。windows。net",
    "\N{CYRILLIC SMALL LETTER A}cct.blob.core.windows.net",
    "xn--cct-5cd.blob.core.windows.net",
    "acct.blob.core.window\N{LATIN SMALL LETTER LONG S}.net",
    "acct_.blob.core.windows.net",
    "-acct.blob.core.windows.net",
    "acct-.blob.core.windows.net",
    "*.blob.core.windows.net",
    "",
    "[acct.blob.core.windows.net]",
    "[::1].blob.core.windows.net",
    "acct.queue.core.windows.net",
]
PRIVATE_HOSTS = [
    "localhost",
    "LOCALHOST",
    "localhost.",
    "x.localhost",
    "intranet",
    "db.internal",
    "printer.local",
    "127.0.0.1",
    "127.0.0.1.",
    "127.1",
    "2130706433",
    "0x7f000001",
    "0x7f.1",
    "0177.0.0.1",
    "017700000001",
    "127.0.0.01",
    "127.0.0.1:443",
    "0",
    "0.0.0.0",
    "10.1.2.3",
    "172.16.0.1",
    "192.168.1.1",
    "169.254.169.254",
    "0xa9fea9fe",
    "169.254.43518",
    "168.63.129.16",
    "100.64.0.1",
    "192.0.0.192",
    "198.18.0.1",
    "224.0.0.1",
    "240.0.0.1",
    "255.255.255.255",
    "[::1]",
    "[::]",
    "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]",
    "[::ffff:169.254.169.254]",
    "[::127.0.0.1]",
    "[64:ff9b::7f00:1]",
    "[64:ff9b::169.254.169.254]",
    "[64:ff9b:1::1]",
    "[2002:7f00:1::]",
    "[2001:0:1:2:3:4:5:6]",
    "[fe80::1]",
    "[fe80::1%25eth0]",
    "[fec0::1]",
    "[fc00::1]",
    "[fd00:ec2::254]",
    "[ff02::1]",
    "[2001:db8::1]",
]


@pytest.mark.parametrize("host", GOOD_HOSTS)
def test_a_host_of_a_storage_account_is_accepted(host: str) -> None:
    assert codes(f"https://{host}/c/b") == {}


@pytest.mark.parametrize("host", BAD_HOSTS, ids=ascii)
def test_another_host_is_refused(host: str) -> None:
    assert "refuse" in codes(f"https://{host}/c/b").values()


@pytest.mark.parametrize("host", PRIVATE_HOSTS)
def test_a_private_address_is_refused_even_when_it_is_on_the_list(host: str) -> None:
    listed = SasPolicy(hosts=(host.lower(), *STORAGE_HOSTS))
    found = codes(f"https://{host}/c/b", listed)
    assert found.get("private-address") == "refuse" or found.get("url") == "refuse"


def test_a_private_address_is_allowed_only_by_name_and_port() -> None:
    policy = SasPolicy(
        hosts=("127.0.0.1:10000", "[::1]:10000", "azurite"), allow_private=True, allow_http=True
    )
    assert codes("http://127.0.0.1:10000/devstoreaccount1/c/b", policy) == {}
    assert codes("http://[0:0::1]:10000/devstoreaccount1/c/b", policy) == {}
    assert codes("https://azurite/c/b", policy) == {}
    assert codes("http://127.0.0.1:10001/c/b", policy) == {"host": "refuse"}
    assert codes("http://127.0.0.1/c/b", policy) == {"host": "refuse"}
    assert codes("ftp://127.0.0.1:10000/c/b", policy)["scheme"] == "refuse"
    assert "refuse" in codes(BASE, policy).values()


@pytest.mark.parametrize("address", ["20.60.1.1", "8.8.8.8", "2603:1030::1", "64:ff9b::808:808"])
def test_a_public_address_is_public(address: str) -> None:
    assert is_public(address)
    assert is_public("::ffff:8.8.8.8")


@pytest.mark.parametrize(
    "address", ["", "x", "127.1", "fe80::1%eth0", "::ffff:10.0.0.1", "8.8.8.8 "]
)
def test_a_private_or_invalid_address_is_not_public(address: str) -> None:
    assert not is_public(address)


@examples(400)
@given(st.ip_addresses())
def test_no_special_address_is_public(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> None:
    special = address.is_private or address.is_loopback or address.is_link_local
    special = special or address.is_multicast or address.is_unspecified
    if is_public(str(address)):
        embedded = ipaddress.ip_network("64:ff9b::/96")
        assert not special or address in embedded


@examples(300)
@given(st.ip_addresses(v=4), st.sampled_from(["decimal", "hex", "octal", "short", "mixed"]))
def test_every_spelling_of_an_ipv4_address_is_refused(
    address: ipaddress.IPv4Address, spelling: str
) -> None:
    number = int(address)
    a, b, c, d = address.packed
    text = {
        "decimal": str(number),
        "hex": hex(number),
        "octal": f"0{number:o}",
        "short": f"{a}.{number & 0xFFFFFF}",
        "mixed": f"{a:#x}.0{b:o}.{c}.{d:#X}",
    }[spelling]
    assert socket.inet_aton(text) == address.packed  # the system would connect there
    everywhere = SasPolicy(hosts=(text.lower(), str(address), "*", "*.*", "*.*.*.*"))
    assert "refuse" in codes(f"https://{text}/", everywhere).values()


PIECES = st.sampled_from(
    [
        *BAD_HOSTS,
        *GOOD_HOSTS,
        *PRIVATE_HOSTS,
        *"@:/\\?#.[]%*&=;\t\n",
        "//",
        "%2e",
        "%40",
        "xn--",
        "evil.com",
        "https:",
        "https://",
        "HTTPS://",
        "http://",
        "\N{FULLWIDTH DIGIT ZERO}",
        "。",
        "\xad",
        "\u200b",
        "\x00",
    ]
) | st.text(max_size=3)


@examples(1000)
@given(
    st.sampled_from(["https://", "https:/", "https:", "HTTPS://", "", "https:\\\\", " https://"]),
    st.lists(PIECES, max_size=5).map("".join),
    st.sampled_from(["", "/c/b", "/c/b?sig=x", "\\c", "/@evil.com/", ":443/c", "?x@y", "#@z"]),
    st.sampled_from(["acct.blob.core.windows.net", ""]),
)
def test_an_accepted_url_has_one_host_for_every_client(
    scheme: str, middle: str, end: str, host: str
) -> None:
    for url in (scheme + middle + host + end, scheme + host + middle + end):
        policy = replace(POLICY, hosts=(*STORAGE_HOSTS, "*", "*.*", "8.8.8.8", "*.*.*.*"))
        if any(
            finding.code in {"url", "host", "scheme"} for finding in check(url, policy, now=NOW)
        ):
            continue
        checked_host = split_url(url).host
        client = httpx.URL(url)
        assert client.raw_host.decode() == checked_host
        assert client.scheme == "https"
        assert client.port in {None, 443}
        assert urlsplit(url).hostname == checked_host
        request_host = Request(url).host.lower()
        assert request_host.removesuffix(":443").strip("[]") == checked_host


# All that an error may say: none of it comes from the URL, except an invalid port.
REASONS = {
    "it is longer than 16,384 characters",
    "it has spaces, control, non-ASCII or other invalid characters",
    "it is not an absolute URL",
    "it has a user name in front of its host",
    "its host is not a plain name or address",
    "its host is not an IPv6 address",
    "its host is a disguised IP address",
    "its port is invalid (PORT)",
}


@examples(500)
@given(st.text(max_size=40))
@example("it ha0")
@example("x" * 20_000)
def test_splitting_a_url_raises_only_its_own_error(text: str) -> None:
    for url in (text, f"https://{text}", f"https://{text}/"):
        try:
            parts = split_url(url)
        except AmbiguousUrlError as error:
            assert re.sub(r"\(\d+\)", "(PORT)", str(error)) in REASONS  # noqa: PT017
        else:
            assert parts.host.isascii()


# SecretUrl


@dataclass
class Holder:
    name: str
    url: SecretUrl


def test_a_secret_url_shows_only_its_address(caplog: pytest.LogCaptureFixture) -> None:
    url = SecretUrl(sas() + "#fragment")
    holder = Holder("a", url)
    logging.getLogger("elsewhere").warning("at %s, %r", url, url)
    shown = [str(url), repr(url), f"{url}", f"{url:>200}", f"{url!r}", "%s" % url]  # noqa: UP031
    shown += [str(holder), str(asdict(holder)), str([url]), str({url: url}), caplog.text]
    shown += [json.dumps({"url": url}, default=str), str(url.host), str(url.path), str(dir(url))]
    for text in shown:
        assert "kJ3x" not in text
        assert "fragment" not in text
    assert str(url) == BASE
    assert url.reveal() == sas() + "#fragment"
    assert (url.host, url.path) == ("acct.blob.core.windows.net", "/data/in/sales%202026.csv")


@pytest.mark.parametrize(
    "text",
    [
        "https://user:passw0rd@acct.blob.core.windows.net/?sig=abcdefgh",
        "nonsense sig=abcdefgh",
        "https://acct.blob.core.windows.net/c/b%3Fsig=abcdefgh",
        "",
    ],
)
def test_an_ambiguous_url_shows_nothing(text: str) -> None:
    url = SecretUrl(text)
    assert "passw0rd" not in str(url) + repr(url) + url.path
    assert "abcdefgh" not in str(url) + repr(url) + url.path
    assert url.reveal() == text


def test_a_secret_url_is_a_value() -> None:
    url = SecretUrl(sas())
    assert url == SecretUrl(sas())
    assert hash(url) == hash(SecretUrl(sas()))
    assert url != SecretUrl(sas(sp="w"))
    assert url != sas()
    assert copy.copy(url) is copy.deepcopy(url) is url
    with pytest.raises(AttributeError):
        url.host = "x"  # type: ignore[misc]
    with pytest.raises(AttributeError):
        del url._url


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_secret_url_cannot_be_pickled(protocol: int) -> None:
    with pytest.raises(TypeError, match="written down") as caught:
        pickle.dumps({"a": [SecretUrl(sas())]}, protocol)
    assert "kJ3x" not in "".join(traceback.format_exception(caught.value))


def test_the_signature_is_redacted_until_it_is_forgotten() -> None:
    other = SIG.replace("kJ3x", "Zz9y")
    url = SecretUrl(sas(sig=other))
    assert other not in redact(f"the code printed {other}")
    url.forget()
    assert other in redact(f"the code printed {other}")


def test_warnings_are_logged_without_the_query(caplog: pytest.LogCaptureFixture) -> None:
    url = accept(sas(sp="rw", se="2026-06-01"), now=NOW)
    assert isinstance(url, SecretUrl)
    assert f"{BASE}: the SAS has more permissions than are needed: w" in caplog.text
    assert "valid for more than" in caplog.text
    assert "kJ3x" not in caplog.text
    assert accept(url, now=NOW) is url


def test_a_refusal_names_no_secret() -> None:
    for url in (*REFUSED.values(), sas().replace("https://", "https://user:passw0rd@")):
        with pytest.raises(FileTransferError) as caught:
            accept(url, now=NOW)
        shown = "".join(traceback.format_exception(caught.value))
        assert "kJ3x" not in shown
        assert "passw0rd" not in shown


def test_an_ambiguous_url_is_refused() -> None:
    for url in ("https://[1:2]/", f"{BASE}?{'a' * 20_000}", "https:///c", "https://acct_/"):
        assert codes(url) == {"url": "refuse"}
    loopback = SasPolicy(hosts=("::1",), allow_private=True)
    assert codes("https://[::1]/", loopback) == {}
    assert codes("https://[::2]/", loopback) == {"host": "refuse"}
    assert str(SecretUrl("https://[::1]:8443/c?x")) == "https://[::1]:8443/c"


def test_a_sas_without_its_signature_is_refused() -> None:
    assert codes(sas().partition("&sig=")[0]) == {"no-signature": "refuse"}

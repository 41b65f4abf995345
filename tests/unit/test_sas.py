"""Signatures are read as Azure makes them, judged before use, and shown to nobody."""

from __future__ import annotations

import copy
import dataclasses
import ipaddress
import logging
import pickle  # noqa: TID251 - to see that it is refused
import traceback
from datetime import UTC, datetime, timedelta
from urllib.request import Request

import httpx
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cci_plugins import redaction
from cci_plugins.errors import FileTransferError
from cci_plugins.files import sas
from cci_plugins.files.sas import (
    SasPolicy,
    SecretUrl,
    accept,
    check,
    host_matches,
    inspect,
    is_public,
)

blob = pytest.importorskip("azure.storage.blob")


@pytest.fixture(scope="module", autouse=True)
def forgotten():
    """What passes here for a signature is not covered in other tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(redaction, "_known", redaction._Known())
        yield


NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
START, END = NOW - timedelta(minutes=5), NOW + timedelta(minutes=10)
KEY = "cGxhbnRlZC1rZXktb2YtYW4tYWNjb3VudC0wMTIzNDU2Nzg5"
BASE = "https://store.blob.core.windows.net/c/b.csv"
SIGNATURE = "q8bYtZ0/W+lk3jX1vPq9aR7cS5dN2mF4hG6jK8lQ0w="
HIDDEN = ("q8bYtZ0", "lk3jX1vPq9aR7")
SECRET = (
    f"{BASE}?sv=2026-10-06&sp=r&se=2099-01-01&sig=q8bYtZ0%2FW%2Blk3jX1vPq9aR7cS5dN2mF4hG6jK8lQ0w%3D"
)


def delegation():
    key = blob.UserDelegationKey()
    key.signed_oid = key.signed_tid = "11111111-1111-1111-1111-111111111111"
    key.signed_start, key.signed_expiry = "2026-11-23T11:00:00Z", "2026-11-23T14:00:00Z"
    key.signed_service, key.signed_version, key.value = "b", "2026-02-06", KEY
    return key


def blob_sas(**options):
    terms = {"permission": "r", "start": START, "expiry": END, "protocol": "https"}
    if "user_delegation_key" not in options:
        terms["account_key"] = KEY
    return blob.generate_blob_sas("store", "c", "b.csv", **(terms | options))


def account_sas(**options):
    terms = {"permission": "r", "start": START, "expiry": END, "protocol": "https"}
    return blob.generate_account_sas(
        "store", KEY, blob.ResourceTypes(object=True), **(terms | options)
    )


def container_sas(**options):
    terms = {"permission": "rl", "start": START, "expiry": END, "protocol": "https"}
    return blob.generate_container_sas("store", "c", account_key=KEY, **(terms | options))


def policy_sas():
    return blob.generate_blob_sas("store", "c", "b.csv", account_key=KEY, policy_id="readers")


def codes(query: str, *, now: datetime = NOW, **policy) -> dict[str, bool]:
    """What was found, and whether it refuses the address."""
    url = f"{BASE}?{query}" if query else BASE
    findings = check(url, SasPolicy(**policy), now=now)
    assert all(finding.reason and finding.mend for finding in findings)
    assert "sig=" not in str(findings)
    return {finding.code: finding.refused for finding in findings}


@pytest.mark.parametrize(
    ("query", "kind", "resource", "permissions"),
    [
        (blob_sas(), "service", "b", "r"),
        (blob_sas(permission="cw"), "service", "b", "cw"),
        (container_sas(), "service", "c", "rl"),
        (account_sas(), "account", "", "r"),
        (blob_sas(user_delegation_key=delegation()), "user_delegation", "b", "r"),
    ],
    ids=["blob", "write", "container", "account", "delegation"],
)
def test_what_azure_signs_is_read_as_it_was_meant(query, kind, resource, permissions):
    info = inspect(f"{BASE}?{query}")
    assert (info.kind, info.resource, info.permissions) == (kind, resource, permissions)
    assert (info.starts_at, info.expires_at) == (START, END)
    assert (info.protocols, info.ip_range, info.problem) == ("https", "", "")


def test_a_stored_policy_and_an_address_range_are_read():
    info = inspect(f"{BASE}?{policy_sas()}")
    assert (info.kind, info.permissions, info.expires_at, info.problem) == (
        "stored_policy",
        "",
        None,
        "",
    )
    info = inspect(f"{BASE}?{blob_sas(ip='20.1.2.3-20.1.2.9', protocol='https,http')}")
    assert (info.ip_range, info.protocols) == ("20.1.2.3-20.1.2.9", "https,http")
    assert inspect(BASE).kind == "none"
    assert SIGNATURE not in repr(inspect(SECRET))


@pytest.mark.parametrize(
    "text",
    [
        "2026-11-23T12:10Z",
        "2026-11-23T12:10:00Z",
        "2026-11-23T12:10:00.0000000Z",
        "2026-11-23T12:10:00.000Z",
        "2026-11-23T13:10:00%2B01:00",
    ],
)
def test_every_form_of_a_time_is_read(text):
    info = inspect(f"{BASE}?sp=r&se={text}&sig=x")
    assert (info.problem, info.expires_at) == ("", END)


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("", {}),
        (blob_sas(), {}),
        (blob_sas(user_delegation_key=delegation()), {}),
        (blob_sas(expiry=NOW), {"expired": True}),
        (blob_sas(start=NOW + timedelta(minutes=6)), {"not-yet": True}),
        (blob_sas(start=NOW + timedelta(minutes=4)), {}),
        (blob_sas(permission="w"), {"permission": True, "wide": False}),
        (blob_sas(permission="rw"), {"wide": False}),
        (blob_sas(expiry=NOW + timedelta(days=30)), {"long": False}),
        (blob_sas(protocol="https,http"), {"http": False}),
        (blob_sas(protocol=None), {"http": False}),
        (account_sas(), {"account": False}),
        (policy_sas(), {"hidden": False, "http": False}),
        ("sp=r&spr=https&sig=x", {"malformed": True}),
        ("sp=r&spr=https&se=soon&sig=x", {"malformed": True}),
        ("sp=r&spr=https&se=2026-13-41&sig=x", {"malformed": True}),
        ("sp=r&spr=https&se=2027-01-01&st=x&sig=x", {"malformed": True}),
        ("sp=r&sp=w&spr=https&se=2027-01-01&sig=x", {"malformed": True}),
        ("sp=r&SP=w&spr=https&se=2027-01-01&sig=x", {"malformed": True}),
        ("sig=x&sig=y&se=2027-01-01", {"malformed": True}),
        ("&".join(f"a{number}=1" for number in range(200)), {"malformed": True}),
    ],
)
def test_each_flaw_of_a_signature_is_found(query, found):
    listed = codes(query)
    if "malformed" in found:
        assert listed["malformed"]
    else:
        assert listed == found
    assert list(listed.values()) == sorted(listed.values(), reverse=True)  # what refuses is first


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("http://store.blob.core.windows.net/c/b", "not-https"),
        ("file:///etc/passwd", "not-https"),
        ("//store.blob.core.windows.net/c/b", "not-https"),
        ("https://evil.example/c/b", "unknown-host"),
        ("https://evilblob.core.windows.net/c", "unknown-host"),
        ("https://blob.core.windows.net/c", "unknown-host"),
        ("https://a.b.blob.core.windows.net/c", "unknown-host"),
        ("https://x.blob.core.windows.net.evil.com/c", "unknown-host"),
        ("https://store.blob.core.windows.net./c", "unreadable"),
        ("https://.blob.core.windows.net/c", "unreadable"),
        ("https://user@store.blob.core.windows.net/", "password"),
        ("https://store.blob.core.windows.net@evil.com/", "password"),
        ("https://evil.com\\@store.blob.core.windows.net/", "unreadable"),
        ("https://store.blob.core.windows.net%2eevil.com/", "unreadable"),
        ("https://store.blob.core.windows.net:444/", "port"),
        ("https://store.blob.core.windows.net:x/", "unreadable"),
        ("https://localhost/", "private"),
        ("https://a.localhost/", "private"),
        ("https://127.0.0.1/", "private"),
        ("https://2130706433/", "private"),
        ("https://0x7f.1/", "private"),
        ("https://0177.0.0.1/", "private"),
        ("https://127.1/", "private"),
        ("https://[::1]/", "private"),
        ("https://[::ffff:127.0.0.1]/", "private"),
        ("https://[64:ff9b::7f00:1]/", "private"),
        ("https://[fe80::1%25eth0]/", "private"),
        ("https://[fec0::1]/", "private"),
        ("https://168.63.129.16/", "private"),
        ("https://8.8.8.8/", "unknown-host"),
        ("https://[::1/", "unreadable"),
        ("https:///c/b", "unreadable"),
        ("https://b\u00fccher.example/", "unreadable"),
        ("https://\ud800/", "unreadable"),
        ("https://store.blob.core.windows.net/\r\nHost: evil", "unreadable"),
        ("\thttps://store.blob.core.windows.net/", "unreadable"),
        ("", "not-https"),
    ],
)
def test_an_address_that_could_lead_elsewhere_is_refused(url, code):
    (finding,) = check(url, SasPolicy(), now=NOW)
    assert (finding.code, finding.refused) == (code, True)
    with pytest.raises(FileTransferError):
        accept(url, SasPolicy())


def test_private_hosts_are_for_those_who_allow_them():
    policy = SasPolicy(hosts=("127.0.0.1", "localhost"), allow_private=True)
    assert check("https://127.0.0.1:10000/a", policy) == ()
    assert check("https://localhost:10000/a", policy) == ()
    assert check("https://127.0.0.2/a", policy)[0].code == "unknown-host"


LABELS = st.one_of(
    st.sampled_from(
        [
            "store",
            "blob",
            "core",
            "windows",
            "net",
            "evil",
            "com",
            "xn--bcher-kva",
            "localhost",
            "127",
            "0",
            "1",
            "0x7f",
            "0177",
            "2130706433",
            "",
            "-",
            "_",
            "b\u00fccher",
            "\u3002",
        ]
    ),
    st.text("abcxyz019-_%.\\@:/?#[]\t\r\n\0 \u00e4", max_size=8),
)
HOSTS = st.one_of(
    st.lists(LABELS, min_size=1, max_size=6).map(".".join),
    st.tuples(LABELS, st.sampled_from(["", ".evil.com", ".", "%00", "%2eevil.com"])).map(
        lambda two: f"{two[0]}.blob.core.windows.net{two[1]}"
    ),
    st.ip_addresses().map(str),
    st.ip_addresses(v=4).map(lambda found: str(int(found))),
    st.ip_addresses(v=4).map(lambda found: hex(int(found))),
    st.ip_addresses(v=6).map(lambda found: f"[{found}]"),
    st.ip_addresses(v=4).map(lambda found: f"[::ffff:{found}]"),
    st.ip_addresses(v=4).map(lambda found: f"[64:ff9b::{found}]"),
    st.ip_addresses(v=6).map(lambda found: f"[{found}%25eth0]"),
    st.ip_addresses(v=6).map(lambda found: f"[{found}]x.com"),
)
URLS = st.tuples(
    st.sampled_from(["https://", "HTTPS://", "http://", "https:/", "https:\\\\", "https:", "//"]),
    st.sampled_from(["", "", "", "user@", "a:b@", "store.blob.core.windows.net@", "evil.com\\@"]),
    HOSTS,
    st.sampled_from(["", "", ":443", ":0443", ":", ":80", ":99999", ":x", ":+443", ":443:443"]),
    st.sampled_from(["", "/c/b", "\\c", "?sig=x", "#@evil.com/", "/c?@evil.com", ";x", "/\ud800"]),
).map("".join)
TRUSTING = SasPolicy(hosts=(*sas.STORAGE_HOSTS, "8.8.8.8", "2606:4700::1111", "evil.com", "*.com"))


@settings(max_examples=600, deadline=None)
@given(URLS)
@example("https://[2606:4700::1111]/c")
@example("https://[2606:4700::1111]x.com/c")
@example("https://x[2606:4700::1111]/c")
@example("https://evil.com/c")
def test_what_is_accepted_is_the_same_host_for_every_client(url):
    link = SecretUrl(url)
    assert "sig=x" not in str(link)
    findings = check(url, TRUSTING)
    try:
        accept(url, TRUSTING)
    except FileTransferError:
        assert any(finding.refused for finding in findings)
        return
    asked, other = Request(url), httpx.URL(url)
    assert (asked.type, other.scheme) == ("https", "https")
    host = asked.host.lower().removesuffix(":").removesuffix(":443").removesuffix(":0443")
    assert host.strip("[]") == other.host == link.host
    assert other.port is None
    assert other.userinfo == b""
    assert any(host_matches(link.host, pattern) for pattern in TRUSTING.hosts)


@given(st.text(), st.text())
def test_no_text_makes_it_stumble(address, query):
    for url in (address, f"{BASE}?{query}", f"{BASE}?sig={query}", f"https://{address}?{query}"):
        link = SecretUrl(url)
        assert link == SecretUrl(url)
        assert str(link)
        inspect(url)
        check(url, SasPolicy())


def test_lone_surrogates_are_no_reason_to_stumble():
    link = SecretUrl(f"{BASE}?sig=\ud800aaaaaaaaaaaa")
    assert link == copy.copy(link)
    assert link != SecretUrl(BASE)
    assert "aaaa" not in str(link)


@dataclasses.dataclass
class Holder:
    link: SecretUrl


def test_a_secret_url_shows_its_address_only(caplog):
    link = SecretUrl(SECRET)
    shown = [repr(link), str(link), f"{link}", f"{link!r:>90}", "%s %r" % (link, link)]  # noqa: UP031
    shown += ["{}".format(link), repr([link]), repr({link: link}), repr(Holder(link))]  # noqa: UP032
    shown += [repr(dataclasses.asdict(Holder(link))), repr(copy.deepcopy(link))]
    shown += [str(link.path), str(link.host), ascii(link)]
    with caplog.at_level("DEBUG"):
        logging.getLogger("somewhere").debug("asked %s, %r", link, [link])
    error = ValueError(link)
    shown += [*traceback.format_exception(error), repr(error)]
    for text in (*shown, caplog.text):
        assert not [part for part in HIDDEN if part in text]
    assert str(link) == BASE
    assert link.reveal() == SECRET
    assert hash(link) == hash(copy.copy(link))
    assert link != SECRET


def test_a_secret_url_is_not_pickled():
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        for held in (SecretUrl(SECRET), [SecretUrl(SECRET)], Holder(SecretUrl(SECRET))):
            with pytest.raises(TypeError) as caught:
                pickle.dumps(held, protocol)
            assert not [part for part in HIDDEN if part in str(caught.value)]


def test_a_signature_in_the_path_is_not_shown_either():
    encoded = SECRET.replace("?", "%3F").replace("&", "%26").replace("=", "%3D")
    for url in (encoded, SECRET.replace("?", ";"), f"{BASE}#{SECRET}"):
        assert not [part for part in HIDDEN if part in f"{SecretUrl(url)} {SecretUrl(url)!r}"]


def test_what_should_be_mended_is_logged_without_the_signature(caplog):
    with caplog.at_level("DEBUG", "cci_plugins"):
        accept(SECRET, SasPolicy())
    assert "more days" in caplog.text
    assert "spr=https" in caplog.text
    assert not [part for part in HIDDEN if part in caplog.text]


SPECIAL = """
0.0.0.0/8 10.0.0.0/8 100.64.0.0/10 127.0.0.0/8 169.254.0.0/16 172.16.0.0/12 192.0.0.0/29
192.0.2.0/24 192.88.99.0/24 192.168.0.0/16 198.18.0.0/15 198.51.100.0/24 203.0.113.0/24
224.0.0.0/4 240.0.0.0/4 255.255.255.255/32 168.63.129.16/32 100.100.100.200/32
::/96 ::1/128 ::ffff:10.0.0.0/104 ::ffff:127.0.0.0/104 ::ffff:0:0:0/96 64:ff9b::7f00:0/104
64:ff9b::a9fe:0/112 64:ff9b:1::/48 100::/64 2001::/32 2001:2::/48 2001:10::/28 2001:db8::/32
2002:7f00::/24 2002:a00::/24 2002:c0a8::/32 3fff::/20 4000::/3 5f00::/16 fc00::/7 fe80::/10
fec0::/10 ff00::/8 fd00:ec2::254/128
""".split()  # noqa: SIM905 - they are read better so


@pytest.mark.parametrize("network", SPECIAL)
def test_special_ranges_are_not_of_the_internet(network):
    found = ipaddress.ip_network(network)
    for address in (found[0], found[-1], found[found.num_addresses // 2]):
        assert not is_public(str(address)), address


@pytest.mark.parametrize(
    "address",
    ["8.8.8.8", "20.60.1.1", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"],
)
def test_addresses_of_the_internet_are_public(address):
    assert is_public(address)


@pytest.mark.parametrize("text", ["", "localhost", "1", "0x7f000001", "127.1", "01.2.3.4", "::1%x"])
def test_what_is_no_address_is_not_public(text):
    assert not is_public(text)

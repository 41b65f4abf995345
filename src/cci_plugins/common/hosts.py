"""Which host a URL names, in one way only."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

from .addresses import Address

LONGEST_URL = 16_384
_URL = re.compile(
    r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<authority>[^/?#]*)"
    r"(?P<path>[^?#]*)(?:\?(?P<query>[^#]*))?(?:#.*)?"
)
_AUTHORITY = re.compile(
    r"(?P<host>[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\])(?::(?P<port>\d{1,5}))?"
)
_ALLOWED = re.compile(r"[!#-;=?-\[\]_a-z~%]+")  # printable ASCII but " < > \ ^ ` { | }
_LABEL = r"(?!xn--)[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_DEFAULT_PORTS = {"https": 443, "http": 80}
_LAST_PORT = 65_535


@dataclass(frozen=True, slots=True)
class UrlParts:
    """A URL that every client reads alike.

    Attributes:
        scheme: In lower case.
        host: In lower case, without the brackets of an IPv6 address.
        port: The one given, or the scheme's own, or 0 when it has none.
        path: As given, percent-encoded.
        query: As given, without the question mark.
    """

    scheme: str
    host: str
    port: int
    path: str
    query: str


class AmbiguousUrlError(ValueError):
    """Clients may read this URL in different ways; the text says why, without the URL."""


def split_url(url: str) -> UrlParts:
    """Take a URL apart.

    Raises:
        AmbiguousUrlError: It is no absolute URL of plain ASCII with a plain host.
    """
    if len(url) > LONGEST_URL:
        raise AmbiguousUrlError(f"it is longer than {LONGEST_URL:,} characters")
    if not _ALLOWED.fullmatch(url):
        raise AmbiguousUrlError("it has spaces, control, non-ASCII or other characters no URL has")
    match = _URL.fullmatch(url)
    if match is None:
        raise AmbiguousUrlError("it is not an absolute URL")
    if "@" in match["authority"]:
        raise AmbiguousUrlError("it has a user name in front of its host")
    authority = _AUTHORITY.fullmatch(match["authority"])
    if authority is None or ".." in authority["host"]:
        raise AmbiguousUrlError("its host is not a plain name or address")
    scheme = match["scheme"].lower()
    port = int(authority["port"] or _DEFAULT_PORTS.get(scheme, 0))
    if authority["port"] and not 0 < port <= _LAST_PORT:
        raise AmbiguousUrlError("its port is none")
    host = _normalize_host(authority["host"].lower())
    return UrlParts(scheme, host, port, match["path"], match["query"] or "")


def parse_literal_address(host: str) -> Address | None:
    """The IP address that a host of `split_url` is, or None when it is a name."""
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def is_local_name(host: str) -> bool:
    """Whether a name is looked up on this machine or this network only (RFC 6761, 6762, 8375)."""
    last = host.rpartition(".")[2]
    return (
        "." not in host
        or last in {"localhost", "local", "internal", "lan"}
        or (host.endswith(".home.arpa"))
    )


def matches_pattern(pattern: str, host: str, port: int, *, scheme: str) -> bool:
    """Whether a host is one of an allow list's.

    Args:
        pattern: A name or an address, `*` for exactly one whole label, which is never
            punycode; `:port` behind it when that is not the scheme's own.
        host: In lower case.
        port: The URL's.
        scheme: The URL's.
    """
    name, wanted = _split_pattern(pattern.lower())
    if port != (wanted or _DEFAULT_PORTS.get(scheme)):
        return False
    if parse_literal_address(name) is not None or parse_literal_address(host) is not None:
        return parse_literal_address(name) == parse_literal_address(host)
    labels = [_LABEL if label == "*" else re.escape(label) for label in name.split(".")]
    return re.fullmatch(r"\.".join(labels), host) is not None


def _split_pattern(pattern: str) -> tuple[str, int | None]:
    match = re.fullmatch(r"(\[[^\]]*\]|[^:]*)(?::(\d+))?", pattern)
    if match is None:  # an IPv6 address without brackets
        return pattern, None
    return match[1].strip("[]"), int(match[2]) if match[2] else None


def _normalize_host(host: str) -> str:
    if host.startswith("["):
        try:
            return str(ipaddress.IPv6Address(host[1:-1]))
        except ValueError:
            raise AmbiguousUrlError("its host is not an IPv6 address") from None
    # A last label of digits makes clients read an IPv4 address, also octal, hexadecimal or
    # of fewer parts (WHATWG URL, "ends in a number"); only four plain decimals are clear.
    if re.fullmatch(r"\d+|0x[0-9a-f]*", host.rpartition(".")[2]):
        try:
            return str(ipaddress.IPv4Address(host))
        except ValueError:
            raise AmbiguousUrlError("its host is a disguised IP address") from None
    if any(label.startswith("-") or label.endswith("-") for label in host.split(".")):
        raise AmbiguousUrlError("its host is not a plain name or address")
    return host

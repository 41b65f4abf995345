"""URLs that every client reads alike, and URLs that hold a secret.

A check of a URL is worth nothing when the client that connects reads another host in it. Clients
differ in user names, backslashes, control characters, Unicode, and in IPv4 addresses written as
octal, hexadecimal or fewer parts. `split_url` therefore accepts only URLs with one reading and
rejects all others. Everything that checks a host starts from it.
"""

from __future__ import annotations

import hmac
import ipaddress
import re
from dataclasses import dataclass
from typing import Any, Never
from urllib.parse import unquote

from typing_extensions import override

from cci_plugins.redaction import forget, know, redact

from .addresses import Address

MAX_URL_LENGTH = 16_384
_URL = re.compile(
    r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<authority>[^/?#]*)"
    r"(?P<path>[^?#]*)(?:\?(?P<query>[^#]*))?(?:#.*)?"
)
_AUTHORITY = re.compile(
    r"(?P<host>[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\])(?::(?P<port>\d{1,5}))?"
)
_ALLOWED = re.compile(r"[!#-;=?-\[\]_a-z~%]+")  # printable ASCII without " < > \ ^ ` { | }
_LABEL = r"(?!xn--)[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_DEFAULT_PORTS = {"https": 443, "http": 80}
_MAX_PORT = 65_535


@dataclass(frozen=True, slots=True)
class UrlParts:
    """The parts of a URL that every client reads alike.

    Attributes:
        scheme: In lower case.
        host: In lower case, without the brackets of an IPv6 address.
        port: The port in the URL, or the scheme's default, or 0 when it has neither.
        path: As in the URL, percent-encoded.
        query: As in the URL, without the question mark.
    """

    scheme: str
    host: str
    port: int
    path: str
    query: str


class AmbiguousUrlError(ValueError):
    """A URL that clients may read in different ways. The message never contains the URL."""


def split_url(url: str) -> UrlParts:
    """Split a URL into its parts.

    Raises:
        AmbiguousUrlError: It is not an absolute URL of plain ASCII with a plain host.
    """
    if len(url) > MAX_URL_LENGTH:
        raise AmbiguousUrlError(f"it is longer than {MAX_URL_LENGTH:,} characters")
    if not _ALLOWED.fullmatch(url):
        raise AmbiguousUrlError("it has spaces, control, non-ASCII or other invalid characters")
    match = _URL.fullmatch(url)
    if match is None:
        raise AmbiguousUrlError("it is not an absolute URL")
    if "@" in match["authority"]:
        raise AmbiguousUrlError("it has a user name in front of its host")
    authority = _AUTHORITY.fullmatch(match["authority"])
    if authority is None:
        raise AmbiguousUrlError("its host is not a plain name or address")
    scheme = match["scheme"].lower()
    port = int(authority["port"] or _DEFAULT_PORTS.get(scheme, 0))
    if authority["port"] and not 0 < port <= _MAX_PORT:
        raise AmbiguousUrlError(f"its port is invalid ({port})")
    host = _normalize_host(authority["host"].lower())
    return UrlParts(scheme, host, port, match["path"], match["query"] or "")


def parse_literal_address(host: str) -> Address | None:
    """Return the IP address that a host of `split_url` is, or None when it is a name."""
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def is_loopback_host(host: str) -> bool:
    """Return whether a host is this machine itself: `localhost`, 127.0.0.0/8 or ::1.

    Another name may resolve to loopback now and to another machine later, so it does not count.
    """
    address = parse_literal_address(host.strip("[]"))
    return host.lower() == "localhost" if address is None else address.is_loopback


def is_local_name(host: str) -> bool:
    """Return whether a name exists on this machine or network only (RFC 6761, 6762, 8375)."""
    last = host.rpartition(".")[2]
    is_local = "." not in host or last in {"localhost", "local", "internal", "lan"}
    return is_local or host.endswith(".home.arpa")


def matches_pattern(pattern: str, host: str, port: int, *, scheme: str) -> bool:
    """Return whether a pattern of an allow list matches a host and port.

    Args:
        pattern: A name or an address. `*` is exactly one whole label, never punycode. A port
            other than the scheme's default follows as `:port`.
        host: Host of the URL, in lower case.
        port: Port of the URL.
        scheme: Scheme of the URL.
    """
    match = re.fullmatch(r"(\[[^\]]*\]|[^:]*)(?::(\d+))?", pattern.lower())
    # without a match it is an IPv6 address without brackets
    name, wanted = (match[1].strip("[]"), match[2]) if match else (pattern.lower(), None)
    if port != (int(wanted) if wanted else _DEFAULT_PORTS.get(scheme)):
        return False
    if parse_literal_address(name) is not None or parse_literal_address(host) is not None:
        return parse_literal_address(name) == parse_literal_address(host)
    labels = [_LABEL if label == "*" else re.escape(label) for label in name.split(".")]
    return re.fullmatch(r"\.".join(labels), host) is not None


class SecretUrl:
    """A URL whose query is a secret, such as that of a blob with its SAS.

    Its text has no user name, query or fragment, in `str`, `repr`, f-strings, log records and
    tracebacks. It cannot be changed or pickled. Its copies are itself, so that
    `dataclasses.asdict` keeps it whole. `cci_plugins.redaction` knows its signature until
    `forget` is called.

    Args:
        url: The whole URL.

    Example:
        ```python
        from cci_plugins.common.urls import SecretUrl

        url = SecretUrl("https://store.blob.core.windows.net/c/a.csv?sig=c2lnbmF0dXJl")
        print(url, len(url.reveal()))
        ```
    """

    __slots__ = ("__weakref__", "_parts", "_url")

    _parts: UrlParts
    _url: str

    def __init__(self, url: str) -> None:
        try:
            parts = split_url(url)
        except AmbiguousUrlError:
            parts = UrlParts("", "", 0, "", "")
        object.__setattr__(self, "_url", url)
        object.__setattr__(self, "_parts", parts)
        for signature in _find_signatures(url):
            know(signature)

    def reveal(self) -> str:
        """Return the whole URL. Only the client that sends the request should call this."""
        return self._url

    def forget(self) -> None:
        """Unregister the signature from redaction, after it has stopped working."""
        for signature in _find_signatures(self._url):
            forget(signature)

    @property
    def host(self) -> str:
        """The host in lower case, or empty when the URL is ambiguous."""
        return self._parts.host

    @property
    def path(self) -> str:
        """The path, percent-encoded."""
        return redact(self._parts.path)

    @override
    def __str__(self) -> str:
        parts = self._parts
        if not parts.host:
            return "[redacted]"
        host = f"[{parts.host}]" if ":" in parts.host else parts.host
        port = "" if _DEFAULT_PORTS.get(parts.scheme, 0) == parts.port else f":{parts.port}"
        return redact(f"{parts.scheme}://{host}{port}{parts.path}")

    @override
    def __repr__(self) -> str:
        return f"SecretUrl({str(self)!r})"

    @override
    def __format__(self, spec: str) -> str:
        return format(str(self), spec)

    @override
    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SecretUrl):
            return NotImplemented
        return hmac.compare_digest(_encode(self._url), _encode(other._url))

    @override
    def __hash__(self) -> int:
        return hash((SecretUrl, self._url))

    @override
    def __setattr__(self, name: str, value: object) -> Never:
        raise AttributeError("a SecretUrl cannot be changed")

    @override
    def __delattr__(self, name: str) -> Never:
        raise AttributeError("a SecretUrl cannot be changed")

    def __copy__(self) -> SecretUrl:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> SecretUrl:
        return self

    @override
    def __reduce_ex__(self, protocol: object) -> Never:
        raise TypeError("a SecretUrl cannot be pickled: the secret would be written down")

    @override
    def __getstate__(self) -> Never:
        raise TypeError("a SecretUrl cannot be pickled: the secret would be written down")


def _normalize_host(host: str) -> str:
    if host.startswith("["):
        try:
            return str(ipaddress.IPv6Address(host[1:-1]))
        except ValueError:
            raise AmbiguousUrlError("its host is not an IPv6 address") from None
    # A last label of digits makes clients read an IPv4 address, also an octal or hexadecimal
    # one, or one of fewer parts (WHATWG URL, "ends in a number"). Only four plain decimals are
    # unambiguous.
    if re.fullmatch(r"\d+|0x[0-9a-f]*", host.rpartition(".")[2]):
        try:
            return str(ipaddress.IPv4Address(host))
        except ValueError:
            raise AmbiguousUrlError("its host is a disguised IP address") from None
    labels = host.split(".")
    if not all(labels) or any(label[0] == "-" or label[-1] == "-" for label in labels):
        raise AmbiguousUrlError("its host is not a plain name or address")
    return host


def _find_signatures(url: str) -> list[str]:
    pairs = (pair.partition("=") for pair in url.partition("?")[2].partition("#")[0].split("&"))
    return [unquote(value) for name, _, value in pairs if unquote(name).lower() == "sig"]


def _encode(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")

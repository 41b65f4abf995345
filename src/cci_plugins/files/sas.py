"""Addresses with a signature: kept out of sight, read, and judged before anything fetches them."""

from __future__ import annotations

import hmac
import ipaddress
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal, NoReturn
from urllib.parse import SplitResult, parse_qsl, urlsplit

from cci_plugins.errors import FileTransferError
from cci_plugins.redaction import know, redact
from cci_plugins.telemetry import logger

from .addresses import is_public

STORAGE_HOSTS = (
    "*.blob.core.windows.net",
    "*.dfs.core.windows.net",
    "*.blob.storage.azure.net",
    "*.blob.core.chinacloudapi.cn",
    "*.blob.core.usgovcloudapi.net",
)
"""Where Azure's storage accounts are (learn.microsoft.com, storage account overview)."""

Kind = Literal["none", "service", "account", "user_delegation", "stored_policy"]
_ODD = re.compile(r"[\x00-\x20\x7f\\]")
_HOST = re.compile(
    r"(?:[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?\.)*[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
)
_LITERAL = re.compile(r"(\[[^\[\]]+\]|[^\[\]:]+)(:[0-9]*)?")
_NUMBER = re.compile(r"0x[0-9a-f]*|[0-9]+")
_FORMATS = ("%Y-%m-%dT%H:%M:%S%z", "%Y-%m-%dT%H:%M%z", "%Y-%m-%d", "%Y-%m-%dT%H:%M:%S.%f%z")


class SecretUrl:
    """A URL that shows itself without its query, wherever it is printed.

    Attributes:
        host: Its host.
        path: Its path.
    """

    __slots__ = ("_url", "host", "path")

    def __init__(self, url: str) -> None:
        self._url = url
        try:
            parts = urlsplit(url)
            self.host, self.path = parts.hostname or "", parts.path
        except ValueError:
            self.host, self.path = "", ""
            return
        for name, value in parse_qsl(parts.query):
            if name.lower() == "sig":
                know(value)

    def reveal(self) -> str:
        """The whole URL; for the request itself and nothing else."""
        return self._url

    def __repr__(self) -> str:
        return f"SecretUrl({str(self)!r})"

    def __str__(self) -> str:
        return redact(f"https://{self.host}{self.path}")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SecretUrl):
            return NotImplemented
        mine, others = (url.encode(errors="surrogatepass") for url in (self._url, other._url))
        return hmac.compare_digest(mine, others)

    def __hash__(self) -> int:
        return hash(self._url)

    def __reduce__(self) -> NoReturn:
        raise TypeError("an address with a signature is not pickled: it would lie around in clear")

    def __copy__(self) -> SecretUrl:
        return self

    def __deepcopy__(self, _: object) -> SecretUrl:
        return self


@dataclass(frozen=True, slots=True)
class SasInfo:
    """What a shared access signature allows, as its parameters say.

    The parameters are those of learn.microsoft.com: "Create a service SAS", "Create an account
    SAS" and "Create a user delegation SAS".

    Attributes:
        kind: Which of them it is; `stored_policy` when a policy of the container has the terms.
        permissions: Letters of `sp`; empty where a stored policy has them.
        starts_at: When it begins, where it says.
        expires_at: When it ends, where it says.
        protocols: `https`, or `https,http`; empty when it does not say.
        ip_range: Addresses that it is good for; empty for all.
        resource: `b` for a blob, `c` for a container, and so on.
        problem: Why it cannot be read, in words; empty when it can.
    """

    kind: Kind = "none"
    permissions: str = ""
    starts_at: datetime | None = None
    expires_at: datetime | None = None
    protocols: str = ""
    ip_range: str = ""
    resource: str = ""
    problem: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SasPolicy:
    """Which addresses may be fetched.

    Attributes:
        hosts: Names, or `*.` and a name for one label before it; storage accounts by default.
        longest: A signature that lasts longer than this is warned about.
        skew: How far clocks may be apart.
        needed: Letters of the permissions that the transfer needs.
        allow_private: Addresses of private networks and this machine, too.
    """

    hosts: tuple[str, ...] = STORAGE_HOSTS
    longest: timedelta = timedelta(days=1)
    skew: timedelta = timedelta(minutes=5)
    needed: str = "r"
    allow_private: bool = False


@dataclass(frozen=True, slots=True)
class Finding:
    """What is wrong with an address.

    Attributes:
        code: Short name of the finding.
        refused: Nothing may be fetched; else it is only to be said.
        reason: Why, in words.
        mend: What to do about it.
    """

    code: str
    refused: bool
    reason: str
    mend: str


def inspect(url: str) -> SasInfo:
    """Read the signature of a URL; nonsense is told by `problem`, never raised."""
    try:
        pairs = parse_qsl(urlsplit(url).query, keep_blank_values=True, max_num_fields=100)
    except ValueError:
        return SasInfo(problem="the address cannot be read")
    values = {name.lower(): value for name, value in pairs}
    if "sig" not in values:
        return SasInfo()
    if len(values) < len(pairs):
        return SasInfo(_kind(values), problem="a parameter of the signature is there twice")
    try:
        starts, expires = _time(values.get("st")), _time(values.get("se"))
    except ValueError:
        return SasInfo(_kind(values), problem="a time of the signature cannot be read")
    return SasInfo(
        kind=_kind(values),
        permissions=values.get("sp", ""),
        starts_at=starts,
        expires_at=expires,
        protocols=values.get("spr", ""),
        ip_range=values.get("sip", ""),
        resource=values.get("sr", ""),
    )


def check(url: str, policy: SasPolicy, *, now: datetime | None = None) -> tuple[Finding, ...]:
    """Judge an address: what refuses it first, then what should be mended."""
    now = datetime.now(UTC) if now is None else now
    refusal = _refusal(url, policy)
    if refusal is not None:
        return (refusal,)
    info = inspect(url)
    if info.kind == "none" and not info.problem:
        return ()
    found = [*_refusals(info, policy, now), *_warnings(info, policy, now)]
    return tuple(sorted(found, key=lambda finding: not finding.refused))


def accept(url: str | SecretUrl, policy: SasPolicy) -> SecretUrl:
    """The address, when the policy lets it through; what should be mended is logged.

    Raises:
        FileTransferError: It does not.
    """
    link = url if isinstance(url, SecretUrl) else SecretUrl(url)
    for finding in check(link.reveal(), policy):
        if finding.refused:
            raise FileTransferError(
                f"this address is not fetched: {finding.reason}", hint=finding.mend
            )
        logger.warning("the signature of %s: %s; %s", link, finding.reason, finding.mend)
    return link


def host_matches(host: str, pattern: str) -> bool:
    """Whether a host is meant by a name, or by `*.` and a name: one label stands for the star."""
    pattern = pattern.lower().rstrip(".")
    if not pattern.startswith("*."):
        return host == pattern
    label, _, rest = host.partition(".")
    return bool(label) and rest == pattern[2:]


def _refusal(url: str, policy: SasPolicy) -> Finding | None:
    """What is wrong with the address itself."""
    if _ODD.search(url) or not url.isascii():
        return _refused("unreadable", "it has characters that no address has", "encode them")
    try:
        parts = urlsplit(url)
        host, port = (parts.hostname or ""), parts.port
    except ValueError:
        return _refused("unreadable", "it cannot be read", "check it")
    if parts.scheme != "https":
        return _refused("not-https", "it is not https", "use an https:// address")
    if "@" in parts.netloc:
        return _refused("password", "it carries a name or password", "leave them out")
    return _host_refusal(host, port, parts, policy)


def _host_refusal(
    host: str, port: int | None, parts: SplitResult, policy: SasPolicy
) -> Finding | None:
    literal = _literal(host, parts)
    known = _HOST.fullmatch(host) if literal is None else _LITERAL.fullmatch(parts.netloc)
    if not known:
        return _refused("unreadable", "its host cannot be read", "check it")
    if not policy.allow_private:
        if literal is not None and not is_public(literal):
            return _refused("private", "its host is no public address", "use a public one")
        if host == "localhost" or host.endswith(".localhost"):
            return _refused("private", "its host is this machine", "upload the file instead")
        if port not in {None, 443}:
            return _refused("port", "it names a port", "use port 443")
    if not any(host_matches(host, pattern) for pattern in policy.hosts):
        return _refused(
            "unknown-host",
            f"{host[:100]} is not on the list of hosts",
            "add it to CCI_FETCH_HOSTS, if you trust it",
        )
    return None


def _literal(host: str, parts: SplitResult) -> str | None:
    """The IP address that a host spells, however oddly; `0.0.0.0` for what nobody should mean."""
    if parts.netloc.startswith("["):
        return host
    *_, last = host.split(".")
    if not _NUMBER.fullmatch(last):
        return None
    try:
        return str(ipaddress.IPv4Address(host))
    except ValueError:
        return "0.0.0.0"  # noqa: S104 - refused, since it is not public


def _refusals(info: SasInfo, policy: SasPolicy, now: datetime) -> list[Finding]:
    found = []
    if info.problem:
        found.append(_refused("malformed", info.problem, "make a new signature"))
    if info.expires_at is not None and info.expires_at <= now:
        found.append(_refused("expired", "its signature has expired", "make a new one"))
    if info.starts_at is not None and info.starts_at > now + policy.skew:
        found.append(
            _refused("not-yet", "its signature is not valid yet", "start it 5 minutes ago")
        )
    if info.expires_at is None and info.kind != "stored_policy" and not info.problem:
        found.append(_refused("malformed", "its signature has no end", "make a new one"))
    missing = set(policy.needed) - set(info.permissions)
    if missing and info.kind != "stored_policy" and not info.problem:
        letters = "".join(sorted(missing))
        found.append(
            _refused("permission", f"its signature does not allow {letters}", "give that right")
        )
    return found


def _warnings(info: SasInfo, policy: SasPolicy, now: datetime) -> list[Finding]:
    found = []
    if info.expires_at is not None and info.expires_at > now + policy.longest:
        days = (info.expires_at - now).days
        found.append(_said("long", f"it is good for {days} more days", "let it last minutes"))
    more = "".join(sorted(set(info.permissions) - set(policy.needed)))
    if more:
        found.append(_said("wide", f"it also allows {more}", "give no right that is not needed"))
    if info.kind == "account":
        found.append(
            _said("account", "it opens the whole account", "sign one blob, by user delegation")
        )
    if info.kind == "stored_policy" and info.expires_at is None:
        found.append(_said("hidden", "a stored policy has its terms", "sign one blob instead"))
    if "http" in info.protocols.split(",") or not info.protocols:
        found.append(_said("http", "it is good without encryption, too", "set spr=https"))
    return found


def _refused(code: str, reason: str, mend: str) -> Finding:
    return Finding(code, refused=True, reason=reason, mend=mend)


def _said(code: str, reason: str, mend: str) -> Finding:
    return Finding(code, refused=False, reason=reason, mend=mend)


def _kind(values: dict[str, str]) -> Kind:
    if "ss" in values or "srt" in values:
        return "account"
    if "skoid" in values or "sktid" in values:
        return "user_delegation"
    return "stored_policy" if "si" in values else "service"


def _time(text: str | None) -> datetime | None:
    if text is None:
        return None
    for form in _FORMATS:
        try:
            # seven digits of a fraction, as .NET writes them, are more than Python reads
            found = datetime.strptime(re.sub(r"(\.\d{6})\d+", r"\1", text), form)  # noqa: DTZ007 - a date has no zone
        except ValueError:
            continue
        return found.replace(tzinfo=found.tzinfo or UTC)
    raise ValueError("no time")


__all__ = [
    "STORAGE_HOSTS",
    "Finding",
    "SasInfo",
    "SasPolicy",
    "SecretUrl",
    "accept",
    "check",
    "host_matches",
    "inspect",
    "is_public",
]

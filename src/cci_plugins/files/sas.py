"""Shared access signatures (SAS): their fields, and the policy for URLs that a user gives.

`accept` is the entry point. It splits the URL (`common.urls`, one reading for every client),
reads the SAS in its query (`inspect`) and compares both with a `SasPolicy` (`check`): scheme,
host, private addresses, times, permissions and scope. A finding that refuses the URL becomes a
`FileTransferError`. A warning is logged.

No finding contains the URL's query. Azure verifies the signature itself, which cannot be done
here. What a host name resolves to is checked where the connection is opened
(`in_session.transfer`), because a name can resolve to another address a moment later.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal
from urllib.parse import unquote

from cci_plugins.common.addresses import is_public
from cci_plugins.common.durations import convert_durations
from cci_plugins.common.log import logger
from cci_plugins.common.urls import (
    AmbiguousUrlError,
    SecretUrl,
    UrlParts,
    is_local_name,
    matches_pattern,
    parse_literal_address,
    split_url,
)
from cci_plugins.errors import FileTransferError

SasKind = Literal["service", "account", "user_delegation", "stored_policy", "none"]

_CLOUDS = ("core.windows.net", "core.usgovcloudapi.net", "core.chinacloudapi.cn")
# learn.microsoft.com, "Storage account endpoints": the account is one label. Accounts in Azure
# DNS zones have a second one, such as z12. Names of private endpoints (*.privatelink.…) do not
# match.
STORAGE_HOSTS = (
    *(f"*.{service}.{cloud}" for cloud in _CLOUDS for service in ("blob", "dfs", "file")),
    *(f"*.*.{service}.storage.azure.net" for service in ("blob", "dfs", "file")),
)
_TEXT_FIELDS = {
    "permissions": ("sp", "[a-z]{1,20}"),
    "protocol": ("spr", "https|https,http|http,https"),
    "resource": ("sr", "b|bv|bs|c|d|f|s"),
    "services": ("ss", "[bqtf]{1,4}"),
    "resource_types": ("srt", "[sco]{1,3}"),
    "policy_id": ("si", "(?s:.*)"),
    "version": ("sv", r"\d{4}-\d\d-\d\d"),
}
_TIME_FIELDS = {
    "starts_at": "st",
    "expires_at": "se",
    "key_starts_at": "skt",
    "key_expires_at": "ske",
}
_FOREIGN_FIELDS = {"account": {"sr", "si", "skoid"}, "user_delegation": {"ss", "srt", "si"}}
_TIME = re.compile(
    r"\d{4}-\d\d-\d\d(?:T\d\d:\d\d(?::\d\d(?:\.\d{1,7})?)?(?:Z|[+-]\d\d:\d\d)?)?", re.ASCII
)
_MAKE_NEW_SAS = "make a new SAS for this one blob"
_COPY_AGAIN = "copy the whole URL once more, or make a new SAS"


@dataclass(frozen=True, slots=True)
class UrlFinding:
    """A fact about a URL that its user should know.

    Attributes:
        code: Its short name, such as `expired`.
        severity: `refuse` when the URL must not be used.
        reason: A sentence about it, without any secret.
        fix: The next step.
    """

    code: str
    severity: Literal["refuse", "warn"]
    reason: str
    fix: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SasInfo:
    """The fields of a SAS, without its signature.

    Attributes:
        kind: `none` when the URL has no signature.
        permissions: Letters (`sp`), or empty when a stored policy holds them.
        starts_at: When it becomes valid (`st`), or None for at once.
        expires_at: When it expires (`se`), or None when a stored policy holds the time.
        key_starts_at: When the user delegation key becomes valid (`skt`).
        key_expires_at: When that key expires (`ske`), and the SAS with it.
        protocol: `https`, or `https,http` (`spr`).
        ip_range: First and last address that may use it (`sip`).
        resource: `b` blob, `c` container, `d` directory, `f` file, `s` share, `bv` version,
            `bs` snapshot (`sr`).
        services: Letters of an account SAS: `b`lob, `q`ueue, `t`able, `f`ile (`ss`).
        resource_types: Letters of an account SAS: `s`ervice, `c`ontainer, `o`bject (`srt`).
        policy_id: Name of the stored access policy (`si`).
        version: Version of the storage service (`sv`).
        host: Host of the URL.
        container: First part of the path. In the URLs of emulators that is the account.
        blob: The rest of the path, decoded.
        problems: Fields that cannot be right.
    """

    kind: SasKind = "none"
    permissions: str = ""
    starts_at: datetime | None = None
    expires_at: datetime | None = None
    key_starts_at: datetime | None = None
    key_expires_at: datetime | None = None
    protocol: str = ""
    ip_range: tuple[str, str] | None = None
    resource: str = ""
    services: str = ""
    resource_types: str = ""
    policy_id: str = ""
    version: str = ""
    host: str = ""
    container: str = ""
    blob: str = ""
    problems: tuple[UrlFinding, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SasPolicy:
    """The rules for URLs that a user gives. A number as a duration means seconds.

    Attributes:
        max_lifetime: A SAS that is valid for longer causes a warning.
        clock_skew: Largest difference between the clocks of two machines.
        permissions_needed: Letters of `sp` that must be granted. More cause a warning.
        hosts: Patterns of hosts that are allowed. `*` is one whole label, so that
            `*.example.com` matches neither `a.b.example.com` nor `xexample.com`. A port other
            than the scheme's default follows the name (`127.0.0.1:10000`).
        allow_private: Allow hosts of this list that are private addresses or local names.
        allow_http: Allow `http` as well as `https`.

    Example:
        ```python
        from cci_plugins.files.sas import STORAGE_HOSTS, SasPolicy

        policy = SasPolicy(hosts=(*STORAGE_HOSTS, "data.example.org"))
        ```
    """

    max_lifetime: timedelta = timedelta(hours=24)
    clock_skew: timedelta = timedelta(minutes=5)
    permissions_needed: str = "r"
    hosts: tuple[str, ...] = STORAGE_HOSTS
    allow_private: bool = False
    allow_http: bool = False

    def __post_init__(self) -> None:
        convert_durations(self, "max_lifetime", "clock_skew")


def accept(
    url: str | SecretUrl, policy: SasPolicy | None = None, *, now: datetime | None = None
) -> SecretUrl:
    """Check a URL of a user and return it as a secret. Warnings are logged without the query.

    Args:
        url: Any text.
        policy: The rules. By default, storage accounts by HTTPS.
        now: The time. By default, this machine's.

    Raises:
        FileTransferError: The policy refuses the URL. The hint holds the next step.
    """
    secret = url if isinstance(url, SecretUrl) else SecretUrl(url)
    for finding in check(secret, policy or SasPolicy(), now=now or datetime.now(UTC)):
        if finding.severity == "refuse":  # these come first
            raise FileTransferError(f"the URL was refused: {finding.reason}", hint=finding.fix)
        logger.warning("%s: %s; %s", secret, finding.reason, finding.fix)
    return secret


def check(url: str | SecretUrl, policy: SasPolicy, *, now: datetime) -> tuple[UrlFinding, ...]:
    """Return the findings about a URL, those that refuse it first.

    An accepted URL has one reading only, so that every client connects to the host that was
    checked. The caller checks what its name resolves to, with `is_public`.

    Args:
        url: Any text. A URL without a SAS is fine.
        policy: The rules.
        now: The time.
    """
    try:
        parts = split_url(_reveal(url))
    except AmbiguousUrlError as error:
        reason = f"the URL is ambiguous: {error}"
        return (_refuse("url", reason, "copy the URL once more, percent-encoded"),)
    info = _SasReader(parts).read()
    findings = [*_check_address(parts, policy), *info.problems]
    if info.kind != "none":
        findings += _check_times(info, policy, now.astimezone(UTC))
        findings += [*_check_permissions(info, policy), *_check_scope(info)]
    return tuple(sorted(findings, key=lambda finding: finding.severity != "refuse"))


def inspect(url: str | SecretUrl) -> SasInfo:
    """Read the SAS of a URL. Invalid fields are listed in `problems`, and nothing is raised.

    The fields are those of learn.microsoft.com/rest/api/storageservices: create-service-sas,
    create-account-sas and create-user-delegation-sas.
    """
    try:
        parts = split_url(_reveal(url))
    except AmbiguousUrlError as error:
        return SasInfo(problems=(_refuse("url", f"the URL is ambiguous: {error}", _COPY_AGAIN),))
    return _SasReader(parts).read()


def _check_address(parts: UrlParts, policy: SasPolicy) -> Iterator[UrlFinding]:
    if parts.scheme != "https" and not (parts.scheme == "http" and policy.allow_http):
        yield _refuse("scheme", "it is not an https URL", "use https")
    is_name = parse_literal_address(parts.host) is None
    is_private = is_local_name(parts.host) if is_name else not is_public(parts.host)
    if is_private and not policy.allow_private:
        yield _refuse("private-address", f"{parts.host} is a private address", "use a public URL")
    if not any(
        matches_pattern(pattern, parts.host, parts.port, scheme=parts.scheme)
        for pattern in policy.hosts
    ):
        reason = f"{parts.host}, port {parts.port}, is not on the list of allowed hosts"
        yield _refuse("host", reason, "use a URL of a storage account, or allow this host")


def _check_times(info: SasInfo, policy: SasPolicy, now: datetime) -> Iterator[UrlFinding]:
    start = max(filter(None, (info.starts_at, info.key_starts_at)), default=None)
    end = min(filter(None, (info.expires_at, info.key_expires_at)), default=None)
    if end is not None and end <= now:
        yield _refuse("expired", f"the SAS expired at {end:%Y-%m-%d %H:%M:%S} UTC")
    elif start is not None and start > now + policy.clock_skew:
        reason = f"the SAS is not valid before {start:%Y-%m-%d %H:%M:%S} UTC"
        yield _refuse("not-yet-valid", reason, "wait, or make one that begins now")
    elif start is not None and end is not None and end <= start:
        yield _refuse("never-valid", "the SAS expires before it begins")
    elif info.expires_at is None and info.policy_id:
        yield _warn("hidden-expiry", "its expiry is in a stored access policy and not visible")
    elif end is not None and end - (start or now) > policy.max_lifetime + policy.clock_skew:
        yield _warn("lifetime", f"the SAS is valid for more than {policy.max_lifetime}")


def _check_permissions(info: SasInfo, policy: SasPolicy) -> Iterator[UrlFinding]:
    needed, granted = set(policy.permissions_needed), set(info.permissions)
    if not granted and info.policy_id:
        reason = "its permissions are in a stored access policy and not visible"
        yield _warn("hidden-permissions", reason)
        return
    fix = f"make one with sp={''.join(sorted(needed))}"
    if missing := "".join(sorted(needed - granted)):
        yield _refuse("permission", f"the SAS lacks the permission {missing}", fix)
    if extra := "".join(sorted(granted - needed)):
        reason = f"the SAS has more permissions than are needed: {extra}"
        yield _warn("more-permissions", reason, fix)
    if info.kind == "account" and not ("o" in info.resource_types and info.services):
        yield _refuse("permission", "the account SAS does not open objects (srt=o)")


def _check_scope(info: SasInfo) -> Iterator[UrlFinding]:
    if info.kind == "account":
        yield _warn("account-wide", "the SAS opens the whole storage account")
    if info.resource in {"c", "s", "d"}:
        yield _warn("container-wide", "the SAS opens more than one file")
    if info.ip_range is not None:
        reason = "the SAS is bound to an IP range, which a session's address may not be in"
        yield _warn("ip-range", reason, "if it fails, make one without sip")


class _SasReader:
    """Reader of one URL's query, which collects the fields that cannot be right."""

    def __init__(self, parts: UrlParts) -> None:
        self._parts = parts
        self._problems: list[UrlFinding] = []
        self._fields: dict[str, str] = {}
        self._has_duplicates = False
        for pair in parts.query.split("&") if parts.query else ():
            name, _, value = pair.partition("=")
            name = unquote(name).lower()
            self._has_duplicates |= name in self._fields
            self._fields.setdefault(name, unquote(value))

    def read(self) -> SasInfo:
        """Return the fields and problems."""
        container, _, blob = self._parts.path.removeprefix("/").partition("/")
        kind = self._detect_kind()
        fields: dict[str, Any] = {
            **{name: self._read_text(*field) for name, field in _TEXT_FIELDS.items()},
            **{name: self._read_time(field) for name, field in _TIME_FIELDS.items()},
            "ip_range": self._read_ip_range(),
        }
        self._check_fields(kind)
        return SasInfo(
            kind=kind,
            host=self._parts.host,
            container=unquote(container),
            blob=unquote(blob),
            problems=tuple(self._problems),
            **fields,
        )

    def _detect_kind(self) -> SasKind:
        if "sig" not in self._fields:
            return "none"
        if self._fields.keys() & {"skoid", "sktid", "ske", "sks"}:
            return "user_delegation"
        if self._fields.keys() & {"ss", "srt"}:
            return "account"
        return "stored_policy" if "si" in self._fields else "service"

    def _check_fields(self, kind: SasKind) -> None:
        fields = self._fields
        if kind == "none":
            if fields.keys() & {"se", "sp"} and "sv" in fields:
                self._add_problem("no-signature", "the SAS has no signature (sig)")
            return
        if self._has_duplicates:
            self._add_problem("duplicate", "the SAS has one of its fields more than once")
        if not fields["sig"]:
            self._add_problem("no-signature", "the signature of the SAS (sig) is empty")
        if kind != "stored_policy":
            for name, what in (("se", "expiry"), ("sp", "permissions")):
                if name not in fields:
                    self._add_problem(f"no-{what}", f"the SAS has no {what} ({name})")
        if fields.keys() & _FOREIGN_FIELDS.get(kind, set()):
            self._add_problem("mixed", "the SAS mixes the fields of different kinds")

    def _read_text(self, name: str, pattern: str) -> str:
        value = self._fields.get(name)
        if value is None or re.fullmatch(pattern, value):
            return value or ""
        self._add_problem("malformed", f"the field {name} of the SAS is malformed")
        return ""

    def _read_time(self, name: str) -> datetime | None:
        time = _parse_time(self._fields.get(name, ""))
        if time is None and name in self._fields:
            self._add_problem("malformed", f"the field {name} of the SAS is not a valid time")
        return time

    def _read_ip_range(self) -> tuple[str, str] | None:
        if "sip" not in self._fields:
            return None
        first, _, last = self._fields["sip"].partition("-")
        try:
            begin, end = ipaddress.IPv4Address(first), ipaddress.IPv4Address(last or first)
        except ValueError:
            self._add_problem("malformed", "the field sip of the SAS is not an IP address or range")
            return None
        if begin > end:
            self._add_problem("malformed", "the field sip of the SAS is an empty range")
        return str(begin), str(end)

    def _add_problem(self, code: str, reason: str) -> None:
        self._problems.append(_refuse(code, reason, _COPY_AGAIN))


def _parse_time(text: str) -> datetime | None:
    """Parse a date, with or without minutes, seconds or fractions. Without a zone it is UTC."""
    try:
        time = datetime.fromisoformat(text) if _TIME.fullmatch(text) else None
        return time and (time if time.tzinfo else time.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def _refuse(code: str, reason: str, fix: str = _MAKE_NEW_SAS) -> UrlFinding:
    return UrlFinding(code, "refuse", reason, fix)


def _warn(code: str, reason: str, fix: str = _MAKE_NEW_SAS) -> UrlFinding:
    return UrlFinding(code, "warn", reason, fix)


def _reveal(url: str | SecretUrl) -> str:
    return url.reveal() if isinstance(url, SecretUrl) else url

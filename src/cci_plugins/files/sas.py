"""What a SAS allows, and whether a URL of a user's may be used."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

from cci_plugins.common.addresses import is_public
from cci_plugins.common.hosts import (
    AmbiguousUrlError,
    UrlParts,
    is_local_name,
    matches_pattern,
    parse_literal_address,
    split_url,
)
from cci_plugins.common.log import logger
from cci_plugins.common.secret_url import SecretUrl
from cci_plugins.errors import FileTransferError

from .sas_token import SasInfo, SasKind, inspect

__all__ = [
    "STORAGE_HOSTS",
    "SasInfo",
    "SasKind",
    "SasPolicy",
    "SecretUrl",
    "UrlFinding",
    "accept",
    "check",
    "inspect",
    "is_public",
]

_CLOUDS = ("core.windows.net", "core.usgovcloudapi.net", "core.chinacloudapi.cn")
# learn.microsoft.com, "Storage account endpoints": one label is the account; accounts in Azure
# DNS zones have a second one, such as z12. Names of private endpoints (*.privatelink.…) are none.
STORAGE_HOSTS = (
    *(f"*.{service}.{cloud}" for cloud in _CLOUDS for service in ("blob", "dfs", "file")),
    *(f"*.*.{service}.storage.azure.net" for service in ("blob", "dfs", "file")),
)
_MAKE_NEW_SAS = "make a new SAS for this one blob"


@dataclass(frozen=True, slots=True)
class UrlFinding:
    """Something about a URL that its user should know.

    Attributes:
        code: A short name of it, such as `expired`.
        severity: `refuse` when the URL must not be used.
        reason: What it is; it names nothing secret.
        mend: What to do about it.
    """

    code: str
    severity: Literal["refuse", "warn"]
    reason: str
    fix: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SasPolicy:
    """Which URLs of a user's are accepted.

    Attributes:
        max_lifetime: A SAS that is valid for longer is warned of.
        clock_skew: How far clocks may be apart.
        permissions_needed: Letters of `sp` that must be there; more are warned of.
        hosts: Names a URL may have: `*` is one whole label, so that `*.example.com` is neither
            `a.b.example.com` nor `xexample.com`; other ports than the scheme's own are written
            behind it (`127.0.0.1:10000`).
        allow_private: Let hosts of this list be private addresses or local names.
        allow_http: Let a URL be `http`.
    """

    max_lifetime: timedelta = timedelta(hours=24)
    clock_skew: timedelta = timedelta(minutes=5)
    permissions_needed: str = "r"
    hosts: tuple[str, ...] = STORAGE_HOSTS
    allow_private: bool = False
    allow_http: bool = False


def accept(
    url: str | SecretUrl, policy: SasPolicy | None = None, *, now: datetime | None = None
) -> SecretUrl:
    """Take a URL of a user's; what there is to warn of is logged, without the query.

    Args:
        url: Any text.
        policy: What is accepted; by default, storage accounts by HTTPS.
        now: The time; by default, this machine's.

    Raises:
        FileTransferError: It is refused; the hint says what to do.
    """
    secret = url if isinstance(url, SecretUrl) else SecretUrl(url)
    findings = check(url, policy or SasPolicy(), now=now or datetime.now(UTC))
    for finding in findings:
        if finding.severity == "refuse":
            raise FileTransferError(f"the URL was refused: {finding.reason}", hint=finding.fix)
    for finding in findings:
        logger.warning("%s: %s; %s", secret, finding.reason, finding.fix)
    return secret


def check(url: str | SecretUrl, policy: SasPolicy, *, now: datetime) -> tuple[UrlFinding, ...]:
    """What is wrong with a URL; what refuses it comes first.

    What is accepted has one reading only: every client connects to the host that was checked.
    What its name resolves to is for the caller to check, with `is_public`.

    Args:
        url: Any text. A URL without SAS is fine.
        policy: What is accepted.
        now: The time.
    """
    text = url.reveal() if isinstance(url, SecretUrl) else url
    try:
        parts = split_url(text)
    except AmbiguousUrlError as error:
        reason = f"the URL is not clear: {error}"
        return (UrlFinding("url", "refuse", reason, "copy the URL once more, percent-encoded"),)
    info = inspect(text)
    findings = [
        *_check_address(parts, policy),
        *(_build_refusal(*problem) for problem in info.problems),
    ]
    if info.kind != "none":
        findings += [
            *_check_times(info, policy, now.astimezone(UTC)),
            *_check_permissions(info, policy),
            *_check_scope(info),
        ]
    return tuple(sorted(findings, key=lambda finding: finding.severity != "refuse"))


def _build_refusal(code: str, reason: str, fix: str = _MAKE_NEW_SAS) -> UrlFinding:
    return UrlFinding(code, "refuse", reason, fix)


def _build_warning(code: str, reason: str, fix: str = _MAKE_NEW_SAS) -> UrlFinding:
    return UrlFinding(code, "warn", reason, fix)


def _check_address(parts: UrlParts, policy: SasPolicy) -> list[UrlFinding]:
    findings: list[UrlFinding] = []
    if parts.scheme != "https" and not (parts.scheme == "http" and policy.allow_http):
        findings.append(_build_refusal("scheme", "it is not an https URL", "use https"))
    named = parse_literal_address(parts.host) is None
    private = is_local_name(parts.host) if named else not is_public(parts.host)
    if private and not policy.allow_private:
        reason = f"{parts.host} is a private address"
        findings.append(_build_refusal("private-address", reason, "use a public URL"))
    if not any(
        matches_pattern(pattern, parts.host, parts.port, scheme=parts.scheme)
        for pattern in policy.hosts
    ):
        findings.append(
            _build_refusal(
                "host",
                f"{parts.host}, port {parts.port}, is not on the list of allowed hosts",
                "use a URL of a storage account, or allow this host",
            )
        )
    return findings


def _check_times(info: SasInfo, policy: SasPolicy, now: datetime) -> list[UrlFinding]:
    start = max(filter(None, (info.starts_at, info.key_starts_at)), default=None)
    end = min(filter(None, (info.expires_at, info.key_expires_at)), default=None)
    if end is not None and end <= now:
        return [_build_refusal("expired", f"the SAS expired at {end:%Y-%m-%d %H:%M:%S} UTC")]
    if start is not None and start > now + policy.clock_skew:
        reason = f"the SAS is not valid before {start:%Y-%m-%d %H:%M:%S} UTC"
        return [_build_refusal("not-yet-valid", reason, "wait, or make one that begins now")]
    if start is not None and end is not None and end <= start:
        return [_build_refusal("never-valid", "the SAS expires before it begins")]
    if info.expires_at is None and info.policy_id:
        return [
            _build_warning(
                "hidden-expiry", "its expiry is in a stored access policy and not visible"
            )
        ]
    if end is not None and end - (start or now) > policy.max_lifetime + policy.clock_skew:
        return [_build_warning("lifetime", f"the SAS is valid for more than {policy.max_lifetime}")]
    return []


def _check_permissions(info: SasInfo, policy: SasPolicy) -> list[UrlFinding]:
    needed, granted = set(policy.permissions_needed), set(info.permissions)
    if not granted and info.policy_id:
        reason = "its permissions are in a stored access policy and not visible"
        return [_build_warning("hidden-permissions", reason)]
    findings: list[UrlFinding] = []
    if missing := needed - granted:
        reason = f"the SAS lacks the permission {_join_letters(missing)}"
        findings.append(
            _build_refusal("permission", reason, f"make one with sp={_join_letters(needed)}")
        )
    if extra := granted - needed:
        reason = f"the SAS has more permissions than are needed: {_join_letters(extra)}"
        findings.append(
            _build_warning("more-permissions", reason, f"make one with sp={_join_letters(needed)}")
        )
    if info.kind == "account" and not ("o" in info.resource_types and info.services):
        findings.append(
            _build_refusal("permission", "the account SAS does not open objects (srt=o)")
        )
    return findings


def _check_scope(info: SasInfo) -> list[UrlFinding]:
    findings: list[UrlFinding] = []
    if info.kind == "account":
        findings.append(_build_warning("account-wide", "the SAS opens the whole storage account"))
    if info.resource in {"c", "s", "d"}:
        findings.append(_build_warning("container-wide", "the SAS opens more than one file"))
    if info.ip_range is not None:
        reason = "the SAS is bound to an IP range, which a session's address may not be in"
        findings.append(_build_warning("ip-range", reason, "if it fails, make one without sip"))
    return findings


def _join_letters(permissions: set[str]) -> str:
    return "".join(sorted(permissions))

"""What a shared access signature says of itself."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Literal
from urllib.parse import unquote

from cci_plugins.common.hosts import AmbiguousUrlError, UrlParts, split_url
from cci_plugins.common.secret_url import SecretUrl

SasKind = Literal["service", "account", "user_delegation", "stored_policy", "none"]

_RESOURCES = frozenset({"b", "bv", "bs", "c", "d", "f", "s"})
_PERMISSIONS = re.compile("[a-z]{1,20}")
_VERSION = re.compile(r"\d{4}-\d\d-\d\d")
_TIME = re.compile(
    r"(\d{4}-\d\d-\d\d)(?:T(\d\d:\d\d)(?::(\d\d)(?:\.(\d{1,7}))?)?(Z|[+-]\d\d:\d\d)?)?"
)
_FIX = "copy the whole URL once more, or make a new SAS"

Problem = tuple[str, str, str]  # code, reason, mend


@dataclass(frozen=True, slots=True, kw_only=True)
class SasInfo:
    """A SAS, taken apart; the signature is not in it.

    Attributes:
        kind: `none` when the URL has no signature.
        permissions: Letters (`sp`); empty when a stored policy has them.
        starts_at: From when it is valid (`st`), or None for at once.
        expires_at: Until when (`se`), or None when a stored policy says so.
        key_starts_at: From when the user delegation key is valid (`skt`).
        key_expires_at: Until when (`ske`); the SAS is not valid for longer.
        protocol: `https`, or `https,http` (`spr`).
        ip_range: First and last address that may use it (`sip`).
        resource: `b` blob, `c` container, `d` directory, `f` file, `s` share, `bv` version,
            `bs` snapshot (`sr`).
        services: Letters of an account SAS: `b`lob, `q`ueue, `t`able, `f`ile (`ss`).
        resource_types: Letters of an account SAS: `s`ervice, `c`ontainer, `o`bject (`srt`).
        policy_id: Name of the stored access policy (`si`).
        version: Of the storage service (`sv`).
        host: The URL's.
        container: First part of the path; for emulators, which have the account there, that.
        blob: The rest of the path, decoded.
        problems: What cannot be right: code, reason and mend of each.
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
    problems: tuple[Problem, ...] = ()


def inspect(url: str | SecretUrl) -> SasInfo:
    """Take the SAS of a URL apart; what is wrong with it is in `problems`, nothing is raised.

    The fields are those of learn.microsoft.com/rest/api/storageservices: create-service-sas,
    create-account-sas and create-user-delegation-sas.
    """
    text = url.reveal() if isinstance(url, SecretUrl) else url
    try:
        parts = split_url(text)
    except AmbiguousUrlError as error:
        return SasInfo(problems=(("url", f"the URL is not clear: {error}", _FIX),))
    return _SasReader(parts).read()


class _SasReader:
    """Reads one query, and notes what is wrong."""

    def __init__(self, parts: UrlParts) -> None:
        self._parts = parts
        self._problems: list[Problem] = []
        self._fields: dict[str, str] = {}
        self._has_duplicates = False
        for pair in parts.query.split("&") if parts.query else ():
            name, _, value = pair.partition("=")
            self._add_field(unquote(name).lower(), unquote(value))

    def read(self) -> SasInfo:
        container, _, blob = self._parts.path.removeprefix("/").partition("/")
        kind = self._detect_kind()
        info = SasInfo(
            kind=kind,
            permissions=self._read_field("sp", _PERMISSIONS),
            starts_at=self._read_time("st"),
            expires_at=self._read_time("se"),
            key_starts_at=self._read_time("skt"),
            key_expires_at=self._read_time("ske"),
            protocol=self._read_field("spr", re.compile("https|https,http|http,https")),
            ip_range=self._read_ip_range(),
            resource=self._read_field("sr", re.compile("|".join(_RESOURCES))),
            services=self._read_field("ss", re.compile("[bqtf]{1,4}")),
            resource_types=self._read_field("srt", re.compile("[sco]{1,3}")),
            policy_id=self._fields.get("si", ""),
            version=self._read_field("sv", _VERSION),
            host=self._parts.host,
            container=unquote(container),
            blob=unquote(blob),
        )
        self._check_fields(info)
        return replace(info, problems=tuple(self._problems))

    def _add_field(self, name: str, value: str) -> None:
        if name in self._fields:
            self._has_duplicates = True
        self._fields.setdefault(name, value)

    def _detect_kind(self) -> SasKind:
        if "sig" not in self._fields:
            return "none"
        if self._fields.keys() & {"skoid", "sktid", "ske", "sks"}:
            return "user_delegation"
        if self._fields.keys() & {"ss", "srt"}:
            return "account"
        return "stored_policy" if "si" in self._fields else "service"

    def _check_fields(self, info: SasInfo) -> None:
        fields = self._fields
        if info.kind == "none":
            if fields.keys() & {"se", "sp"} and "sv" in fields:
                self._add_problem("no-signature", "the SAS has no signature (sig)")
            return
        if self._has_duplicates:
            self._add_problem("duplicate", "the SAS has one of its fields more than once")
        if not fields["sig"]:
            self._add_problem("no-signature", "the signature of the SAS (sig) is empty")
        if info.kind != "stored_policy":
            for name, what in (("se", "expiry"), ("sp", "permissions")):
                if name not in fields:
                    self._add_problem(f"no-{what}", f"the SAS has no {what} ({name})")
        mixed = {"account": {"sr", "si", "skoid"}, "user_delegation": {"ss", "srt", "si"}}
        if fields.keys() & mixed.get(info.kind, set()):
            self._add_problem("mixed", "the SAS mixes the fields of different kinds")

    def _read_field(self, name: str, pattern: re.Pattern[str]) -> str:
        value = self._fields.get(name, "")
        if name in self._fields and not pattern.fullmatch(value):
            self._add_problem("malformed", f"{name} of the SAS is malformed")
            return ""
        return value

    def _read_time(self, name: str) -> datetime | None:
        if name not in self._fields:
            return None
        time = parse_time(self._fields[name])
        if time is None:
            self._add_problem("malformed", f"{name} of the SAS is no time")
        return time

    def _read_ip_range(self) -> tuple[str, str] | None:
        if "sip" not in self._fields:
            return None
        first, _, last = self._fields["sip"].partition("-")
        try:
            begin, end = ipaddress.IPv4Address(first), ipaddress.IPv4Address(last or first)
        except ValueError:
            self._add_problem("malformed", "sip of the SAS is no IP address or range")
            return None
        if begin > end:
            self._add_problem("malformed", "sip of the SAS is an empty range")
        return str(begin), str(end)

    def _add_problem(self, code: str, reason: str) -> None:
        self._problems.append((code, reason, _FIX))


def parse_time(text: str) -> datetime | None:
    """A time as a SAS has it, in UTC: a date, with minutes, seconds or fractions; or None."""
    match = _TIME.fullmatch(text)
    if match is None:
        return None
    day, minute, second, fraction, zone = match.groups()
    offset = "+00:00" if zone in {None, "Z"} else zone
    fraction = (fraction or "0")[:6].ljust(6, "0")
    try:
        clock = f"{minute or '00:00'}:{second or '00'}.{fraction}{offset}"
        return datetime.fromisoformat(f"{day}T{clock}").astimezone(UTC)
    except (ValueError, OverflowError):
        return None

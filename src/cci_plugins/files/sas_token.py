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
_MEND = "copy the whole URL once more, or make a new SAS"

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
        return SasInfo(problems=(("url", f"the URL is not clear: {error}", _MEND),))
    return _Reader(parts).read()


class _Reader:
    """Reads one query, and notes what is wrong."""

    def __init__(self, parts: UrlParts) -> None:
        self._parts = parts
        self._problems: list[Problem] = []
        self._fields: dict[str, str] = {}
        self._repeated = False
        for pair in parts.query.split("&") if parts.query else ():
            name, _, value = pair.partition("=")
            self._add(unquote(name).lower(), unquote(value))

    def read(self) -> SasInfo:
        container, _, blob = self._parts.path.removeprefix("/").partition("/")
        kind = self._kind()
        info = SasInfo(
            kind=kind,
            permissions=self._get("sp", _PERMISSIONS),
            starts_at=self._time("st"),
            expires_at=self._time("se"),
            key_starts_at=self._time("skt"),
            key_expires_at=self._time("ske"),
            protocol=self._get("spr", re.compile("https|https,http|http,https")),
            ip_range=self._range(),
            resource=self._get("sr", re.compile("|".join(_RESOURCES))),
            services=self._get("ss", re.compile("[bqtf]{1,4}")),
            resource_types=self._get("srt", re.compile("[sco]{1,3}")),
            policy_id=self._fields.get("si", ""),
            version=self._get("sv", _VERSION),
            host=self._parts.host,
            container=unquote(container),
            blob=unquote(blob),
        )
        self._look_for_gaps(info)
        return replace(info, problems=tuple(self._problems))

    def _add(self, name: str, value: str) -> None:
        if name in self._fields:
            self._repeated = True
        self._fields.setdefault(name, value)

    def _kind(self) -> SasKind:
        if "sig" not in self._fields:
            return "none"
        if self._fields.keys() & {"skoid", "sktid", "ske", "sks"}:
            return "user_delegation"
        if self._fields.keys() & {"ss", "srt"}:
            return "account"
        return "stored_policy" if "si" in self._fields else "service"

    def _look_for_gaps(self, info: SasInfo) -> None:
        fields = self._fields
        if info.kind == "none":
            if fields.keys() & {"se", "sp"} and "sv" in fields:
                self._note("no-signature", "the SAS has no signature (sig)")
            return
        if self._repeated:
            self._note("duplicate", "the SAS has one of its fields more than once")
        if not fields["sig"]:
            self._note("no-signature", "the signature of the SAS (sig) is empty")
        if info.kind != "stored_policy":
            for name, what in (("se", "expiry"), ("sp", "permissions")):
                if name not in fields:
                    self._note(f"no-{what}", f"the SAS has no {what} ({name})")
        mixed = {"account": {"sr", "si", "skoid"}, "user_delegation": {"ss", "srt", "si"}}
        if fields.keys() & mixed.get(info.kind, set()):
            self._note("mixed", "the SAS mixes the fields of different kinds")

    def _get(self, name: str, pattern: re.Pattern[str]) -> str:
        value = self._fields.get(name, "")
        if name in self._fields and not pattern.fullmatch(value):
            self._note("malformed", f"{name} of the SAS is malformed")
            return ""
        return value

    def _time(self, name: str) -> datetime | None:
        if name not in self._fields:
            return None
        time = parse_time(self._fields[name])
        if time is None:
            self._note("malformed", f"{name} of the SAS is no time")
        return time

    def _range(self) -> tuple[str, str] | None:
        if "sip" not in self._fields:
            return None
        first, _, last = self._fields["sip"].partition("-")
        try:
            begin, end = ipaddress.IPv4Address(first), ipaddress.IPv4Address(last or first)
        except ValueError:
            self._note("malformed", "sip of the SAS is no IP address or range")
            return None
        if begin > end:
            self._note("malformed", "sip of the SAS is an empty range")
        return str(begin), str(end)

    def _note(self, code: str, reason: str) -> None:
        self._problems.append((code, reason, _MEND))


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

"""Which hosts a fenced session may reach."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit

from cci_plugins.errors import ConfigurationError
from cci_plugins.files.hosts import is_public

WEB = frozenset({80, 443})
ANY_PORT = frozenset(range(1, 65536))

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Egress = Literal["none", "all"] | Sequence[str]
"""Which hosts a session may reach: none, all public ones, or names such as `pypi.org`,
`*.blob.core.windows.net` and `127.0.0.1:10000`."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One host that is let through.

    Attributes:
        host: A name, an address, or `*.` and a name for all below it.
        ports: Ports that may be asked for.
    """

    host: str
    ports: frozenset[int] = WEB

    def fits(self, host: str, port: int) -> bool:
        """Whether this rule speaks of a host and port."""
        below = self.host.startswith("*.") and host.endswith(self.host[1:])
        return port in self.ports and (host == self.host or below or self.host == "*")

    @property
    def exact(self) -> bool:
        """One host is meant, so that its address may be private."""
        return not self.host.startswith("*")


def rules_of(egress: Egress) -> tuple[Rule, ...]:
    """The rules that a setting means.

    Raises:
        ConfigurationError: A host cannot be read.
    """
    if isinstance(egress, str):
        if egress not in {"none", "all"}:
            return (_rule(egress),)
        return (Rule("*", ANY_PORT),) if egress == "all" else ()
    return tuple(_rule(host) for host in egress)


def describe_egress(egress: Egress) -> str:
    """The way out in words, to be put behind those of a fence; empty when there is none."""
    if isinstance(egress, str):
        return "" if egress == "none" else f"; egress by proxy to {egress}"
    return f"; egress by proxy to {', '.join(egress)}" if egress else ""


def _rule(text: str) -> Rule:
    parts = urlsplit(f"//{text.strip()}")
    try:
        host, port = (parts.hostname or "").rstrip(".").encode("idna").decode(), parts.port
    except ValueError:
        host, port = "", None
    if not host or "*" in host.removeprefix("*.") or parts.path or parts.username is not None:
        raise ConfigurationError(
            f"{text!r} is no host that sessions could be let through to",
            hint="name hosts such as pypi.org, *.blob.core.windows.net or 127.0.0.1:10000",
        )
    return Rule(host, WEB if port is None else frozenset({port}))


def reachable(address: Address, *, private: bool) -> bool:
    """Whether a session may be connected to an address at all; metadata services never."""
    mapped = getattr(address, "ipv4_mapped", None)
    if mapped is not None:
        return reachable(mapped, private=private)
    if address.is_link_local or address.is_multicast or address.is_unspecified:
        return False
    return private or is_public(str(address))

"""Egress rules: the hosts that a sandboxed session may reach."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit

from cci_plugins.common.addresses import is_metadata, is_public, parse_address
from cci_plugins.errors import ConfigurationError, IsolationError

WEB_PORTS = frozenset({80, 443})
ANY_PORT = frozenset(range(1, 65536))

Egress = Literal["none", "all"] | Sequence[str]
"""Hosts that a session may reach: none, all public ones, or names such as `pypi.org`,
`*.blob.core.windows.net` and `127.0.0.1:10000`."""


@dataclass(frozen=True, slots=True)
class EgressRule:
    """One allowed host.

    Attributes:
        host: A name, an address, or `*.` and a name for all its subdomains.
        ports: The allowed ports.
    """

    host: str
    ports: frozenset[int] = WEB_PORTS

    def matches(self, host: str, port: int) -> bool:
        """Return whether this rule allows a host and port."""
        is_subdomain = self.host.startswith("*.") and host.endswith(self.host[1:])
        return port in self.ports and (host == self.host or is_subdomain or self.host == "*")

    @property
    def is_exact(self) -> bool:
        """True if the rule names one host. Only then may its address be private."""
        return not self.host.startswith("*")

    @property
    def is_loopback(self) -> bool:
        """True if the rule names this machine itself. Only then may its address be loopback.

        A name with a dot is somebody's name in DNS, which can lead to `127.0.0.1`. One without a
        dot is a name in this machine's own hosts file.
        """
        address = parse_address(self.host)
        if address is not None:
            return address.is_loopback
        return self.is_exact and ("." not in self.host or self.host.endswith(".localhost"))


def parse_egress_rules(egress: Egress) -> tuple[EgressRule, ...]:
    """Return the rules of a setting.

    Raises:
        ConfigurationError: A host is invalid.
    """
    if isinstance(egress, str):
        if egress not in {"none", "all"}:
            return (_parse_rule(egress),)
        return (EgressRule("*", ANY_PORT),) if egress == "all" else ()
    return tuple(_parse_rule(host) for host in egress)


def describe_egress(egress: Egress) -> str:
    """Return a suffix for the description of a sandbox. It is empty without egress."""
    if isinstance(egress, str):
        return "" if egress == "none" else f"; egress by proxy to {egress}"
    return f"; egress by proxy to {', '.join(egress)}" if egress else ""


def _parse_rule(text: str) -> EgressRule:
    try:
        parts = urlsplit(f"//{text.strip()}")
        host, port = (parts.hostname or "").rstrip(".").encode("idna").decode(), parts.port
        is_plain = not (parts.path or parts.query or parts.fragment or "@" in parts.netloc)
    except ValueError:
        host, port, is_plain = "", None, False
    if not is_plain or not host or "*" in host.removeprefix("*."):
        raise ConfigurationError(
            f"{text!r} is not a valid egress host",
            hint="use hosts such as pypi.org, *.blob.core.windows.net or 127.0.0.1:10000",
        )
    return EgressRule(host, WEB_PORTS if port is None else frozenset({port}))


def is_address_allowed(address: str, *, private: bool, loopback: bool = True) -> bool:
    """Return whether a session may connect to an address.

    Metadata services are never allowed.

    Args:
        address: An IP address.
        private: Whether private addresses are allowed.
        loopback: Whether addresses of this machine itself are among them.
    """
    parsed = parse_address(address)
    if parsed is None or is_metadata(parsed) or parsed.is_multicast or parsed.is_unspecified:
        return False
    if parsed.is_loopback and not loopback:
        return False
    return private or is_public(address)


def check_egress(egress: Egress, isolation: str) -> bool:
    """Return whether sessions reach any host.

    Args:
        egress: The hosts that they may reach.
        isolation: Name of the isolation backend.

    Raises:
        IsolationError: The isolation backend cannot enforce the egress rules.
    """
    rules = parse_egress_rules(egress)
    if isolation == "process" and (not rules or egress == "all"):
        return True
    if rules and isolation != "bwrap":
        raise IsolationError(
            f"the isolation backend {isolation} cannot limit egress to hosts",
            hint="install bubblewrap, or unset CCI_EGRESS",
        )
    return bool(rules)

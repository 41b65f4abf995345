"""Which hosts a fenced session may reach."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit

from cci_plugins.common.addresses import is_metadata, is_public, parse_address
from cci_plugins.errors import ConfigurationError

WEB_PORTS = frozenset({80, 443})
ANY_PORT = frozenset(range(1, 65536))

Egress = Literal["none", "all"] | Sequence[str]
"""Which hosts a session may reach: none, all public ones, or names such as `pypi.org`,
`*.blob.core.windows.net` and `127.0.0.1:10000`."""


@dataclass(frozen=True, slots=True)
class EgressRule:
    """One host that is let through.

    Attributes:
        host: A name, an address, or `*.` and a name for all below it.
        ports: Ports that may be asked for.
    """

    host: str
    ports: frozenset[int] = WEB_PORTS

    def matches(self, host: str, port: int) -> bool:
        """Whether this rule speaks of a host and port."""
        is_subdomain = self.host.startswith("*.") and host.endswith(self.host[1:])
        return port in self.ports and (host == self.host or is_subdomain or self.host == "*")

    @property
    def is_exact(self) -> bool:
        """One host is meant, so that its address may be private."""
        return not self.host.startswith("*")


def parse_egress_rules(egress: Egress) -> tuple[EgressRule, ...]:
    """The rules that a setting means.

    Raises:
        ConfigurationError: A host cannot be read.
    """
    if isinstance(egress, str):
        if egress not in {"none", "all"}:
            return (_parse_rule(egress),)
        return (EgressRule("*", ANY_PORT),) if egress == "all" else ()
    return tuple(_parse_rule(host) for host in egress)


def describe_egress(egress: Egress) -> str:
    """The way out in words, to be put behind those of a fence; empty when there is none."""
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
            f"{text!r} is no host that sessions could be let through to",
            hint="name hosts such as pypi.org, *.blob.core.windows.net or 127.0.0.1:10000",
        )
    return EgressRule(host, WEB_PORTS if port is None else frozenset({port}))


def is_address_allowed(address: str, *, private: bool) -> bool:
    """Whether a session may be connected to an address at all; metadata services never."""
    found = parse_address(address)
    if found is None or is_metadata(found) or found.is_multicast or found.is_unspecified:
        return False
    return private or is_public(address)

"""Options of a deployment."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, Self

from cci_plugins.common.durations import convert_durations
from cci_plugins.errors import ConfigurationError

Kind = Literal["python", "custom"]
PrincipalType = Literal["User", "Group", "ServicePrincipal"]

_RULES = {
    "subscription": (re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"), "a GUID"),
    "resource_group": (re.compile(r"[-\w.()]{0,89}[-\w()]"), "at most 90 of A-Z a-z 0-9 - _ . ( )"),
    "location": (re.compile(r"[a-z0-9]{3,40}"), "the short name of a region, such as eastus"),
    "name": (re.compile(r"[a-z][a-z0-9]{1,11}"), "2 to 12 lower-case letters and digits"),
    "suffix": (re.compile(r"[a-z0-9]{3,8}"), "3 to 8 lower-case letters and digits"),
    "principal_id": (re.compile(r"|[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"), "a GUID"),
}
# Options that may be left out. An existing deployment then keeps what it has.
_LEFT_OUT: Any = None
_DEFAULTS: Mapping[str, Any] = {
    "kind": "python",
    "location": "eastus",
    "storage": True,
    "gateway": False,
    "max_sessions": 10,
    "ready_sessions": 1,
    "cooldown": timedelta(minutes=10),
    "egress": False,
    "tags": MappingProxyType({}),
}
_COOLDOWN = (timedelta(minutes=5), timedelta(hours=1))  # what Azure accepts
_MAX_SESSIONS = 600
_MICROSOFT_IMAGES = "mcr.microsoft.com/k8se/"


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What to provision.

    Attributes:
        subscription: Id of the subscription.
        resource_group: Name of the resource group. It is created if it is missing.
        kind: `python`, a managed pool with the platform's MCP server, or `custom`, a pool of
            containers with your own packages.
        location: Region, by its short name.
        name: First part of every resource's name, and value of the tag `cci-plugins`.
        suffix: Last part of every resource's name. By default six digits derived from the
            group's id.
        storage: Whether to create a storage account for file transfers by link.
        gateway: Whether to create an MCP endpoint in front of a custom pool.
        requirements: Packages of a custom pool's sessions, as a `requirements.txt`. The package's
            own list when None.
        image: An image for a custom pool's sessions. One is built when None.
        max_sessions: Most sessions at once.
        ready_sessions: Sessions that a custom pool keeps ready. They are billed.
        cooldown: A session ends after this time without use, 5 minutes to an hour.
        egress: Whether code in the sessions may reach the internet.
        tags: Tags of every resource.
        principal_id: Object id of who may use the pool and the storage. The one who is signed in
            when empty.
        principal_type: Type of the principal. It is detected when None.
        given: Names of the options above that were passed. `up` takes the others from an existing
            deployment, and uses their defaults only for a new one.

    Raises:
        ConfigurationError: Azure would not accept one of them.
    """

    subscription: str
    resource_group: str
    kind: Kind = _LEFT_OUT
    location: str = _LEFT_OUT
    name: str = "cci"
    suffix: str = ""
    storage: bool = _LEFT_OUT
    gateway: bool = _LEFT_OUT
    requirements: Path | None = None
    image: str | None = None
    max_sessions: int = _LEFT_OUT
    ready_sessions: int = _LEFT_OUT
    cooldown: timedelta = _LEFT_OUT
    egress: bool = _LEFT_OUT
    tags: Mapping[str, str] = _LEFT_OUT
    principal_id: str = ""
    principal_type: PrincipalType | None = None
    given: frozenset[str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        given = {name for name in _DEFAULTS if getattr(self, name) is not None}
        object.__setattr__(self, "given", frozenset(given))
        for name, value in _DEFAULTS.items():
            if name not in given:
                object.__setattr__(self, name, value)
        convert_durations(self, "cooldown")
        object.__setattr__(self, "location", self.location.replace(" ", "").lower())
        if not self.suffix:
            digest = hashlib.sha256(self.group_id.lower().encode()).hexdigest()
            object.__setattr__(self, "suffix", digest[:6])
        for name, (rule, description) in _RULES.items():
            value = getattr(self, name)
            if not rule.fullmatch(value):
                raise ConfigurationError(
                    f"{name} {value!r} is invalid: it must be {description}",
                    hint=f"correct {_format_flag(name)}",
                )
        self._check_numbers()
        self._check_kind()
        self._check_gateway()

    def _check_numbers(self) -> None:
        if not _COOLDOWN[0] <= self.cooldown <= _COOLDOWN[1]:
            seconds = f"{self.cooldown.total_seconds():g}"
            raise ConfigurationError(
                f"the cooldown must be 300 to 3600 seconds, not {seconds}",
                hint="correct --cooldown",
            )
        if not 1 <= self.max_sessions <= _MAX_SESSIONS:
            raise ConfigurationError(
                f"a pool has 1 to {_MAX_SESSIONS} sessions, not {self.max_sessions}",
                hint="correct --max-sessions",
            )
        if self.kind == "custom" and not 0 < self.ready_sessions < self.max_sessions:
            raise ConfigurationError(
                f"a custom pool must keep 1 to {self.max_sessions - 1} sessions ready, "
                f"not {self.ready_sessions}",
                hint="correct --ready-sessions or --max-sessions",
            )

    def _check_kind(self) -> None:
        for name, given in (
            ("gateway", self.gateway),
            ("requirements", self.requirements is not None),
            ("image", self.image is not None),
        ):
            if given and self.kind != "custom":
                raise ConfigurationError(
                    f"--{name} applies only to a custom pool", hint="add --kind custom"
                )
        if self.image is not None and self.requirements is not None:
            raise ConfigurationError(
                "--requirements has no effect with --image, because no image is built",
                hint="remove --image or --requirements",
            )

    def with_values(self, **values: Any) -> Self:
        """Return a copy with other values, for which `given` stays as it is.

        Args:
            **values: The other values by name.
        """
        other = replace(self, **values)
        object.__setattr__(other, "given", self.given)
        return other

    def _check_gateway(self) -> None:
        if self.gateway and (self.image or "").lower().startswith(_MICROSOFT_IMAGES):
            raise ConfigurationError(
                f"the gateway cannot run in Microsoft's image {self.image!r}: its program is part "
                "of this package's image",
                hint="remove --gateway, or replace --image by --requirements FILE",
            )

    @property
    def subscription_id(self) -> str:
        """The subscription's resource id."""
        return f"/subscriptions/{self.subscription}"

    @property
    def group_id(self) -> str:
        """The resource group's resource id."""
        return f"{self.subscription_id}/resourceGroups/{self.resource_group}"

    @property
    def builds_image(self) -> bool:
        """Whether an image is to be built."""
        return self.kind == "custom" and self.image is None


def _format_flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"

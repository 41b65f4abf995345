"""What to provision, and how Azure is reached."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Literal

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
_COOLDOWN = (timedelta(minutes=5), timedelta(hours=1))  # what Azure takes
_MAX_SESSIONS = 600


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What to provision.

    Attributes:
        subscription: Id of the subscription.
        resource_group: Name of the resource group; made when it is not there.
        kind: `python`, a managed pool with the platform's MCP server; or `custom`, a pool of
            containers with your own packages.
        location: Region, by its short name.
        name: Begins every resource's name, and is the value of the tag `cci-plugins`.
        suffix: Ends every resource's name; by default six digits made from the group's id.
        storage: Whether to make a storage account for files that cross by link.
        gateway: Whether to make an MCP endpoint in front of a custom pool.
        requirements: Packages of a custom pool's sessions, as a `requirements.txt`; the package's
            own list when None.
        image: An image to run in a custom pool's sessions; one is built when None.
        max_sessions: Most sessions at once.
        ready_sessions: Sessions a custom pool keeps ready; they are billed.
        cooldown: A session unused for so long is ended, 5 minutes to an hour.
        egress: Whether code in the sessions may reach the internet.
        tags: Put on every resource.
        principal_id: Object id of who may use the pool and the storage; who is signed in when
            empty.
        principal_type: What that is; found out when None.

    Raises:
        ConfigurationError: Azure would not take one of them.
    """

    subscription: str
    resource_group: str
    kind: Kind = "python"
    location: str = "eastus"
    name: str = "cci"
    suffix: str = ""
    storage: bool = True
    gateway: bool = False
    requirements: Path | None = None
    image: str | None = None
    max_sessions: int = 10
    ready_sessions: int = 1
    cooldown: timedelta = timedelta(minutes=10)
    egress: bool = False
    tags: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    principal_id: str = ""
    principal_type: PrincipalType | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "location", self.location.replace(" ", "").lower())
        if not self.suffix:
            digest = hashlib.sha256(self.group_id.lower().encode()).hexdigest()
            object.__setattr__(self, "suffix", digest[:6])
        for name, (rule, description) in _RULES.items():
            if not rule.fullmatch(getattr(self, name)):
                raise ConfigurationError(
                    f"{name} is not valid: it must be {description}",
                    hint=f"correct {_format_flag(name)}",
                )
        self._check_numbers()
        self._check_kind()

    def _check_numbers(self) -> None:
        if not _COOLDOWN[0] <= self.cooldown <= _COOLDOWN[1]:
            raise ConfigurationError(
                "the cooldown must be 300 to 3600 seconds", hint="correct --cooldown"
            )
        if not 1 <= self.max_sessions <= _MAX_SESSIONS:
            raise ConfigurationError(
                f"a pool has 1 to {_MAX_SESSIONS} sessions", hint="correct --max-sessions"
            )
        if self.kind == "custom" and not 0 < self.ready_sessions < self.max_sessions:
            raise ConfigurationError(
                "a custom pool keeps at least one session ready, and fewer than its most",
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
                    f"--{name} is about a custom pool", hint="add --kind custom"
                )
        if self.image is not None and self.requirements is not None:
            raise ConfigurationError(
                "an image that is given is not built, so --requirements says nothing",
                hint="drop --image or --requirements",
            )

    @property
    def subscription_id(self) -> str:
        """The subscription, as Resource Manager names it."""
        return f"/subscriptions/{self.subscription}"

    @property
    def group_id(self) -> str:
        """The resource group, as Resource Manager names it."""
        return f"{self.subscription_id}/resourceGroups/{self.resource_group}"

    @property
    def builds_image(self) -> bool:
        """Whether an image is to be built."""
        return self.kind == "custom" and self.image is None


def _format_flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"

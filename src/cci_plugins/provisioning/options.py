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

from cci_plugins.azure.foundry_defaults import DEFAULT_CAPACITY, DEFAULT_MODEL, DEFAULT_SKU
from cci_plugins.common.durations import convert_durations
from cci_plugins.errors import ConfigurationError
from cci_plugins.redaction import know

from . import compute

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
    "checkpoint_days": 30,
    "gateway": False,
    "max_sessions": 10,
    "ready_sessions": 1,
    "cooldown": timedelta(minutes=10),
    "egress": False,
    "cpu": 1.0,
    "memory": "2Gi",
    "env": MappingProxyType({}),
    "secrets": MappingProxyType({}),
    "logs": False,
    "gateway_cpu": 0.5,
    "gateway_memory": "1Gi",
    "gateway_replicas": 3,
    "gateway_requests_per_minute": 6_000,
    "gateway_runs_per_minute": 600,
    "foundry": False,
    "model": DEFAULT_MODEL,
    "model_version": "",
    "model_sku": DEFAULT_SKU,
    "model_capacity": DEFAULT_CAPACITY,
    "tags": MappingProxyType({}),
}
_CUSTOM_ONLY = (
    "gateway",
    "requirements",
    "image",
    "base",
    "registry_identity",
    "cpu",
    "memory",
    "env",
    "secrets",
    "environment",
    "subnet",
    "logs",
)
_MODEL = re.compile(r"[A-Za-z0-9][\w.-]{1,63}")
_COOLDOWN = (timedelta(minutes=5), timedelta(hours=1))  # what Azure accepts
_MAX_SESSIONS = 600
_MAX_CHECKPOINT_DAYS = 36_500
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
        checkpoint_days: Days after which the storage deletes a saved session.
        gateway: Whether to create an MCP endpoint in front of a custom pool.
        requirements: Packages of a custom pool's sessions, as a `requirements.txt`. The package's
            own list when None.
        image: An image for a custom pool's sessions. One is built when None.
        base: Base image of the image that is built. The Dockerfile's own when None.
        registry_identity: Resource id of an identity that may pull `image` from its private
            registry. The pool's own registry needs none.
        cpu: CPUs of the container of a custom pool's session.
        memory: Its memory, such as `2Gi`.
        env: Variables for the code in a custom pool's sessions, by name.
        secrets: Values of variables that Azure stores as secrets, by the variables' names. The
            code can read them. None stands for a value that the pool already has.
        environment: Resource id of an existing Container Apps environment for a custom pool. One
            is created when None.
        subnet: Resource id of a subnet for the environment that is created.
        logs: Whether to send the logs of the environment that is created to a workspace.
        gateway_cpu: CPUs of the gateway.
        gateway_memory: Its memory, twice as many GiB as CPUs.
        gateway_replicas: Most replicas of the gateway. One always runs.
        gateway_requests_per_minute: Most requests of all its clients in a minute, for each replica.
        gateway_runs_per_minute: Most runs of one environment in a minute, for each replica.
        foundry: Whether to create a Foundry account with a project and a model, and to connect
            the project to the pool. A custom pool gets a gateway for it.
        foundry_account: Resource id of an existing Foundry account to use instead.
        foundry_project: Resource id of an existing Foundry project to use instead.
        model: Name of the project's model, and of its deployment.
        model_version: Version of the model. The region's default when empty.
        model_sku: Kind of its deployment, such as `GlobalStandard`.
        model_capacity: Most tokens a minute of the model, in thousands.
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
    checkpoint_days: int = _LEFT_OUT
    gateway: bool = _LEFT_OUT
    requirements: Path | None = None
    image: str | None = None
    base: str | None = None
    registry_identity: str | None = None
    cpu: float = _LEFT_OUT
    memory: str = _LEFT_OUT
    env: Mapping[str, str] = _LEFT_OUT
    secrets: Mapping[str, str | None] = field(default=_LEFT_OUT, repr=False)
    environment: str | None = None
    subnet: str | None = None
    logs: bool = _LEFT_OUT
    gateway_cpu: float = _LEFT_OUT
    gateway_memory: str = _LEFT_OUT
    gateway_replicas: int = _LEFT_OUT
    gateway_requests_per_minute: int = _LEFT_OUT
    gateway_runs_per_minute: int = _LEFT_OUT
    foundry: bool = _LEFT_OUT
    foundry_account: str | None = None
    foundry_project: str | None = None
    model: str = _LEFT_OUT
    model_version: str = _LEFT_OUT
    model_sku: str = _LEFT_OUT
    model_capacity: int = _LEFT_OUT
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
        self._check_foundry()
        self._check_kind()
        self._check_compute()
        self._check_gateway()

    def _check_numbers(self) -> None:
        if not _COOLDOWN[0] <= self.cooldown <= _COOLDOWN[1]:
            seconds = f"{self.cooldown.total_seconds():g}"
            raise ConfigurationError(
                f"the cooldown must be 300 to 3600 seconds, not {seconds}",
                hint="correct --cooldown",
            )
        if not 1 <= self.checkpoint_days <= _MAX_CHECKPOINT_DAYS:
            raise ConfigurationError(
                f"checkpoints are kept for 1 to {_MAX_CHECKPOINT_DAYS} days, "
                f"not {self.checkpoint_days}",
                hint="correct --checkpoint-days",
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
        for name in _CUSTOM_ONLY:
            if self.kind != "custom" and getattr(self, name) != _DEFAULTS.get(name):
                raise ConfigurationError(
                    f"{_format_flag(name)} applies only to a custom pool", hint="add --kind custom"
                )
        for name in ("requirements", "base"):
            if self.image is not None and getattr(self, name) is not None:
                raise ConfigurationError(
                    f"--{name} has no effect with --image, because no image is built",
                    hint=f"remove --image or --{name}",
                )
        if self.registry_identity is not None and self.image is None:
            raise ConfigurationError(
                "--registry-identity has no effect without --image: the image that is built is "
                "pulled by an identity that is created",
                hint="add --image, or remove --registry-identity",
            )
        for name in ("subnet", "logs"):
            if self.environment is not None and getattr(self, name):
                raise ConfigurationError(
                    f"--{name} has no effect with --environment, which is not changed",
                    hint=f"remove --{name}, and set it up on that environment",
                )

    def _check_compute(self) -> None:
        for name in ("memory", "gateway_memory"):
            memory = compute.normalize_memory(getattr(self, name), _format_flag(name))
            object.__setattr__(self, name, memory)
        if not self.cpu > 0:
            raise ConfigurationError(
                f"a session needs more than {self.cpu:g} CPUs", hint="correct --cpu"
            )
        if self.gateway:
            compute.check_gateway_pair(self.gateway_cpu, self.gateway_memory)
        for name in ("replicas", "requests_per_minute", "runs_per_minute"):
            number = getattr(self, f"gateway_{name}")
            if number < 1:
                raise ConfigurationError(
                    f"the gateway needs at least one of its {name.replace('_', ' ')}, not {number}",
                    hint=f"correct {_format_flag(f'gateway_{name}')}",
                )
        compute.check_variables(self.env, self.secrets)
        for name in compute.IDS:
            value = getattr(self, name)
            if value is not None:
                compute.check_resource_id(name, value)
        for secret in self.secrets.values():
            if secret:
                know(secret)

    def _check_foundry(self) -> None:
        """Complete the options of Foundry, and refuse those that exclude each other."""
        if self.foundry_account is not None and self.foundry_project is not None:
            raise ConfigurationError(
                "--foundry-project names its account, so --foundry-account has no effect",
                hint="remove --foundry-account",
            )
        if self.foundry_account is not None or self.foundry_project is not None:
            object.__setattr__(self, "foundry", True)
        if not _MODEL.fullmatch(self.model):
            raise ConfigurationError(
                f"the model {self.model!r} is invalid: a name has letters, digits, - . and _",
                hint="correct --model",
            )
        if self.model_capacity < 1:
            raise ConfigurationError(
                f"a model needs a capacity of at least 1, not {self.model_capacity}",
                hint="correct --model-capacity",
            )
        if self.foundry and self.kind == "custom" and not self.gateway:
            if "gateway" in self.given:
                raise ConfigurationError(
                    "Foundry reaches a custom pool through the gateway, which is switched off",
                    hint="leave gateway out, or switch it on",
                )
            object.__setattr__(self, "gateway", True)

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

    @property
    def uses_own_registry(self) -> bool:
        """Whether the image is in the registry that `up` creates."""
        if self.kind != "custom" or self.registry_identity is not None:
            return False
        server = f"{self.name}acr{self.suffix}.azurecr.io"
        return self.image is None or compute.get_registry_server(self.image).lower() == server


def _format_flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"

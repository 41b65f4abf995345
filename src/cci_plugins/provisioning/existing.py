"""Comparison of the options with a deployment that exists, before anything is written.

Azure cannot change some properties of a pool in place: its kind, region and environment. A request
with another value fails, or replaces the pool together with its sessions. So such options are
refused here. Options that were left out take the value that the deployment has, so that a short
command never undoes what a longer one did.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from cci_plugins.azure.resource import Resource, lowercase_keys
from cci_plugins.azure.resource_manager import ArmClient
from cci_plugins.errors import ProvisioningError

from . import resources
from .deployment_run import check_ownership, has_owner_tag, matches
from .inventory import list_group_resources, list_own_ids
from .options import Options

_POOL_STEP = "session pool"
# All that a PATCH of a pool may contain. Secrets that a PUT leaves out are forgotten.
_CHANGEABLE = (
    "scaleConfiguration",
    "dynamicPoolConfiguration",
    "customContainerTemplate",
    "sessionNetworkConfiguration",
)


@dataclass(frozen=True, slots=True)
class Existing:
    """The options, completed by what exists.

    Attributes:
        options: The complete options.
        built_image: The image that the pool has from its own registry, which is kept because the
            options name no other. Else None.
    """

    options: Options
    built_image: str | None = None

    @property
    def needs_build(self) -> bool:
        """Whether an image is to be built."""
        return self.options.builds_image and self.built_image is None


async def complete_options(options: Options, arm: ArmClient) -> Existing:
    """Compare the options with what exists, and take from there what they leave out.

    Args:
        options: What to provision.
        arm: Client of Resource Manager.

    Raises:
        ProvisioningError: An option would change what cannot change in place, or the pool of that
            name does not belong to this package.
    """
    options = await _complete_location(options, arm)
    wanted = resources.build_pool(options)
    pool = await arm.get(wanted.id, wanted.api_version, step=_POOL_STEP)
    if pool is None:
        return Existing(options)
    check_ownership(wanted, pool, _POOL_STEP)
    properties = lowercase_keys(pool.get("properties"))
    kind = _read_kind(properties)
    if "kind" in options.given and options.kind != kind:
        raise _refuse("kind", kind, options.kind)
    location = _normalize_location(pool.get("location"))
    if location and location != options.location:
        if "location" in options.given:
            raise _refuse("location", location, options.location)
        options = options.with_values(location=location)
    values = {
        name: value
        for name, read in _READERS.items()
        if name not in options.given and (value := read(properties)) is not None
    }
    options = options.with_values(kind=kind, **values)
    if kind == "python":
        return Existing(options)
    return await _complete_custom(options, arm, properties)


def build_pool_change(pool: Resource) -> Resource:
    """Build the request that changes an existing pool and keeps its secrets.

    Args:
        pool: The pool's desired state.
    """
    properties = pool.body["properties"]
    body: dict[str, Any] = {
        name: pool.body[name] for name in ("tags", "identity") if name in pool.body
    }
    body["properties"] = {name: properties[name] for name in _CHANGEABLE if name in properties}
    if properties.get("secrets"):
        body["properties"]["secrets"] = properties["secrets"]
    return Resource(type=pool.type, id=pool.id, api_version=pool.api_version, body=body)


def list_changes(wanted: object, found: object, name: str = "") -> Iterator[str]:
    """Describe each difference of a resource, such as `maxConcurrentSessions 50 → 10`.

    Args:
        wanted: The desired body, or a part of it.
        found: The same part of what Azure returned.
        name: Name of the part.
    """
    if name in {"secrets", "env"}:
        if not matches(wanted, found):
            yield f"{name} ({_list_names(found)}) → ({_list_names(wanted)})"
    elif isinstance(wanted, Mapping) and isinstance(found, Mapping):
        given = lowercase_keys(found)
        for key, value in wanted.items():
            if not matches({key: value}, found):
                yield from list_changes(value, given.get(key.lower()), key)
    elif isinstance(wanted, list) and isinstance(found, list) and len(wanted) == len(found):
        for one, other in zip(wanted, found, strict=True):
            yield from list_changes(one, other, name)
    elif not matches(wanted, found):
        yield f"{name} {_format_value(found)} → {_format_value(wanted)}"


async def _complete_location(options: Options, arm: ArmClient) -> Options:
    """Return the options with the region of this deployment's resources."""
    own_ids = list_own_ids(options)
    for item in await list_group_resources(options, arm):
        is_own = str(item.get("id")).lower() in own_ids and has_owner_tag(item, options.name)
        location = _normalize_location(item.get("location"))
        if is_own and location and location != options.location:
            if "location" in options.given:
                raise _refuse("location", location, options.location)
            return options.with_values(location=location)
    return options


async def _complete_custom(
    options: Options, arm: ArmClient, properties: Mapping[str, Any]
) -> Existing:
    environment = str(properties.get("environmentid") or "")
    wanted = resources.build_pool(options).body["properties"]["environmentId"]
    if environment and environment.lower() != wanted.lower():
        raise _refuse("environment", environment, wanted)
    if "gateway" not in options.given:
        app = resources.build_gateway_secrets(options, {})
        found = await arm.get(app.id, app.api_version, step="gateway")
        is_own = found is not None and has_owner_tag(found, options.name)
        options = options.with_values(gateway=is_own)
    image = _read_image(properties)
    if not image or not options.builds_image or options.requirements is not None:
        return Existing(options)
    if image.lower().startswith(f"{resources.build_image_name(options, '')}".lower()):
        return Existing(options, image)
    return Existing(options.with_values(image=image))


def _read_kind(properties: Mapping[str, Any]) -> str:
    is_custom = str(properties.get("containertype", "")).lower() == "customcontainer"
    return "custom" if is_custom else "python"


def _read_max_sessions(properties: Mapping[str, Any]) -> int | None:
    value = lowercase_keys(properties.get("scaleconfiguration")).get("maxconcurrentsessions")
    return value if isinstance(value, int) else None


def _read_ready_sessions(properties: Mapping[str, Any]) -> int | None:
    value = lowercase_keys(properties.get("scaleconfiguration")).get("readysessioninstances")
    return value if isinstance(value, int) and value > 0 else None


def _read_cooldown(properties: Mapping[str, Any]) -> timedelta | None:
    settings = lowercase_keys(properties.get("dynamicpoolconfiguration"))
    cycle = lowercase_keys(settings.get("lifecycleconfiguration"))
    value = cycle.get("cooldownperiodinseconds")
    return timedelta(seconds=value) if isinstance(value, int) and value > 0 else None


def _read_egress(properties: Mapping[str, Any]) -> bool | None:
    status = lowercase_keys(properties.get("sessionnetworkconfiguration")).get("status")
    return None if status is None else str(status).lower() == "egressenabled"


# Options that a pool's properties hold, each with its reader.
_READERS: Mapping[str, Callable[[Mapping[str, Any]], Any]] = {
    "max_sessions": _read_max_sessions,
    "ready_sessions": _read_ready_sessions,
    "cooldown": _read_cooldown,
    "egress": _read_egress,
}


def _read_image(properties: Mapping[str, Any]) -> str:
    template = lowercase_keys(properties.get("customcontainertemplate"))
    containers = template.get("containers")
    first = containers[0] if isinstance(containers, list) and containers else None
    return str(lowercase_keys(first).get("image") or "")


def _normalize_location(location: object) -> str:
    return str(location or "").replace(" ", "").lower()


def _refuse(name: str, found: str, wanted: str) -> ProvisioningError:
    return ProvisioningError(
        f"{_POOL_STEP}: it exists with {name} {found}, which cannot change to {wanted} in place",
        hint=f"leave --{name} out to keep it, or make another one by --suffix OTHER, or "
        "remove it first: cci provision down",
        code="CannotChangeInPlace",
        step=_POOL_STEP,
    )


def _list_names(value: object) -> str:
    items = value if isinstance(value, list) else []
    return ", ".join(str(lowercase_keys(item).get("name", "?")) for item in items)


def _format_value(value: object) -> str:
    if value is None:
        return "(not set)"
    if isinstance(value, Mapping):
        return "{" + ", ".join(str(name) for name in value) + "}"
    return str(value) if not isinstance(value, list) else f"({len(value)} items)"

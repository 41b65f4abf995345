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

from cci_plugins.azure.custom_container import get_first, read_container, read_variables
from cci_plugins.azure.resource import Resource, lowercase_keys
from cci_plugins.azure.resource_manager import ArmClient
from cci_plugins.errors import ProvisioningError

from . import resources
from .deployment_run import check_ownership, has_failed, has_owner_tag, matches
from .foundry import complete_foundry
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
        return Existing(await complete_foundry(options, arm, None))
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
    if options.foundry and kind == "custom" and "gateway" not in options.given:
        values["gateway"] = True
    options = options.with_values(kind=kind, **values)
    options = await complete_checkpoints(options, arm)
    options = await complete_foundry(options, arm, pool)
    if kind == "python":
        return Existing(options)
    _check_secret_values(options, pool)
    return await _complete_custom(options, arm, properties)


async def complete_checkpoints(options: Options, arm: ArmClient) -> Options:
    """Return the options with the days of retention that the account's rule has.

    Args:
        options: What to provision.
        arm: Client of Resource Manager.
    """
    if not options.storage or "checkpoint_days" in options.given:
        return options
    policy = resources.build_lifecycle_rule(options)
    found = await arm.get(policy.id, policy.api_version, step=policy.kind)
    properties = lowercase_keys((found or {}).get("properties"))
    rules = lowercase_keys(properties.get("policy")).get("rules")
    for rule in map(lowercase_keys, rules if isinstance(rules, list) else []):
        if rule.get("name") != resources.CHECKPOINT_RULE:
            continue
        actions = lowercase_keys(lowercase_keys(rule.get("definition")).get("actions"))
        delete = lowercase_keys(lowercase_keys(actions.get("baseblob")).get("delete"))
        days = delete.get("daysaftermodificationgreaterthan")
        if isinstance(days, int | float) and days >= 1:
            return options.with_values(checkpoint_days=int(days))
    return options


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


def _check_secret_values(options: Options, pool: Mapping[str, Any]) -> None:
    """Ask for the values of secrets where Azure would miss them.

    Only a change keeps the values that a pool has. A pool whose last operation failed is replaced.

    Raises:
        ProvisioningError: A value is needed and was not passed.
    """
    unknown = [name for name, value in options.secrets.items() if value is None]
    if unknown and has_failed(pool):
        flags = " ".join(f"--secret {name}" for name in unknown)
        raise ProvisioningError(
            f"{_POOL_STEP}: its last operation failed, so it is sent again, and Azure does not "
            f"return the values of its secrets ({', '.join(unknown)})",
            hint=f"pass them again: {flags}",
            code="SecretValuesNeeded",
            step=_POOL_STEP,
        )


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
    options = await _complete_environment(options, arm, properties)
    options = await _complete_gateway(options, arm)
    container = read_container(properties)
    image = str(container.get("image") or "")
    builds = options.requirements is not None or options.base is not None
    if not image or not options.builds_image or builds:
        return Existing(options)
    if image.lower().startswith(f"{resources.build_image_name(options, '')}".lower()):
        return Existing(options, image)
    puller = _read_puller(properties)
    own = resources.build_identity(options).id
    if puller is not None and puller.lower() != own.lower():
        options = options.with_values(image=image, registry_identity=puller)
    return Existing(options.with_values(image=image))


async def _complete_environment(
    options: Options, arm: ArmClient, properties: Mapping[str, Any]
) -> Options:
    """Return the options with the environment that the pool has, its subnet and its logs."""
    found = str(properties.get("environmentid") or "")
    own = resources.build_environment(options)
    is_own = not found or found.lower() == own.id.lower()
    if not is_own and options.environment is None:
        if options.subnet is not None:
            raise _refuse("environment", found, own.id)
        options = options.with_values(environment=found)
    if options.environment is not None:
        if found.lower() != options.environment.lower():
            raise _refuse("environment", found, options.environment)
        return options
    environment = await arm.get(own.id, own.api_version, step=own.kind)
    settings = lowercase_keys((environment or {}).get("properties"))
    network = lowercase_keys(settings.get("vnetconfiguration"))
    subnet = str(network.get("infrastructuresubnetid") or "")
    if options.subnet is None and subnet:
        options = options.with_values(subnet=subnet)
    elif options.subnet is not None and environment and subnet.lower() != options.subnet.lower():
        raise _refuse("subnet", subnet or "(none)", options.subnet)
    if "logs" not in options.given:
        logs = lowercase_keys(settings.get("applogsconfiguration")).get("destination")
        workspace = resources.build_workspace(options)
        if str(logs).lower() == "azure-monitor":
            has_workspace = await arm.get(workspace.id, workspace.api_version, step=workspace.kind)
            options = options.with_values(logs=has_workspace is not None)
    return options


async def _complete_gateway(options: Options, arm: ArmClient) -> Options:
    app = resources.build_gateway_secrets(options, {})
    found = await arm.get(app.id, app.api_version, step="gateway")
    is_own = found is not None and has_owner_tag(found, options.name)
    if "gateway" not in options.given:
        options = options.with_values(gateway=is_own or options.foundry)
    if not is_own or found is None:
        return options
    values = _read_gateway(lowercase_keys(lowercase_keys(found.get("properties")).get("template")))
    if {"gateway_cpu", "gateway_memory"} & options.given:  # they belong together
        del values["gateway_cpu"], values["gateway_memory"]
    return options.with_values(
        **{name: value for name, value in values.items() if value and name not in options.given}
    )


def _read_gateway(template: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that a gateway was created with. None where it does not show one."""
    container = get_first(template.get("containers"))
    size = lowercase_keys(container.get("resources"))
    given = container.get("args")
    arguments = [str(one) for one in given] if isinstance(given, list) else []
    rates = [
        int(arguments[arguments.index(flag) + 1]) if flag in arguments[:-1] else None
        for flag in resources.RATE_FLAGS
    ]
    return {
        "gateway_cpu": size.get("cpu"),
        "gateway_memory": size.get("memory"),
        "gateway_replicas": lowercase_keys(template.get("scale")).get("maxreplicas"),
        "gateway_requests_per_minute": rates[0],
        "gateway_runs_per_minute": rates[1],
    }


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


def _read_cpu(properties: Mapping[str, Any]) -> float | None:
    value = lowercase_keys(read_container(properties).get("resources")).get("cpu")
    return float(value) if isinstance(value, int | float) and value > 0 else None


def _read_memory(properties: Mapping[str, Any]) -> str | None:
    value = lowercase_keys(read_container(properties).get("resources")).get("memory")
    return str(value) if value else None


def _read_env(properties: Mapping[str, Any]) -> dict[str, str]:
    return read_variables(properties)[0]


def _read_secrets(properties: Mapping[str, Any]) -> dict[str, None]:
    return dict.fromkeys(read_variables(properties)[1])


# Options that a pool's properties hold, each with its reader.
_READERS: Mapping[str, Callable[[Mapping[str, Any]], Any]] = {
    "max_sessions": _read_max_sessions,
    "ready_sessions": _read_ready_sessions,
    "cooldown": _read_cooldown,
    "egress": _read_egress,
    "cpu": _read_cpu,
    "memory": _read_memory,
    "env": _read_env,
    "secrets": _read_secrets,
}


def _read_puller(properties: Mapping[str, Any]) -> str | None:
    template = lowercase_keys(properties.get("customcontainertemplate"))
    identity = lowercase_keys(template.get("registrycredentials")).get("identity")
    return str(identity) if identity else None


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

"""The plan of a deployment: resources, roles and costs. Nothing is changed."""

from __future__ import annotations

from dataclasses import dataclass

from cci_plugins.azure.options import Azure
from cci_plugins.azure.resource import Resource
from cci_plugins.azure.resource_manager import ArmClient
from cci_plugins.errors import AuthenticationError

from . import resources
from .access import Role, list_identity_roles, list_user_roles
from .compute import describe_unusual_pair
from .deployment_run import has_owner_tag, is_up_to_date
from .existing import complete_options, list_changes
from .foundry import check_model
from .foundry_resources import MODEL, list_foundry_resources
from .image import build_context
from .inventory import UNKNOWN_SUBSCRIPTION
from .options import Options
from .progress import Progress, ProgressHandler
from .registration import FEATURE, list_providers

# They depend on values that exist once the rest is created.
_DEPENDENT = ("gateway", "Foundry connection")


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """One resource of a plan.

    Attributes:
        resource: Its desired state.
        action: What `up` would do: `create`, `update`, `keep` or `check`. `check` means that
            this depends on a resource that does not exist yet, or that it cannot be read.
        changes: What would change, such as `maxConcurrentSessions 50 → 10`.
    """

    resource: Resource
    action: str
    changes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Everything that `up` would do.

    Attributes:
        resources: Each resource, in the order of their creation.
        registrations: Providers and features that the subscription must have registered.
        assignments: Roles that would be assigned, with their scopes.
        needed: Roles that you need to run `up`, with the reason.
        billed: What costs money, and how.
        subscription: Id of the subscription.
        location: Region of the resources.
        notes: What this plan does not know.
    """

    resources: tuple[Planned, ...]
    registrations: tuple[str, ...]
    assignments: tuple[str, ...]
    needed: tuple[str, ...]
    billed: tuple[str, ...]
    subscription: str = ""
    location: str = ""
    notes: tuple[str, ...] = ()


def list_resources(options: Options, image: str) -> list[Resource]:
    """Return every resource except role assignments, in the order of their creation.

    Args:
        options: What to provision.
        image: Image of a custom pool's sessions.
    """
    found = [resources.build_resource_group(options)]
    if options.kind == "custom" and options.environment is None:
        found.append(resources.build_environment(options))
    if options.logs:
        found.append(resources.build_workspace(options))
        found.append(resources.build_diagnostic_setting(options))
    if options.uses_own_registry:
        found.append(resources.build_registry(options))
    if options.uses_own_registry or options.gateway:
        found.append(resources.build_identity(options))
    found.append(resources.build_pool(options, image))
    if options.storage:
        found += [
            resources.build_storage_account(options),
            resources.build_blob_container(options),
            resources.build_checkpoint_container(options),
            resources.build_lifecycle_rule(options),
        ]
    if options.gateway:
        found.append(
            resources.build_gateway(options, image, pool_endpoint="", client_id="", secrets={})
        )
    return [*found, *list_foundry_resources(options)]


async def make_plan(options: Options, azure: Azure, on_progress: ProgressHandler) -> Plan:
    """Compare the options with what exists.

    Without a sign-in, the plan has everything that follows from the options alone.

    Args:
        options: What to provision.
        azure: Address, sign-in and waiting times for Azure.
        on_progress: Called with each progress.

    Raises:
        ProvisioningError: Azure refused a request, or cannot be reached.
    """
    try:
        return await _read_plan(options, azure, on_progress)
    except AuthenticationError as error:
        note = f"not signed in, so what exists is not known ({error})"
    image = options.image or resources.build_image_name(options, "unknown")
    planned = [Planned(resource=one, action="check") for one in list_resources(options, image)]
    notes = [note]
    if options.subscription == UNKNOWN_SUBSCRIPTION:
        notes.append("the subscription is not known, so the last part of each name may differ")
    return _build_plan(options, planned, notes)


async def _read_plan(options: Options, azure: Azure, on_progress: ProgressHandler) -> Plan:
    planned = []
    async with ArmClient(azure) as arm:
        existing = await complete_options(options, arm)
        options = existing.options
        notes = await check_model(options, arm)
        image = existing.built_image or options.image or ""
        if existing.needs_build:
            image = resources.build_image_name(
                options, build_context(options.requirements, base=options.base).tag
            )
        for resource in list_resources(options, image):
            on_progress(Progress("plan", "working", f"reading {resource.kind} {resource.name}"))
            planned.append(await _plan_resource(options, arm, resource))
    return _build_plan(options, planned, notes)


def _build_plan(options: Options, planned: list[Planned], notes: list[str]) -> Plan:
    return Plan(
        resources=tuple(planned),
        registrations=tuple(_list_registrations(options)),
        assignments=tuple(_list_assignments(options)),
        needed=tuple(_list_needed_roles(options)),
        billed=tuple(_list_costs(options)),
        subscription=options.subscription,
        location=options.location,
        notes=(*notes, *list_warnings(options)),
    )


async def _plan_resource(options: Options, arm: ArmClient, resource: Resource) -> Planned:
    found = await arm.get(resource.id, resource.api_version, step=resource.kind)
    if found is None:
        return Planned(resource=resource, action="create")
    if is_up_to_date(resource, found) or resource.kind == "resource group":
        return Planned(resource=resource, action="keep")
    if resource.kind in _DEPENDENT:
        return Planned(resource=resource, action="check")
    if resource.type == MODEL and not has_owner_tag(found, options.name):
        return Planned(resource=resource, action="keep")
    changes = tuple(list_changes(resource.body, found))
    return Planned(resource=resource, action="update", changes=changes)


def list_warnings(options: Options) -> list[str]:
    """Return what is allowed in these options and may not be intended."""
    if options.kind != "custom":
        return []
    unusual = describe_unusual_pair(options.cpu, options.memory)
    return [] if unusual is None else [unusual]


def _list_registrations(options: Options) -> list[str]:
    feature = [f"feature Microsoft.App/{FEATURE}"] if options.kind == "python" else []
    return [*feature, *(f"provider {name}" for name in list_providers(options))]


def _list_assignments(options: Options) -> list[str]:
    return [_format_assignment(role, scope, "you") for role, scope in list_user_roles(options)] + [
        _format_assignment(role, scope, "the identity")
        for role, scope in list_identity_roles(options)
    ]


def _format_assignment(role: Role, scope: str, who: str) -> str:
    return f"{role.name} for {who} on {scope.rpartition('/')[2]}"


def _list_needed_roles(options: Options) -> list[str]:
    group = options.resource_group
    return [
        f"Contributor on the resource group {group}, to create the resources",
        "Contributor on the subscription, if the group or a registration is missing",
        "Role Based Access Control Administrator on the resource group, to assign the roles",
    ]


def _list_costs(options: Options) -> list[str]:
    """Return what costs money and how. Azure may change its prices."""
    if options.kind == "python":
        lines = [
            "session pool: each session, by the hour while it is allocated; nothing while idle"
        ]
    else:
        ready, size = options.ready_sessions, f"{options.cpu:g} CPU and {options.memory}"
        lines = [
            f"session pool: the machines for {ready} ready and all active sessions, at all times,",
            f"  each with {size} (a dedicated plan; in the order of 1,000 dollars a month)",
        ]
    if options.uses_own_registry:
        lines.append("container registry: Basic, by the day; builds by the second")
    if options.logs:
        lines.append("log workspace: by the gigabyte of logs that it receives and keeps")
    if options.gateway:
        size = f"{options.gateway_cpu:g} CPU and {options.gateway_memory}"
        lines.append(f"gateway: one replica with {size}, at all times")
    if options.foundry:
        size = f"{options.model_capacity * 1_000:,} tokens a minute"
        lines.append(f"model {options.model}: by token, at most {size}")
    if options.storage:
        lines.append("storage account: by stored and moved bytes; files are deleted after a day,")
        lines.append(f"  saved sessions after {options.checkpoint_days} days")
    return lines

"""What would be there, who must be allowed what, and what is billed; nothing is changed."""

from __future__ import annotations

from dataclasses import dataclass

from cci_plugins.azure.options import Azure
from cci_plugins.azure.resource import Resource
from cci_plugins.azure.resource_manager import ArmClient

from . import resources
from .access import list_identity_roles, list_user_roles
from .deployment_run import is_up_to_date
from .image import build_context
from .options import Options
from .progress import Progress, ProgressHandler
from .registration import FEATURE, list_providers
from .roles import Role


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """One resource.

    Attributes:
        resource: What it should be.
        action: What `up` would do.
    """

    resource: Resource
    action: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What `up` would do.

    Attributes:
        resources: Each resource, in the order they are made.
        registrations: Providers and features of the subscription that have to be registered.
        assignments: Roles that would be given, and on what.
        needed: Roles that who runs it needs, and why.
        billed: What costs money, and how.
    """

    resources: tuple[Planned, ...]
    registrations: tuple[str, ...]
    assignments: tuple[str, ...]
    needed: tuple[str, ...]
    billed: tuple[str, ...]


def list_resources(options: Options, image: str) -> list[Resource]:
    """Every resource but role assignments, in the order they are made.

    Args:
        options: What to provision.
        image: What runs in a custom pool's sessions.
    """
    made = [resources.resource_group(options)]
    if options.kind == "custom":
        made.append(resources.environment(options))
    if options.builds_image:
        made.append(resources.registry(options))
    if options.builds_image or options.gateway:
        made.append(resources.identity(options))
    made.append(resources.pool(options, image))
    if options.storage:
        made += [
            resources.storage_account(options),
            resources.blob_container(options),
            resources.lifecycle_rule(options),
        ]
    if options.gateway:
        made.append(resources.gateway(options, image, pool_endpoint="", client_id="", secrets={}))
    return made


async def make_plan(options: Options, azure: Azure, on_progress: ProgressHandler) -> Plan:
    """Look at what is there.

    Raises:
        ProvisioningError: Azure did not say.
        AuthenticationError: The sign-in failed.
    """
    planned, image = [], options.image or ""
    if options.builds_image:
        image = resources.image(options, build_context(options.requirements).tag)
    async with ArmClient(azure, options.subscription) as arm:
        for resource in list_resources(options, image):
            on_progress(Progress("plan", "working", f"looking for {resource.kind} {resource.name}"))
            planned.append(Planned(resource=resource, action=await _choose_action(arm, resource)))
    return Plan(
        resources=tuple(planned),
        registrations=tuple(_list_registrations(options)),
        assignments=tuple(_list_assignments(options)),
        needed=tuple(_list_needed_roles(options)),
        billed=tuple(billed(options)),
    )


async def _choose_action(arm: ArmClient, resource: Resource) -> str:
    found = await arm.get(resource.id, resource.api_version, step=resource.kind)
    if found is None:
        return "create"
    depends = resource.kind == "gateway"  # on what is known only when the rest is made
    return (
        "keep"
        if is_up_to_date(resource, found) or resource.kind == "resource group"
        else ("check" if depends else "update")
    )


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
        f"Contributor on the resource group {group}, to make the resources",
        "Contributor on the subscription, where the group or a registration is missing",
        "Role Based Access Control Administrator on the resource group, to give the roles",
    ]


def billed(options: Options) -> list[str]:
    """What costs money, and how; prices are Azure's, and change."""
    if options.kind == "python":
        lines = ["session pool: each session, by the hour it was allocated; nothing while idle"]
    else:
        ready = options.ready_sessions
        lines = [
            f"session pool: the machines under {ready} ready and all active sessions, all day",
            "  (a dedicated plan; in the order of 1,000 dollars a month)",
        ]
    if options.builds_image:
        lines.append("container registry: Basic, by the day; builds by the second")
    if options.gateway:
        lines.append("gateway: one replica of half a core and 1 GiB, day and night")
    if options.storage:
        lines.append("storage account: by what is stored and moved; files go after a day")
    return lines

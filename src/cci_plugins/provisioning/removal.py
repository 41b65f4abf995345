"""Taking away what was made, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cci_plugins.azure import api_versions
from cci_plugins.azure.options import Azure
from cci_plugins.azure.resource_manager import ArmClient

from . import resources
from .compare import lower
from .deployment_run import StepReporter, has_owner_tag
from .inventory import Found, list_group_resources, list_owned_resources
from .options import Options
from .progress import ProgressHandler
from .roles import ROLE_ASSIGNMENT_TYPE, build_assignment_name


@dataclass(frozen=True, slots=True, kw_only=True)
class Removed:
    """What `down` did.

    Attributes:
        removed: Ids of what is gone.
        left: Ids of what is still in the resource group, because it was not made by us.
    """

    removed: tuple[str, ...]
    left: tuple[str, ...]


async def remove(options: Options, azure: Azure, on_progress: ProgressHandler) -> Removed:
    """Remove what carries our tag; the resource group too, when we made it and it is empty.

    Raises:
        ProvisioningError: Azure refused a step, or took too long.
        AuthenticationError: The sign-in failed.
    """
    gone: list[str] = []
    async with ArmClient(azure, options.subscription) as arm:
        found = await list_owned_resources(options, arm)
        for one in found:
            gone += await _remove_assignments(arm, on_progress, one, options)
        for one in found:
            await _delete(arm, on_progress, one.kind, one.id, api_versions.OF_TYPE[one.type])
            gone.append(one.id)
        listed = [str(item["id"]) for item in await list_group_resources(options, arm)]
        known = {identifier.lower() for identifier in gone}  # Azure may list them for a while
        left = [identifier for identifier in listed if identifier.lower() not in known]
        group = resources.resource_group(options)
        there = await arm.get(group.id, group.api_version, step=group.kind)
        if there is not None and has_owner_tag(there, options.name) and not left:
            await _delete(arm, on_progress, group.kind, group.id, group.api_version)
            gone.append(group.id)
    return Removed(removed=tuple(gone), left=tuple(left))


async def _remove_assignments(
    arm: ArmClient, on_progress: ProgressHandler, one: Found, options: Options
) -> list[str]:
    """Role assignments on a resource that have the name which we give, so that we made them."""
    gone = []
    scope = f"{options.group_id}/providers/{one.type}/{one.name}"  # spelt as it was when named
    scopes = [scope]
    if one.type.endswith("/storageAccounts"):
        scopes.append(f"{scope}/blobServices/default/containers/{resources.BLOB_CONTAINER}")
    for scope in scopes:
        for item in await arm.list(
            f"{scope}/providers/{ROLE_ASSIGNMENT_TYPE}",
            api_versions.ROLES,
            step="role assignment",
            filter="atScope()",
        ):
            identifier = str(item.get("id"))
            if _is_owned_assignment(scope, item):
                await _delete(arm, on_progress, "role assignment", identifier, api_versions.ROLES)
                gone.append(identifier)
    return gone


def _is_owned_assignment(scope: str, item: Mapping[str, Any]) -> bool:
    properties = lower(item.get("properties"))
    role = str(properties.get("roledefinitionid", "")).rpartition("/")[2]
    name = build_assignment_name(scope, role, str(properties.get("principalid", "")))
    return str(item.get("id")).rpartition("/")[2].lower() == name


async def _delete(
    arm: ArmClient, on_progress: ProgressHandler, kind: str, identifier: str, version: str
) -> None:
    reporter, name = StepReporter(on_progress, kind), identifier.rpartition("/")[2]
    reporter.report("working", f"removing {kind} {name}")
    await arm.delete(identifier, version, step=kind, report_waiting=reporter.report_waiting)
    reporter.report("removed", f"removed {kind} {name}")

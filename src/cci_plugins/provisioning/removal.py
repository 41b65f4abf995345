"""Removal of what `up` created, and of nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cci_plugins.azure import api_versions
from cci_plugins.azure.options import Azure
from cci_plugins.azure.resource import lowercase_keys

from . import resources
from .access import ROLE_ASSIGNMENT_TYPE, build_assignment_name
from .client import ProvisioningClient
from .deployment_run import StepReporter, has_owner_tag
from .inventory import Found, list_group_resources, list_owned_resources
from .options import Options
from .progress import ProgressHandler


@dataclass(frozen=True, slots=True, kw_only=True)
class Removed:
    """The result of `down`.

    Attributes:
        removed: Ids of the resources that were removed.
        left: Ids of the resources that stay in the group, because `up` did not create them.
    """

    removed: tuple[str, ...]
    left: tuple[str, ...]


async def remove(options: Options, azure: Azure, on_progress: ProgressHandler) -> Removed:
    """Remove everything with this package's tag, and the resource group if it is then empty.

    The group is removed only if it has the tag too.

    Args:
        options: What was provisioned.
        azure: Address, sign-in and waiting times for Azure.
        on_progress: Called with each progress.

    Raises:
        ProvisioningError: Azure refused a step, or it took too long.
        AuthenticationError: The sign-in failed.
    """
    removed: list[str] = []
    async with ProvisioningClient(azure, options.subscription) as arm:
        found = await list_owned_resources(options, arm)
        for one in found:
            removed += await _remove_assignments(arm, on_progress, one, options)
        for one in found:
            await _delete(arm, on_progress, one.kind, one.id, api_versions.OF_TYPE[one.type])
            removed.append(one.id)
        listed = [str(item["id"]) for item in await list_group_resources(options, arm)]
        known = {identifier.lower() for identifier in removed}  # Azure may still list them
        left = [identifier for identifier in listed if identifier.lower() not in known]
        group = resources.build_resource_group(options)
        existing = await arm.get(group.id, group.api_version, step=group.kind)
        if existing is not None and has_owner_tag(existing, options.name) and not left:
            await _delete(arm, on_progress, group.kind, group.id, group.api_version)
            removed.append(group.id)
    return Removed(removed=tuple(removed), left=tuple(left))


async def _remove_assignments(
    arm: ProvisioningClient, on_progress: ProgressHandler, one: Found, options: Options
) -> list[str]:
    """Remove the role assignments on a resource whose names show that `up` made them."""
    removed = []
    # the names are derived from the id with the case that `up` uses, which Azure may change
    scope = f"{options.group_id}/providers/{one.type}/{one.name}"
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
                removed.append(identifier)
    return removed


def _is_owned_assignment(scope: str, item: Mapping[str, Any]) -> bool:
    properties = lowercase_keys(item.get("properties"))
    role = str(properties.get("roledefinitionid", "")).rpartition("/")[2]
    name = build_assignment_name(scope, role, str(properties.get("principalid", "")))
    return str(item.get("id")).rpartition("/")[2].lower() == name


async def _delete(
    arm: ProvisioningClient, on_progress: ProgressHandler, kind: str, identifier: str, version: str
) -> None:
    reporter, name = StepReporter(on_progress, kind), identifier.rpartition("/")[2]
    reporter.report("working", f"removing {kind} {name}")
    await arm.delete(identifier, version, step=kind, report_waiting=reporter.report_waiting)
    reporter.report("removed", f"removed {kind} {name}")

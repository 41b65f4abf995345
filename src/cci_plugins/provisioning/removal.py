"""Taking away what was made, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cci_plugins.azure import api_versions
from cci_plugins.azure.options import Azure
from cci_plugins.azure.resource_manager import Arm

from . import resources
from .compare import lower
from .deployment_run import Watch, is_ours
from .inventory import Found, everything, ours
from .options import Options
from .progress import Tell
from .roles import TYPE, assignment_name


@dataclass(frozen=True, slots=True, kw_only=True)
class Removed:
    """What `down` did.

    Attributes:
        removed: Ids of what is gone.
        left: Ids of what is still in the resource group, because it was not made by us.
    """

    removed: tuple[str, ...]
    left: tuple[str, ...]


async def remove(options: Options, azure: Azure, tell: Tell) -> Removed:
    """Remove what carries our tag; the resource group too, when we made it and it is empty.

    Raises:
        ProvisioningError: Azure refused a step, or took too long.
        AuthenticationError: The sign-in failed.
    """
    gone: list[str] = []
    async with Arm(azure, options.subscription) as arm:
        found = await ours(options, arm)
        for one in found:
            gone += await _assignments(arm, tell, one, options)
        for one in found:
            await _delete(arm, tell, one.kind, one.id, api_versions.OF_TYPE[one.type])
            gone.append(one.id)
        listed = [str(item["id"]) for item in await everything(options, arm)]
        known = {identifier.lower() for identifier in gone}  # Azure may list them for a while
        left = [identifier for identifier in listed if identifier.lower() not in known]
        group = resources.resource_group(options)
        there = await arm.get(group.id, group.api_version, step=group.kind)
        if there is not None and is_ours(there, options.name) and not left:
            await _delete(arm, tell, group.kind, group.id, group.api_version)
            gone.append(group.id)
    return Removed(removed=tuple(gone), left=tuple(left))


async def _assignments(arm: Arm, tell: Tell, one: Found, options: Options) -> list[str]:
    """Role assignments on a resource that have the name which we give, so that we made them."""
    gone = []
    scope = f"{options.group_id}/providers/{one.type}/{one.name}"  # spelt as it was when named
    scopes = [scope]
    if one.type.endswith("/storageAccounts"):
        scopes.append(f"{scope}/blobServices/default/containers/{resources.BLOB_CONTAINER}")
    for scope in scopes:
        for item in await arm.list(
            f"{scope}/providers/{TYPE}",
            api_versions.ROLES,
            step="role assignment",
            filter="atScope()",
        ):
            identifier = str(item.get("id"))
            if _is_our_assignment(scope, item):
                await _delete(arm, tell, "role assignment", identifier, api_versions.ROLES)
                gone.append(identifier)
    return gone


def _is_our_assignment(scope: str, item: Mapping[str, Any]) -> bool:
    properties = lower(item.get("properties"))
    role = str(properties.get("roledefinitionid", "")).rpartition("/")[2]
    name = assignment_name(scope, role, str(properties.get("principalid", "")))
    return str(item.get("id")).rpartition("/")[2].lower() == name


async def _delete(arm: Arm, tell: Tell, kind: str, identifier: str, version: str) -> None:
    watch, name = Watch(tell, kind), identifier.rpartition("/")[2]
    watch.tell("working", f"removing {kind} {name}")
    await arm.delete(identifier, version, step=kind, waiting=watch.waiting)
    watch.tell("removed", f"removed {kind} {name}")

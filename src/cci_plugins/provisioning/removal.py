"""Removal of what `up` created, and of nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cci_plugins.azure import api_versions
from cci_plugins.azure.failures import FORBIDDEN, ArmError
from cci_plugins.azure.options import Azure
from cci_plugins.azure.resource import lowercase_keys
from cci_plugins.common.settings import get_variable_name

from . import resources
from .access import ROLE_ASSIGNMENT_TYPE, build_assignment_name
from .checkpoints import STORAGE_TYPE, describe_kept, find_checkpoints
from .client import ProvisioningClient
from .deployment import Deployment
from .deployment_run import StepReporter, has_owner_tag
from .dotenv import remove_env
from .foundry_inventory import Found, FoundryInventory
from .foundry_removal import check_agents, remove_foundry
from .foundry_resources import PROJECT
from .inventory import (
    Inventory,
    list_group_resources,
    list_owned_resources,
    read_inventory,
)
from .options import Options
from .progress import Progress, ProgressHandler


@dataclass(frozen=True, slots=True, kw_only=True)
class Removed:
    """The result of `down`.

    Attributes:
        removed: Ids of the resources that were removed.
        left: Ids of the resources that stay in the group, because `up` did not create them for
            these options.
        unset: Names of the variables that were removed from the `.env` file, because they named
            what no longer exists.
    """

    removed: tuple[str, ...]
    left: tuple[str, ...]
    unset: tuple[str, ...] = ()


async def remove(
    options: Options,
    azure: Azure,
    on_progress: ProgressHandler,
    *,
    env_file: Path | None = None,
    remove_agents: bool = False,
    remove_checkpoints: bool = False,
) -> Removed:
    """Remove this deployment's resources, and the resource group if it is then empty.

    A resource is removed only if it has both the computed name and this package's tag. The group
    is removed only if it has the tag.

    Args:
        options: What was provisioned.
        azure: Address, sign-in and waiting times for Azure.
        on_progress: Called with each progress.
        env_file: File whose variables for this deployment are removed.
        remove_agents: Whether a Foundry project may be removed that has agents.
        remove_checkpoints: Whether a storage account may be removed that has saved sessions.

    Raises:
        ProvisioningError: Azure refused a step, it took too long, or a project has agents.
        AuthenticationError: The sign-in failed.
        ConfigurationError: The file cannot be read or written.
    """
    removed: list[str] = []
    inventory = await read_inventory(options, azure, on_progress)
    if not remove_agents:
        check_agents(inventory.foundry)
    async with ProvisioningClient(azure, options.subscription) as arm:
        removed += await _remove_project_roles(arm, on_progress, inventory, options)
        removed += await remove_foundry(options, arm, inventory.foundry, on_progress)
        found = await list_owned_resources(options, arm)
        if not remove_checkpoints:
            found = [
                one for one in found if not await _keeps(options, azure, arm, one, on_progress)
            ]
        for one in found:
            removed += await _try_remove_assignments(arm, on_progress, one, options)
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
    unset: list[str] = []
    if env_file is not None:
        unset = _unset_variables(env_file, options, inventory.deployment)
        account = resources.build_storage_account(options)
        if account.id.lower() not in {identifier.lower() for identifier in left}:
            unset += _unset_storage_variables(env_file, account.name)
        unset += _unset_foundry_variables(env_file, inventory.foundry)
    return Removed(removed=tuple(removed), left=tuple(left), unset=tuple(unset))


def _unset_variables(path: Path, options: Options, deployment: Deployment | None) -> list[str]:
    """Remove the variables of this deployment from a file, and no other values."""
    pool = {get_variable_name("resource_id"): resources.build_pool(options).id}
    values: dict[str, str | None] = {
        name: value
        for name, value in ({} if deployment is None else deployment.environment()).items()
        if name.startswith(get_variable_name("endpoint").rpartition("_")[0])
    }
    unset = remove_env(path, {**values, **pool})
    if unset:  # the file named this pool, so the rest of the pool's variables goes too
        rest = ("pool", "endpoint", "mcp_endpoint", "mcp_key")
        unset += remove_env(path, {get_variable_name(name): None for name in rest})
    return unset


def _unset_storage_variables(path: Path, account: str) -> list[str]:
    """Remove the variables of a storage account that does not exist."""
    unset = remove_env(path, {get_variable_name("storage_account"): account})
    if unset:
        names = {
            "storage_container": resources.BLOB_CONTAINER,
            "checkpoint_container": resources.CHECKPOINT_CONTAINER,
            "checkpoint_days": None,
        }
        unset += remove_env(path, {get_variable_name(name): names[name] for name in names})
    return unset


async def _keeps(
    options: Options,
    azure: Azure,
    arm: ProvisioningClient,
    one: Found,
    on_progress: ProgressHandler,
) -> bool:
    """Return whether a resource has to stay, and report why."""
    if one.type != STORAGE_TYPE:
        return False
    content = await find_checkpoints(options, azure, arm, one)
    if content == "none":
        return False
    on_progress(Progress(one.kind, "note", describe_kept(one, content)))
    return True


def _unset_foundry_variables(path: Path, foundry: FoundryInventory) -> list[str]:
    """Remove the variables of the project and the connection that were removed."""
    deployment = foundry.deployment
    if deployment is None:
        return []
    removed = {one.type for one in foundry.resources}
    names = {"foundry_connection": deployment.connection_id}
    if PROJECT in removed:
        names["foundry_project_id"] = deployment.project_id
        names["foundry_endpoint"] = deployment.project_endpoint
    values = {get_variable_name(name): value for name, value in names.items() if value}
    unset = remove_env(path, values)
    if get_variable_name("foundry_endpoint") in unset:
        unset += remove_env(path, {get_variable_name("foundry_model"): deployment.model})
    return unset


async def _remove_project_roles(
    arm: ProvisioningClient,
    on_progress: ProgressHandler,
    inventory: Inventory,
    options: Options,
) -> list[str]:
    """Remove the roles that `up` assigned on the Foundry project."""
    deployment = inventory.foundry.deployment
    if deployment is None:
        return []
    name = deployment.project_id.rpartition("/")[2]
    project = Found(type=PROJECT, name=name, id=deployment.project_id, state="")
    return await _try_remove_assignments(arm, on_progress, project, options)


async def _try_remove_assignments(
    arm: ProvisioningClient, on_progress: ProgressHandler, one: Found, options: Options
) -> list[str]:
    try:
        return await _remove_assignments(arm, on_progress, one, options)
    except ArmError as error:
        if error.status != FORBIDDEN:
            raise
        # Azure removes the assignments on a resource together with the resource
        message = f"role assignments on {one.name} are left to Azure: you may not remove them"
        on_progress(Progress("role assignment", "note", message))
    return []


async def _remove_assignments(
    arm: ProvisioningClient, on_progress: ProgressHandler, one: Found, options: Options
) -> list[str]:
    """Remove the role assignments on a resource whose names show that `up` made them."""
    removed = []
    # the names are derived from the id with the case that `up` uses, which Azure may change
    scope = one.id
    if one.type != PROJECT:
        scope = f"{options.group_id}/providers/{one.type}/{one.name}"
    scopes = [scope]
    if one.type.endswith("/storageAccounts"):
        scopes += [
            f"{scope}/blobServices/default/containers/{name}"
            for name in (resources.BLOB_CONTAINER, resources.CHECKPOINT_CONTAINER)
        ]
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

"""Inventory of what `cci provision` created."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import anyio

from cci_plugins.azure import api_versions
from cci_plugins.azure.options import Azure
from cci_plugins.azure.resource import KIND_NAMES, lowercase_keys
from cci_plugins.azure.resource_manager import ArmClient
from cci_plugins.azure.template_status import read_template_status
from cci_plugins.errors import ConfigurationError

from . import resources
from .deployment import Deployment, build_deployment, parse_gateway_url
from .deployment_run import has_owner_tag
from .foundry_inventory import Found, FoundryInventory, read_foundry_inventory
from .foundry_resources import get_own_account_id
from .options import Options
from .progress import Progress, ProgressHandler


@dataclass(frozen=True, slots=True, kw_only=True)
class Inventory:
    """The resources that exist.

    Attributes:
        resources: Everything that `up` creates for these options and that has this package's tag,
            in the order in which it can be removed.
        deployment: The pool and its settings for an application, or None without a pool.
        foundry: What the deployment has in Microsoft Foundry. `resources` has it too.
    """

    resources: tuple[Found, ...]
    deployment: Deployment | None
    foundry: FoundryInventory = field(default_factory=FoundryInventory)


UNKNOWN_SUBSCRIPTION = "00000000-0000-0000-0000-000000000000"
_MAX_LISTED = 8
_CLI_SECONDS = 20
# A resource comes before those that it depends on.
REMOVAL_ORDER = (
    "Microsoft.App/containerApps",
    "Microsoft.App/sessionPools",
    "Microsoft.App/managedEnvironments",
    "Microsoft.OperationalInsights/workspaces",
    "Microsoft.ContainerRegistry/registries",
    "Microsoft.ManagedIdentity/userAssignedIdentities",
    "Microsoft.Storage/storageAccounts",
)


async def list_group_resources(options: Options, arm: ArmClient) -> list[Mapping[str, Any]]:
    """Return every resource in the resource group, with or without this package's tag."""
    return await arm.list(
        f"{options.group_id}/resources", api_versions.RESOURCES, step="resource group"
    )


async def list_owned_resources(options: Options, arm: ArmClient) -> list[Found]:
    """Return the resources of this deployment, in the order in which they can be removed.

    A resource belongs to it by its computed name. The tag alone does not count, because other
    deployments and copied tags have it too.
    """
    found, own_ids = [], list_own_ids(options)
    for item in await list_group_resources(options, arm):
        kind = _normalize_type(str(item.get("type")))
        is_own = str(item.get("id")).lower() in own_ids and has_owner_tag(item, options.name)
        if kind in REMOVAL_ORDER and is_own:
            full = await arm.get(str(item["id"]), api_versions.OF_TYPE[kind], step=KIND_NAMES[kind])
            if full is not None:
                state = lowercase_keys(full.get("properties")).get("provisioningstate", "")
                name = str(item["id"]).rpartition("/")[2]
                found.append(Found(type=kind, name=name, id=str(item["id"]), state=str(state)))
    return sorted(found, key=lambda one: (REMOVAL_ORDER.index(one.type), one.name))


def list_own_ids(options: Options) -> set[str]:
    """Return the ids, in lower case, of all resources that `up` may create for these options."""
    built = (
        resources.build_environment(options),
        resources.build_workspace(options),
        resources.build_registry(options),
        resources.build_identity(options),
        resources.build_pool(options),
        resources.build_storage_account(options),
        resources.build_gateway_secrets(options, {}),
    )
    return {one.id.lower() for one in built} | {get_own_account_id(options).lower()}


async def read_inventory(options: Options, azure: Azure, on_progress: ProgressHandler) -> Inventory:
    """List what exists.

    Args:
        options: What was provisioned.
        azure: Address, sign-in and waiting times for Azure.
        on_progress: Called with each progress.

    Raises:
        ProvisioningError: Azure refused a request, or cannot be reached.
        AuthenticationError: The sign-in failed.
    """
    async with ArmClient(azure) as arm:
        on_progress(Progress("show", "working", f"reading resource group {options.resource_group}"))
        found = await list_owned_resources(options, arm)
        pool, deployment = await _read_deployment(options, arm, found)
        endpoint = None if deployment is None else deployment.mcp_endpoint
        foundry = await read_foundry_inventory(options, arm, azure, pool, endpoint)
        if deployment is not None:
            deployment = replace(deployment, foundry=foundry.deployment)
        return Inventory(
            resources=(*foundry.resources, *found), deployment=deployment, foundry=foundry
        )


async def find_subscription(azure: Azure) -> str:
    """Return the default subscription of Azure's command line, or the only one.

    Raises:
        ConfigurationError: The sign-in can see none, or several without a default.
        ProvisioningError: Azure refused the request, or cannot be reached.
        AuthenticationError: The sign-in failed.
    """
    return await find_only_subscription(azure, default=await read_default_subscription())


async def read_default_subscription() -> str | None:
    """Return the default subscription of Azure's command line, if it is installed and has one."""
    az = shutil.which("az")
    if az is None:
        return None
    try:
        with anyio.fail_after(_CLI_SECONDS):
            done = await anyio.run_process(
                [az, "account", "show", "--output", "json"], check=False, stderr=subprocess.DEVNULL
            )
        found = json.loads(done.stdout) if done.returncode == 0 else None
    except (OSError, TimeoutError, ValueError):
        return None
    identifier = found.get("id") if isinstance(found, dict) else None
    return identifier if isinstance(identifier, str) else None


async def find_only_subscription(azure: Azure, *, default: str | None = None) -> str:
    """Return the id of the one subscription that the sign-in can see.

    Args:
        azure: Address and sign-in.
        default: A subscription that is returned if the sign-in can see it.

    Raises:
        ConfigurationError: It can see none, or several.
        ProvisioningError: Azure refused the request, or cannot be reached.
        AuthenticationError: The sign-in failed.
    """
    async with ArmClient(azure) as arm:
        found = await arm.list_subscriptions()
    enabled = [one for one in found if str(one.get("state", "Enabled")).lower() == "enabled"]
    if not enabled:
        raise ConfigurationError(
            "this sign-in has no subscription", hint="az login --tenant TENANT; az account list"
        )
    if default in {str(one["subscriptionId"]) for one in enabled}:
        return str(default)
    if len(enabled) > 1:
        names = ", ".join(str(one.get("displayName")) for one in enabled[:_MAX_LISTED])
        raise ConfigurationError(
            f"this sign-in has {len(enabled)} subscriptions: {names}",
            hint="name one by --subscription ID; az account list --output table",
        )
    return str(enabled[0]["subscriptionId"])


async def _read_deployment(
    options: Options, arm: ArmClient, found: list[Found]
) -> tuple[Mapping[str, Any] | None, Deployment | None]:
    """Return the pool as Azure describes it, and as a deployment."""
    wanted = resources.build_pool(options)
    pool = await arm.get(wanted.id, wanted.api_version, step=wanted.kind)
    if pool is None:
        return None, None
    kind = str(lowercase_keys(pool.get("properties")).get("containertype", "")).lower()
    names = {one.name for one in found}
    app = resources.build_gateway_secrets(options, {})
    deployment = build_deployment(
        options,
        pool,
        kind="custom" if kind == "customcontainer" else "python",
        storage=resources.build_storage_account(options).name in names,
    )
    status = await read_template_status(arm, wanted.id) if deployment.kind == "custom" else None
    problem = None if status is None else status.problem
    notes = () if problem is None else (f"the pool is not ready: {problem}",)
    if app.name not in names:
        return pool, replace(deployment, notes=notes)
    gateway = await arm.get(app.id, app.api_version, step="gateway") or {}
    return pool, replace(deployment, mcp_endpoint=parse_gateway_url(gateway), notes=notes)


def _normalize_type(kind: str) -> str:
    """Return a type in the case that this package uses."""
    return next((name for name in REMOVAL_ORDER if name.lower() == kind.lower()), kind)

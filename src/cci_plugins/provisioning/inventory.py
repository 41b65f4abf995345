"""What is there of what we make."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from cci_plugins.azure import api_versions
from cci_plugins.azure.options import Azure
from cci_plugins.azure.resource import KIND_NAMES
from cci_plugins.azure.resource_manager import ArmClient

from . import resources
from .compare import lower
from .deploy import parse_gateway_url
from .deployment import Deployment, build_deployment
from .deployment_run import has_owner_tag
from .options import Options
from .progress import Progress, ProgressHandler


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A resource that is there.

    Attributes:
        type: Such as `Microsoft.App/sessionPools`.
        name: Its name.
        id: Its id in Resource Manager.
        state: As Azure tells it.
    """

    type: str
    name: str
    id: str
    state: str

    @property
    def kind(self) -> str:
        """What it is, in words."""
        return KIND_NAMES.get(_normalize_type(self.type), self.type)


@dataclass(frozen=True, slots=True, kw_only=True)
class Inventory:
    """What there is.

    Attributes:
        resources: Everything with our tag, in the order in which it can be removed.
        deployment: The pool and what an application needs to know of it, or None.
    """

    resources: tuple[Found, ...]
    deployment: Deployment | None


# What stands on others goes first.
REMOVAL_ORDER = (
    "Microsoft.App/containerApps",
    "Microsoft.App/sessionPools",
    "Microsoft.App/managedEnvironments",
    "Microsoft.ContainerRegistry/registries",
    "Microsoft.ManagedIdentity/userAssignedIdentities",
    "Microsoft.Storage/storageAccounts",
)


async def list_group_resources(options: Options, arm: ArmClient) -> list[Mapping[str, Any]]:
    """Everything in the resource group, ours or not."""
    return await arm.list(
        f"{options.group_id}/resources", api_versions.RESOURCES, step="resource group"
    )


async def list_owned_resources(options: Options, arm: ArmClient) -> list[Found]:
    """What we made and is there, in the order in which it can be removed."""
    found = []
    for item in await list_group_resources(options, arm):
        kind = _normalize_type(str(item.get("type")))
        if kind in REMOVAL_ORDER and has_owner_tag(item, options.name):
            full = await arm.get(str(item["id"]), api_versions.OF_TYPE[kind], step=KIND_NAMES[kind])
            if full is not None:
                state = lower(full.get("properties")).get("provisioningstate", "")
                name = str(item["id"]).rpartition("/")[2]
                found.append(Found(type=kind, name=name, id=str(item["id"]), state=str(state)))
    return sorted(found, key=lambda one: (REMOVAL_ORDER.index(one.type), one.name))


async def read_inventory(options: Options, azure: Azure, on_progress: ProgressHandler) -> Inventory:
    """Say what is there.

    Raises:
        ProvisioningError: Azure did not say.
        AuthenticationError: The sign-in failed.
    """
    async with ArmClient(azure, options.subscription) as arm:
        on_progress(
            Progress("show", "working", f"looking into resource group {options.resource_group}")
        )
        found = await list_owned_resources(options, arm)
        return Inventory(
            resources=tuple(found), deployment=await _read_deployment(options, arm, found)
        )


async def _read_deployment(
    options: Options, arm: ArmClient, found: list[Found]
) -> Deployment | None:
    wanted = resources.pool(options)
    pool = await arm.get(wanted.id, wanted.api_version, step=wanted.kind)
    if pool is None:
        return None
    kind = str(lower(pool.get("properties")).get("containertype", "")).lower()
    names = {one.name for one in found}
    app = resources.build_gateway_secrets(options, {})
    deployment = build_deployment(
        options,
        pool,
        kind="custom" if kind == "customcontainer" else "python",
        storage=resources.storage_account(options).name in names,
    )
    if app.name not in names:
        return deployment
    gateway = await arm.get(app.id, app.api_version, step="gateway") or {}
    return replace(deployment, mcp_endpoint=parse_gateway_url(gateway))


def _normalize_type(kind: str) -> str:
    """A type as we spell it."""
    return next((name for name in REMOVAL_ORDER if name.lower() == kind.lower()), kind)

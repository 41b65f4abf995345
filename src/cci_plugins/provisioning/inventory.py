"""What is there of what we make."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from cci_plugins.azure import api_versions
from cci_plugins.azure.options import Azure
from cci_plugins.azure.resource import WORDS
from cci_plugins.azure.resource_manager import Arm

from . import resources
from .compare import lower
from .deploy import gateway_url
from .deployment import Deployment, deployment_of
from .deployment_run import is_ours
from .options import Options
from .progress import Progress, Tell


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
        return WORDS.get(_known(self.type), self.type)


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
ORDER = (
    "Microsoft.App/containerApps",
    "Microsoft.App/sessionPools",
    "Microsoft.App/managedEnvironments",
    "Microsoft.ContainerRegistry/registries",
    "Microsoft.ManagedIdentity/userAssignedIdentities",
    "Microsoft.Storage/storageAccounts",
)


async def everything(options: Options, arm: Arm) -> list[Mapping[str, Any]]:
    """Everything in the resource group, ours or not."""
    return await arm.list(
        f"{options.group_id}/resources", api_versions.RESOURCES, step="resource group"
    )


async def ours(options: Options, arm: Arm) -> list[Found]:
    """What we made and is there, in the order in which it can be removed."""
    found = []
    for item in await everything(options, arm):
        kind = _known(str(item.get("type")))
        if kind in ORDER and is_ours(item, options.name):
            full = await arm.get(str(item["id"]), api_versions.OF_TYPE[kind], step=WORDS[kind])
            if full is not None:
                state = lower(full.get("properties")).get("provisioningstate", "")
                name = str(item["id"]).rpartition("/")[2]
                found.append(Found(type=kind, name=name, id=str(item["id"]), state=str(state)))
    return sorted(found, key=lambda one: (ORDER.index(one.type), one.name))


async def look(options: Options, azure: Azure, tell: Tell) -> Inventory:
    """Say what is there.

    Raises:
        ProvisioningError: Azure did not say.
        AuthenticationError: The sign-in failed.
    """
    async with Arm(azure, options.subscription) as arm:
        tell(Progress("show", "working", f"looking into resource group {options.resource_group}"))
        found = await ours(options, arm)
        return Inventory(resources=tuple(found), deployment=await _deployment(options, arm, found))


async def _deployment(options: Options, arm: Arm, found: list[Found]) -> Deployment | None:
    wanted = resources.pool(options)
    pool = await arm.get(wanted.id, wanted.api_version, step=wanted.kind)
    if pool is None:
        return None
    kind = str(lower(pool.get("properties")).get("containertype", "")).lower()
    names = {one.name for one in found}
    app = resources.gateway_secrets(options, {})
    deployment = deployment_of(
        options,
        pool,
        kind="custom" if kind == "customcontainer" else "python",
        storage=resources.storage_account(options).name in names,
    )
    if app.name not in names:
        return deployment
    gateway = await arm.get(app.id, app.api_version, step="gateway") or {}
    return replace(deployment, mcp_endpoint=gateway_url(gateway))


def _known(kind: str) -> str:
    """A type as we spell it."""
    return next((name for name in ORDER if name.lower() == kind.lower()), kind)

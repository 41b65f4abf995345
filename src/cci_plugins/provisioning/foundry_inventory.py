"""The resources of Microsoft Foundry that belong to a deployment, and what stays when it goes.

An account or a project that was only named belongs to somebody else. Of those, only what `up`
created in them counts: the project or the model with its tag, and the connection to this pool.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cci_plugins.azure import api_versions
from cci_plugins.azure.foundry_agents import list_agents
from cci_plugins.azure.foundry_connection import is_made_elsewhere
from cci_plugins.azure.options import Azure
from cci_plugins.azure.resource import KIND_NAMES, Resource, lowercase_keys
from cci_plugins.azure.resource_manager import ArmClient
from cci_plugins.errors import AuthenticationError, ConfigurationError, ProvisioningError

from . import foundry_resources as bodies
from .deployment_run import has_owner_tag
from .foundry import FoundryDeployment, complete_foundry, read_foundry
from .options import Options
from .tags import FOUNDRY_TAG

_VERSION = api_versions.COGNITIVE_SERVICES


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A resource that exists.

    Attributes:
        type: Resource type, such as `Microsoft.App/sessionPools`.
        name: Its name.
        id: Resource id.
        state: Provisioning state, as Azure reports it.
    """

    type: str
    name: str
    id: str
    state: str

    @property
    def kind(self) -> str:
        """Its type in words, such as `session pool`."""
        return KIND_NAMES.get(self.type, self.type)


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundryInventory:
    """What a deployment has in Microsoft Foundry.

    Attributes:
        resources: What `up` created, in the order in which it can be removed.
        deployment: The project that the pool is connected to, or None.
        location: Region of the account that `up` created, or None.
        agents: Names of the agents in the project that `up` created. None if they are unknown.
        shared: Projects of others in the account that `up` created. With them the account stays.
    """

    resources: tuple[Found, ...] = ()
    deployment: FoundryDeployment | None = None
    location: str | None = None
    agents: tuple[str, ...] | None = ()
    shared: tuple[str, ...] = ()


async def read_foundry_inventory(
    options: Options,
    arm: ArmClient,
    azure: Azure,
    pool: Mapping[str, Any] | None,
    endpoint: str | None,
) -> FoundryInventory:
    """List what a deployment has in Microsoft Foundry.

    Args:
        options: What was provisioned.
        arm: Client of Resource Manager.
        azure: Sign-in, for the project's own API.
        pool: The pool, if it exists.
        endpoint: MCP endpoint of the pool or of its gateway.
    """
    own = await _read_own(options, arm, azure, endpoint)
    if not lowercase_keys((pool or {}).get("tags")).get(FOUNDRY_TAG):
        return own
    named = await complete_foundry(_forget_foundry(options), arm, pool)
    found = await _list_created(named, arm, endpoint)
    deployment = await read_foundry(named, arm)
    return FoundryInventory(
        resources=(*found, *own.resources),
        deployment=deployment or own.deployment,
        location=own.location,
        agents=own.agents,
        shared=own.shared,
    )


async def _read_own(
    options: Options, arm: ArmClient, azure: Azure, endpoint: str | None
) -> FoundryInventory:
    """List the account that `up` created, with all that is in it."""
    options = _forget_foundry(options)
    wanted = bodies.build_account(options)
    account = await arm.get(wanted.id, wanted.api_version, step=wanted.kind)
    if account is None or not has_owner_tag(account, options.name):
        return FoundryInventory()
    options = await complete_foundry(options, arm, None)
    ours = bodies.build_project(options)
    projects = await arm.list(f"{wanted.id}/projects", _VERSION, step=ours.kind)
    shared = [one for one in map(_read_id, projects) if one.lower() != ours.id.lower()]
    found = await _list_created(options, arm, endpoint)
    if not shared:
        models = await arm.list(f"{wanted.id}/deployments", _VERSION, step="model")
        found = [one for one in found if one.type != bodies.MODEL]
        found = [_to_found(bodies.MODEL, item) for item in models] + found
        found.append(_to_found(bodies.ACCOUNT, {**account, "id": wanted.id}))
    has_project = any(one.type == bodies.PROJECT for one in found)
    deployment = await read_foundry(options, arm)
    return FoundryInventory(
        resources=tuple(found),
        deployment=deployment,
        location=str(account.get("location") or options.location).replace(" ", "").lower(),
        agents=await _read_agents(deployment, azure) if has_project else (),
        shared=tuple(shared),
    )


async def _list_created(options: Options, arm: ArmClient, endpoint: str | None) -> list[Found]:
    """Return what `up` created below the account, in the order in which it can be removed."""
    found = []
    connection = bodies.build_connection(options)
    item = await arm.get(connection.id, _VERSION, step=connection.kind)
    if item is not None and _leads_to(item, endpoint):
        found.append(_to_found(bodies.CONNECTION, item))
    models = await arm.list(f"{bodies.get_account_id(options)}/deployments", _VERSION, step="model")
    found += [_to_found(bodies.MODEL, one) for one in models if has_owner_tag(one, options.name)]
    if options.foundry_project is None:
        project: Resource = bodies.build_project(options)
        item = await arm.get(project.id, _VERSION, step=project.kind)
        if item is not None and has_owner_tag(item, options.name):
            found.append(_to_found(bodies.PROJECT, item))
    return found


def _leads_to(connection: Mapping[str, Any], endpoint: str | None) -> bool:
    """Return whether a connection is the one to this deployment's endpoint."""
    properties = lowercase_keys(connection.get("properties"))
    target = str(properties.get("target") or "").rstrip("/").lower()
    is_same = endpoint is not None and target == endpoint.rstrip("/").lower()
    return is_same and not is_made_elsewhere(properties, endpoint or "")


async def _read_agents(
    deployment: FoundryDeployment | None, azure: Azure
) -> tuple[str, ...] | None:
    if deployment is None:
        return ()
    try:
        return tuple(await list_agents(deployment.project_endpoint, azure))
    except (ProvisioningError, AuthenticationError, ConfigurationError):
        return None


def _forget_foundry(options: Options) -> Options:
    """Return the options as if they did not mention Foundry, so that only what exists counts."""
    other = options.with_values(foundry=False, foundry_account=None, foundry_project=None)
    object.__setattr__(other, "given", options.given - {"foundry", "model"})
    return other


def _read_id(item: Mapping[str, Any]) -> str:
    return str(item.get("id"))


def _to_found(kind: str, item: Mapping[str, Any]) -> Found:
    state = lowercase_keys(item.get("properties")).get("provisioningstate") or ""
    identifier = _read_id(item)
    return Found(type=kind, name=identifier.rpartition("/")[2], id=identifier, state=str(state))

"""Removal of what `up` created in Microsoft Foundry, and of nothing else.

Azure refuses to remove an account that still has a project, and keeps a removed account for 48
hours with its name. So the order is: connection, models, project, account, and then the purge.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cci_plugins.azure import api_versions
from cci_plugins.azure.failures import FORBIDDEN, ArmError
from cci_plugins.errors import ProvisioningError

from . import foundry_resources as bodies
from .client import ProvisioningClient
from .deployment_run import StepReporter, has_owner_tag
from .foundry import build_deleted_path, format_purge_command
from .foundry_inventory import FoundryInventory
from .options import Options
from .progress import Progress, ProgressHandler

_VERSION = api_versions.COGNITIVE_SERVICES
_MOST_LISTED = 5


def check_agents(inventory: FoundryInventory) -> None:
    """Refuse to remove a project that has agents, or whose agents are unknown.

    Raises:
        ProvisioningError: It has, or they are.
    """
    if inventory.agents == ():
        return
    raise ProvisioningError(
        f"Foundry project: {describe_agents(inventory)}",
        hint="to remove them with the project, run: cci provision down --remove-agents",
        code="ProjectHasAgents",
        step="Foundry project",
    )


def describe_agents(inventory: FoundryInventory) -> str:
    """Return a sentence about the agents that go with the project."""
    names = inventory.agents
    if names is None:
        return "it may have agents: you may not list them, or the project cannot be reached"
    more = f" and {len(names) - _MOST_LISTED} more" if len(names) > _MOST_LISTED else ""
    count = "an agent" if len(names) == 1 else f"{len(names)} agents"
    return f"it has {count}: {', '.join(names[:_MOST_LISTED])}{more}"


async def remove_foundry(
    options: Options,
    arm: ProvisioningClient,
    inventory: FoundryInventory,
    on_progress: ProgressHandler,
) -> list[str]:
    """Remove what `up` created, and purge the account.

    Args:
        options: What was provisioned.
        arm: Client of Resource Manager.
        inventory: What there is.
        on_progress: Called with each progress.

    Returns:
        Ids of the resources that were removed.

    Raises:
        ProvisioningError: Azure refused a step, or it took too long.
    """
    removed = []
    for one in inventory.resources:
        reporter = StepReporter(on_progress, one.kind)
        reporter.report("working", f"removing {one.kind} {one.name}")
        await arm.delete(one.id, _VERSION, step=one.kind, report_waiting=reporter.report_waiting)
        reporter.report("removed", f"removed {one.kind} {one.name}")
        removed.append(one.id)
    if inventory.shared:
        names = ", ".join(one.rpartition("/")[2] for one in inventory.shared)
        message = f"the Foundry account stays, because it has other projects: {names}"
        on_progress(Progress("Foundry account", "note", message))
        return removed
    await _purge(options, arm, inventory.location, on_progress)
    return removed


async def _purge(
    options: Options,
    arm: ProvisioningClient,
    location: str | None,
    on_progress: ProgressHandler,
) -> None:
    """Purge the account that was removed, now or by a run that was interrupted."""
    if location is None:
        location = await _find_deleted_location(options, arm)
    if location is None:
        return
    name, kind = bodies.build_account(options).name, "Foundry account"
    reporter = StepReporter(on_progress, kind)
    try:
        await arm.delete(
            build_deleted_path(options, location),
            _VERSION,
            step=kind,
            report_waiting=reporter.report_waiting,
        )
    except ArmError as error:
        if error.status != FORBIDDEN:
            raise
        command = format_purge_command(options, location)
        reporter.report(
            "note",
            f"you may not purge {name}, so Azure keeps its name for 48 hours. The next cci "
            f"provision up restores it. To free the name, ask somebody to run: {command}",
        )
        return
    reporter.report("removed", f"purged {kind} {name}, so its name is free")


async def _find_deleted_location(options: Options, arm: ProvisioningClient) -> str | None:
    """Return the region of this deployment's account among the deleted ones, if it is there."""
    path = f"{options.subscription_id}/providers/{bodies.PROVIDER}/deletedAccounts"
    try:
        deleted = await arm.list(path, _VERSION, step="Foundry account")
    except ArmError:
        return None  # to read them is a right on the subscription
    group, name = options.resource_group.lower(), bodies.build_account(options).name.lower()
    for item in deleted:
        is_ours = _is_account(item, group, name) and has_owner_tag(item, options.name)
        if is_ours:
            return str(item.get("location") or "").replace(" ", "").lower() or None
    return None


def _is_account(item: Mapping[str, Any], group: str, name: str) -> bool:
    identifier = str(item.get("id")).lower()
    return identifier.endswith(f"/{name}") and f"/resourcegroups/{group}/" in identifier

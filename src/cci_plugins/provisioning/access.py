"""Role assignments: looked for first, made under a name that is always the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cci_plugins.azure import api_versions
from cci_plugins.errors import ProvisioningError

from . import resources
from .compare import lower
from .deployment_run import DeploymentRun, StepReporter
from .options import Options
from .principal import Principal
from .roles import (
    ACR_PULL,
    BLOB_CONTRIBUTOR,
    BLOB_DELEGATOR,
    ROLE_ASSIGNMENT_TYPE,
    SESSION_EXECUTOR,
    Role,
    build_assignment,
)


def list_user_roles(options: Options) -> list[tuple[Role, str]]:
    """What who uses the pool needs: each role and where."""
    needed = [(SESSION_EXECUTOR, resources.pool(options).id)]
    if options.storage:
        needed.append((BLOB_CONTRIBUTOR, resources.blob_container(options).id))
        needed.append((BLOB_DELEGATOR, resources.storage_account(options).id))
    return needed


def list_identity_roles(options: Options) -> list[tuple[Role, str]]:
    """What the identity needs, of the containers and the gateway."""
    needed = []
    if options.builds_image:
        needed.append((ACR_PULL, resources.registry(options).id))
    if options.gateway:
        needed.append((SESSION_EXECUTOR, resources.pool(options).id))
    return needed


async def assign(run: DeploymentRun, role: Role, scope: str, principal: Principal) -> None:
    """Give a role, unless it is there already, from here or inherited.

    Raises:
        ProvisioningError: Azure refused.
    """
    step = f"role {role.name}"
    if await _has_role(run, role, scope, principal, step):
        StepReporter(run.report, step).report("kept", f"{step} is given")
        return
    wanted = build_assignment(run.options, scope, role, principal.id, principal.type)
    try:
        await run.ensure(wanted, step=step, retry_role_propagation=True)
    except ProvisioningError as error:
        if error.code != "RoleAssignmentExists":
            raise
        StepReporter(run.report, step).report("kept", f"{step} is given")


async def _has_role(
    run: DeploymentRun, role: Role, scope: str, principal: Principal, step: str
) -> bool:
    found = await run.arm.list(
        f"{scope}/providers/{ROLE_ASSIGNMENT_TYPE}",
        api_versions.ROLES,
        step=step,
        filter=f"assignedTo('{principal.id}')",
    )
    return any(_parse_role_id(item) == role.id for item in found)


def _parse_role_id(found: Mapping[str, Any]) -> str:
    definition = lower(found.get("properties")).get("roledefinitionid", "")
    return str(definition).rpartition("/")[2].lower()

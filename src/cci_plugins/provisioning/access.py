"""Role assignments: looked for first, made under a name that is always the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cci_plugins.azure import api_versions
from cci_plugins.errors import ProvisioningError

from . import resources
from .compare import lower
from .deployment_run import Watch, Work
from .options import Options
from .principal import Principal
from .roles import (
    ACR_PULL,
    BLOB_CONTRIBUTOR,
    BLOB_DELEGATOR,
    SESSION_EXECUTOR,
    TYPE,
    Role,
    assignment,
)


def user_roles(options: Options) -> list[tuple[Role, str]]:
    """What who uses the pool needs: each role and where."""
    needed = [(SESSION_EXECUTOR, resources.pool(options).id)]
    if options.storage:
        needed.append((BLOB_CONTRIBUTOR, resources.blob_container(options).id))
        needed.append((BLOB_DELEGATOR, resources.storage_account(options).id))
    return needed


def identity_roles(options: Options) -> list[tuple[Role, str]]:
    """What the identity needs, of the containers and the gateway."""
    needed = []
    if options.builds_image:
        needed.append((ACR_PULL, resources.registry(options).id))
    if options.gateway:
        needed.append((SESSION_EXECUTOR, resources.pool(options).id))
    return needed


async def assign(work: Work, role: Role, scope: str, principal: Principal) -> None:
    """Give a role, unless it is there already, from here or inherited.

    Raises:
        ProvisioningError: Azure refused.
    """
    step = f"role {role.name}"
    if await _has(work, role, scope, principal, step):
        Watch(work.tell, step).tell("kept", f"{step} is given")
        return
    wanted = assignment(work.options, scope, role, principal.id, principal.type)
    try:
        await work.ensure(wanted, step=step, settles=True)
    except ProvisioningError as error:
        if error.code != "RoleAssignmentExists":
            raise
        Watch(work.tell, step).tell("kept", f"{step} is given")


async def _has(work: Work, role: Role, scope: str, principal: Principal, step: str) -> bool:
    found = await work.arm.list(
        f"{scope}/providers/{TYPE}",
        api_versions.ROLES,
        step=step,
        filter=f"assignedTo('{principal.id}')",
    )
    return any(_role_id(item) == role.id for item in found)


def _role_id(found: Mapping[str, Any]) -> str:
    definition = lower(found.get("properties")).get("roledefinitionid", "")
    return str(definition).rpartition("/")[2].lower()

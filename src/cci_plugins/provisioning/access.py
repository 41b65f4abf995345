"""Role assignments: the roles, who gets them, and how one is made.

An assignment's name is derived from scope, role and principal. So the same assignment is never
made twice, and `down` recognizes the ones that `up` made. `infra/` derives the same names.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cci_plugins.azure import api_versions
from cci_plugins.azure.credentials import decode_claims
from cci_plugins.azure.failures import FORBIDDEN, ArmError
from cci_plugins.azure.resource import Resource, lowercase_keys
from cci_plugins.azure.resource_manager import ArmClient
from cci_plugins.errors import ProvisioningError

from . import foundry_resources, resources
from .deployment_run import DeploymentRun, StepReporter
from .options import Options, PrincipalType

ROLE_ASSIGNMENT_TYPE = "Microsoft.Authorization/roleAssignments"
# The namespace of guid() in ARM templates, which `infra/` uses for the names.
_NAMESPACE = uuid.UUID("11fb06fb-712d-4ddd-98c7-e71bbd588830")


@dataclass(frozen=True, slots=True)
class Role:
    """A built-in role of Azure.

    Attributes:
        name: Its display name.
        id: Its id, which is the same in every subscription.
    """

    name: str
    id: str


SESSION_EXECUTOR = Role(
    "Azure ContainerApps Session Executor", "0fb8eba5-a2bb-4abe-b1c1-49dfad359bb0"
)
BLOB_CONTRIBUTOR = Role("Storage Blob Data Contributor", "ba92f5b4-2d11-453d-a403-e96b0029c9fe")
BLOB_DELEGATOR = Role("Storage Blob Delegator", "db58b8e5-c6ad-4a2a-8342-4190687cbf4a")
FOUNDRY_USER = Role("Foundry User", "53ca6127-db72-4b80-b1b0-d745d6d5456d")
ACR_PULL = Role("AcrPull", "7f951dda-4ed3-4680-a7ca-43fe172d538d")


@dataclass(frozen=True, slots=True)
class Principal:
    """A user, group or application that gets a role.

    Attributes:
        id: Object id in Microsoft Entra.
        type: Its type.
    """

    id: str
    type: PrincipalType


async def resolve_principal(options: Options, arm: ArmClient) -> Principal:
    """Return who will use the pool and the storage: the one in the options, or the signed-in one.

    Raises:
        ProvisioningError: The token does not name who is signed in.
    """
    if options.principal_id:
        return Principal(options.principal_id, options.principal_type or "User")
    claims = decode_claims((await arm.credential.get_token(arm.scope)).token)
    identifier = claims.get("oid")
    if not isinstance(identifier, str) or not identifier:
        raise ProvisioningError(
            "the token does not name who is signed in, so no role can be assigned",
            hint="pass the object id: --principal-id ID; az ad signed-in-user show --query id",
        )
    kind: PrincipalType = "ServicePrincipal" if claims.get("idtyp") == "app" else "User"
    return Principal(identifier, options.principal_type or kind)


def list_user_roles(options: Options) -> list[tuple[Role, str]]:
    """Return the roles that a user of the pool needs, each with its scope."""
    needed = [(SESSION_EXECUTOR, resources.build_pool(options).id)]
    if options.storage:
        needed.append((BLOB_CONTRIBUTOR, resources.build_blob_container(options).id))
        needed.append((BLOB_CONTRIBUTOR, resources.build_checkpoint_container(options).id))
        needed.append((BLOB_DELEGATOR, resources.build_storage_account(options).id))
    if options.foundry:
        needed.append((FOUNDRY_USER, foundry_resources.get_project_id(options)))
    return needed


def list_identity_roles(options: Options) -> list[tuple[Role, str]]:
    """Return the roles that the identity of pool and gateway needs, each with its scope."""
    needed = []
    if options.uses_own_registry:
        needed.append((ACR_PULL, resources.build_registry(options).id))
    if options.gateway:
        needed.append((SESSION_EXECUTOR, resources.build_pool(options).id))
    return needed


async def assign(
    run: DeploymentRun, role: Role, scope: str, principal: Principal, *, required: bool = False
) -> None:
    """Assign a role, unless the principal already has it on the scope or above.

    Args:
        run: The deployment.
        role: The role.
        scope: Resource id on which it is needed.
        principal: Who gets it.
        required: Whether nothing can work without it. Otherwise a role that you may not assign is
            a note, because the principal may have it in a way that is not visible here.

    Raises:
        ProvisioningError: Azure refused.
    """
    step = f"role {role.name}"
    try:
        if await _has_role(run, role, scope, principal, step):
            StepReporter(run.report, step).report("kept", f"{step} is assigned")
            return
        wanted = build_assignment(run.options, scope, role, principal.id, principal.type)
        await run.ensure(wanted, step=step, retry_role_propagation=True)
    except ArmError as error:
        if error.code == "RoleAssignmentExists":
            StepReporter(run.report, step).report("kept", f"{step} is assigned")
            return
        if error.status != FORBIDDEN or error.code == "RequestDisallowedByPolicy":
            raise
        command = format_assignment_command(role, scope, principal)
        if required:
            raise ProvisioningError(
                str(error), hint=f"{error.hint}, or ask somebody to run: {command}", step=step
            ) from None
        run.unassigned.append((role.id, command))
        run.add_note(step, f"you may not assign the {step}. If it is missing, run: {command}")


def format_assignment_command(role: Role, scope: str, principal: Principal) -> str:
    """Return the command of Azure's command line that assigns a role."""
    return (
        f"az role assignment create --assignee-object-id {principal.id} "
        f"--assignee-principal-type {principal.type} --role {role.id} --scope {scope}"
    )


def build_assignment_name(scope: str, role: str, principal: str) -> str:
    """Return the name of an assignment of this package, which is the same every time."""
    return str(uuid.uuid5(_NAMESPACE, f"{scope}-{principal}-{role}"))


def build_assignment(
    options: Options, scope: str, role: Role, principal: str, principal_type: PrincipalType
) -> Resource:
    """Build the assignment of one role to one principal on one resource."""
    name = build_assignment_name(scope, role.id, principal)
    definitions = f"{options.subscription_id}/providers/Microsoft.Authorization/roleDefinitions"
    return Resource(
        type=ROLE_ASSIGNMENT_TYPE,
        id=f"{scope}/providers/{ROLE_ASSIGNMENT_TYPE}/{name}",
        api_version=api_versions.ROLES,
        body={
            "properties": {
                "roleDefinitionId": f"{definitions}/{role.id}",
                "principalId": principal,
                "principalType": principal_type,
            }
        },
    )


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
    definition = lowercase_keys(found.get("properties")).get("roledefinitionid", "")
    return str(definition).rpartition("/")[2].lower()

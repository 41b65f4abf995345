"""Roles: which there are, and one assignment of one."""

from __future__ import annotations

import uuid
from dataclasses import dataclass

from cci_plugins.azure import api_versions
from cci_plugins.azure.resource import Resource

from .options import Options, PrincipalType

ROLE_ASSIGNMENT_TYPE = "Microsoft.Authorization/roleAssignments"
# Of ARM templates' guid(): so `infra/`, which names them by it, makes the same assignments.
_NAMESPACE = uuid.UUID("11fb06fb-712d-4ddd-98c7-e71bbd588830")


@dataclass(frozen=True, slots=True)
class Role:
    """A built-in role of Azure.

    Attributes:
        name: As people know it.
        id: As Azure knows it, everywhere the same.
    """

    name: str
    id: str


SESSION_EXECUTOR = Role(
    "Azure ContainerApps Session Executor", "0fb8eba5-a2bb-4abe-b1c1-49dfad359bb0"
)
BLOB_CONTRIBUTOR = Role("Storage Blob Data Contributor", "ba92f5b4-2d11-453d-a403-e96b0029c9fe")
BLOB_DELEGATOR = Role("Storage Blob Delegator", "db58b8e5-c6ad-4a2a-8342-4190687cbf4a")
ACR_PULL = Role("AcrPull", "7f951dda-4ed3-4680-a7ca-43fe172d538d")


def build_assignment_name(scope: str, role: str, principal: str) -> str:
    """The name of an assignment that is ours: whoever makes it, however often, the same."""
    return str(uuid.uuid5(_NAMESPACE, f"{scope}-{principal}-{role}"))


def build_definition_id(options: Options, role: Role) -> str:
    """The role's definition, as Resource Manager names it."""
    return f"{options.subscription_id}/providers/Microsoft.Authorization/roleDefinitions/{role.id}"


def build_assignment(
    options: Options, scope: str, role: Role, principal: str, principal_type: PrincipalType
) -> Resource:
    """One role for one principal, on one resource."""
    return Resource(
        type=ROLE_ASSIGNMENT_TYPE,
        id=f"{scope}/providers/{ROLE_ASSIGNMENT_TYPE}/{build_assignment_name(scope, role.id, principal)}",
        api_version=api_versions.ROLES,
        body={
            "properties": {
                "roleDefinitionId": build_definition_id(options, role),
                "principalId": principal,
                "principalType": principal_type,
            }
        },
    )

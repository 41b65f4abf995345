"""One resource as Azure Resource Manager takes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Resource:
    """A resource: where it is, and what it should be.

    Attributes:
        type: Such as `Microsoft.App/sessionPools`.
        id: Its id in Resource Manager.
        api_version: The API it is spoken of in.
        body: What is sent to make it; may hold a secret.
    """

    type: str
    id: str
    api_version: str
    body: Mapping[str, Any] = field(repr=False)

    @property
    def name(self) -> str:
        """The last part of its id."""
        return self.id.rpartition("/")[2]

    @property
    def kind(self) -> str:
        """What it is, in words."""
        return KIND_NAMES.get(self.type, self.type)


KIND_NAMES = {
    "Microsoft.App/managedEnvironments": "environment",
    "Microsoft.App/sessionPools": "session pool",
    "Microsoft.App/containerApps": "gateway",
    "Microsoft.ContainerRegistry/registries": "container registry",
    "Microsoft.ContainerRegistry/registries/taskRuns": "image",
    "Microsoft.ManagedIdentity/userAssignedIdentities": "identity",
    "Microsoft.Storage/storageAccounts": "storage account",
    "Microsoft.Storage/storageAccounts/blobServices/containers": "blob container",
    "Microsoft.Storage/storageAccounts/managementPolicies": "lifecycle rule",
    "Microsoft.Authorization/roleAssignments": "role assignment",
    "Microsoft.Resources/resourceGroups": "resource group",
}

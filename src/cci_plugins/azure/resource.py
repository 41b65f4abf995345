"""One resource as Azure Resource Manager expects it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Resource:
    """A resource: its place in Azure, and its desired state.

    Attributes:
        type: Resource type, such as `Microsoft.App/sessionPools`.
        id: Resource id.
        api_version: API version of its requests.
        body: Body of the request that creates it. It may hold a secret.
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
        """Its type in words, such as `session pool`."""
        return KIND_NAMES.get(self.type, self.type)


KIND_NAMES = {
    "Microsoft.App/managedEnvironments": "environment",
    "Microsoft.App/sessionPools": "session pool",
    "Microsoft.App/containerApps": "gateway",
    "Microsoft.ContainerRegistry/registries": "container registry",
    "Microsoft.ContainerRegistry/registries/taskRuns": "image",
    "Microsoft.ManagedIdentity/userAssignedIdentities": "identity",
    "Microsoft.Insights/diagnosticSettings": "log setting",
    "Microsoft.OperationalInsights/workspaces": "log workspace",
    "Microsoft.Storage/storageAccounts": "storage account",
    "Microsoft.Storage/storageAccounts/blobServices/containers": "blob container",
    "Microsoft.Storage/storageAccounts/managementPolicies": "lifecycle rule",
    "Microsoft.CognitiveServices/accounts": "Foundry account",
    "Microsoft.CognitiveServices/accounts/projects": "Foundry project",
    "Microsoft.CognitiveServices/accounts/deployments": "model",
    "Microsoft.CognitiveServices/accounts/projects/connections": "Foundry connection",
    "Microsoft.Authorization/roleAssignments": "role assignment",
    "Microsoft.Resources/resourceGroups": "resource group",
}


def lowercase_keys(value: object) -> dict[str, Any]:
    """Return a JSON object with its keys in lower case, or an empty one for any other value.

    Azure changes the case of keys between API versions, so answers are read without it.
    """
    if not isinstance(value, Mapping):
        return {}
    return {str(name).lower(): item for name, item in value.items()}

"""Which version of each API of Azure is spoken; every one stands here, and only here.

Microsoft.App has one for all its resources: the newest preview whose description is published and
that still knows `mcpServerSettings`, which the stable versions have not.
"""

from __future__ import annotations

APP = "2025-10-02-preview"
REGISTRY = "2025-04-01"
REGISTRY_TASKS = "2025-03-01-preview"
IDENTITY = "2024-11-30"
STORAGE = "2025-01-01"
ROLES = "2022-04-01"
RESOURCES = "2021-04-01"
FEATURES = "2021-07-01"
SUBSCRIPTIONS = "2022-12-01"
COGNITIVE_SERVICES = "2025-12-01"

OF_TYPE = {
    "Microsoft.App/managedEnvironments": APP,
    "Microsoft.App/sessionPools": APP,
    "Microsoft.App/containerApps": APP,
    "Microsoft.ContainerRegistry/registries": REGISTRY,
    "Microsoft.ManagedIdentity/userAssignedIdentities": IDENTITY,
    "Microsoft.Storage/storageAccounts": STORAGE,
    "Microsoft.Storage/storageAccounts/blobServices/containers": STORAGE,
    "Microsoft.Storage/storageAccounts/managementPolicies": STORAGE,
    "Microsoft.Authorization/roleAssignments": ROLES,
    "Microsoft.Resources/resourceGroups": RESOURCES,
}

"""The version of each Azure API that this package calls. No other module names a version.

`APP` is the stable version for everything in Microsoft.App except a managed pool: its
`mcpServerSettings` are in previews only, so `MANAGED_POOL` is one. Previews retire, and neither was
tried on Azure, so `ArmClient` continues with a version of `FALLBACKS` where Azure refuses one. The
client of a pool's REST API does the same with `DATA_PLANE_FALLBACKS`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

REFUSALS = frozenset(
    {
        "InvalidApiVersionParameter",
        "NoRegisteredProviderFound",
        "InvalidApiVersion",  # the data plane's own
        "UnsupportedApiVersion",
    }
)
_VERSION = re.compile(r"\b20\d\d-\d\d-\d\d(?:-preview)?\b")

APP = "2026-07-01"
MANAGED_POOL = "2025-10-02-preview"
# Versions to try next, in order, for what each version is used for.
FALLBACKS = {APP: ("2025-10-02-preview",), MANAGED_POOL: ("2026-03-02-preview",)}
TEMPLATE_STATUS = MANAGED_POOL  # `templateUpdateStatus` is in previews only
REGISTRY = "2025-04-01"
REGISTRY_TASKS = "2025-03-01-preview"
IDENTITY = "2024-11-30"
STORAGE = "2025-01-01"
DIAGNOSTICS = "2021-05-01-preview"  # the only version with categoryGroup
WORKSPACES = "2025-02-01"
ROLES = "2022-04-01"
RESOURCES = "2021-04-01"
FEATURES = "2021-07-01"
SUBSCRIPTIONS = "2022-12-01"
COGNITIVE_SERVICES = "2025-12-01"  # the first stable one whose connections have `RemoteTool`
# The first with connections that sign in as the agent, which a toolbox needs.
COGNITIVE_SERVICES_PREVIEW = "2025-10-01-preview"

# The data plane of session pools.
DATA_PLANE = "2025-10-02-preview"
DATA_PLANE_EXECUTE = "2024-02-02-preview"  # the second to last version with /code/execute
DATA_PLANE_MANAGEMENT = "2025-02-02-preview"
DATA_PLANE_FALLBACKS = {
    DATA_PLANE: ("2025-02-02-preview", "2024-10-02-preview"),
    DATA_PLANE_EXECUTE: ("2024-08-02-preview",),
    DATA_PLANE_MANAGEMENT: ("2025-10-02-preview",),
}

OF_TYPE = {
    "Microsoft.App/managedEnvironments": APP,
    "Microsoft.App/sessionPools": APP,  # a managed pool is created and read at MANAGED_POOL
    "Microsoft.App/containerApps": APP,
    "Microsoft.ContainerRegistry/registries": REGISTRY,
    "Microsoft.ManagedIdentity/userAssignedIdentities": IDENTITY,
    "Microsoft.Insights/diagnosticSettings": DIAGNOSTICS,
    "Microsoft.OperationalInsights/workspaces": WORKSPACES,
    "Microsoft.Storage/storageAccounts": STORAGE,
    "Microsoft.Storage/storageAccounts/blobServices/containers": STORAGE,
    "Microsoft.Storage/storageAccounts/managementPolicies": STORAGE,
    "Microsoft.CognitiveServices/accounts": COGNITIVE_SERVICES,
    "Microsoft.CognitiveServices/accounts/projects": COGNITIVE_SERVICES,
    "Microsoft.CognitiveServices/accounts/deployments": COGNITIVE_SERVICES,
    "Microsoft.CognitiveServices/accounts/projects/connections": COGNITIVE_SERVICES,
    "Microsoft.Authorization/roleAssignments": ROLES,
    "Microsoft.Resources/resourceGroups": RESOURCES,
}


def choose_other_version(
    wanted: str, ours: Sequence[str], message: str, tried: Sequence[str]
) -> str | None:
    """Return the version to try after a refusal, or None if all were refused.

    Args:
        wanted: The version that this package prefers.
        ours: Versions that this package can use instead, in order.
        message: Azure's refusal, which may list the versions that it has.
        tried: Versions that were refused.
    """
    listed = [version for version in _VERSION.findall(message) if version not in tried]
    left = [one for one in ours if one not in tried]
    preview = wanted.endswith("-preview")
    same_kind = sorted(one for one in listed if one.endswith("-preview") is preview)
    # first what both know, then the newest that Azure lists, else what we would try anyhow
    newest = sorted(listed)[-1:]
    for choice in ([one for one in left if one in listed], same_kind[-1:], newest, left):
        if choice:
            return choice[0]
    return None

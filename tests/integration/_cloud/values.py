"""Ids of the fake cloud, and every secret that it plants."""

import base64
import json
import time
from uuid import UUID

SUBSCRIPTION = "00000000-0000-0000-0000-000000000001"
TENANT = "11111111-0000-0000-0000-000000000001"
USER = "22222222-0000-0000-0000-000000000001"
CLIENT = "33333333-0000-0000-0000-000000000001"
IDENTITY_PRINCIPAL = "44444444-0000-0000-0000-000000000001"
IDENTITY_CLIENT = "55555555-0000-0000-0000-000000000001"

# Built-in roles that the tests use (learn.microsoft.com, Azure built-in roles).
ROLES: dict[str, dict[str, object]] = {
    "b24988ac-6180-42a0-ab88-20f7382dd24c": {
        "roleName": "Contributor",
        "actions": ["*"],
        "notActions": ["Microsoft.Authorization/*/Write", "Microsoft.Authorization/*/Delete"],
    },
    "f58310d9-a9f6-439a-9e8d-f62e7b41a168": {
        "roleName": "Role Based Access Control Administrator",
        "actions": ["Microsoft.Authorization/roleAssignments/write", "*/read"],
    },
    "0fb8eba5-a2bb-4abe-b1c1-49dfad359bb0": {
        "roleName": "Azure ContainerApps Session Executor",
        "actions": ["Microsoft.App/sessionPools/*/read"],
        "dataActions": ["Microsoft.App/sessionPools/interpreters/execute/action"],
    },
    "ba92f5b4-2d11-453d-a403-e96b0029c9fe": {
        "roleName": "Storage Blob Data Contributor",
        "actions": ["Microsoft.Storage/storageAccounts/blobServices/containers/write"],
        "dataActions": ["Microsoft.Storage/storageAccounts/blobServices/containers/blobs/write"],
    },
    "db58b8e5-c6ad-4a2a-8342-4190687cbf4a": {
        "roleName": "Storage Blob Delegator",
        "actions": [
            "Microsoft.Storage/storageAccounts/blobServices/generateUserDelegationKey/action"
        ],
    },
}

CLIENT_SECRET = "planted-secret-of-the-client"
SIGNATURE = "planted-signature-of-a-link"
POOL_KEY = "planted-key-of-the-pool"  # as in _emulated
DATA_TOKEN = "planted-token-of-entra"  # as in _emulated
ROTATED_KEY = "planted-key-after-rotation"


def _part(value: dict[str, object]) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


def token(user: str = USER, kind: str = "user") -> str:
    """Build a token for Resource Manager in the form of Entra's tokens."""
    claims = {
        "aud": "https://management.azure.com",
        "iss": f"https://sts.windows.net/{TENANT}/",
        "oid": str(UUID(user)),
        "tid": TENANT,
        "idtyp": kind,
        "exp": int(time.time()) + 3600,
    }
    return f"{_part({'alg': 'RS256', 'typ': 'JWT'})}.{_part(claims)}.planted-token-of-arm"


ARM_TOKEN = token()
SECRETS = (CLIENT_SECRET, SIGNATURE, POOL_KEY, DATA_TOKEN, ROTATED_KEY, ARM_TOKEN, "planted-")

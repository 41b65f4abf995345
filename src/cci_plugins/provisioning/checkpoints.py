"""Saved sessions in the storage account, which `down` does not remove without being asked."""

from __future__ import annotations

from typing import Literal

from cci_plugins.azure import api_versions
from cci_plugins.azure.options import Azure
from cci_plugins.azure.resource import lowercase_keys
from cci_plugins.azure.resource_manager import ArmClient
from cci_plugins.errors import CodeInterpreterError, ConfigurationError
from cci_plugins.files.blob import BlobStorage

from . import resources
from .foundry_inventory import Found
from .options import Options

STORAGE_TYPE = "Microsoft.Storage/storageAccounts"
Content = Literal["none", "some", "unknown"]


async def find_checkpoints(options: Options, azure: Azure, arm: ArmClient, one: Found) -> Content:
    """Return whether an account has saved sessions. Only a look into its container can show it.

    Args:
        options: What was provisioned.
        azure: The sign-in.
        arm: Client of Resource Manager.
        one: The account.
    """
    container = resources.build_checkpoint_container(options)
    if await arm.get(container.id, container.api_version, step=container.kind) is None:
        return "none"
    found = await arm.get(one.id, api_versions.OF_TYPE[one.type], step=one.kind) or {}
    endpoints = lowercase_keys(lowercase_keys(found.get("properties")).get("primaryendpoints"))
    endpoint = endpoints.get("blob")
    if not endpoint:
        return "none"  # without an address nobody can have saved anything
    try:
        return "none" if await is_empty(str(endpoint), azure) else "some"
    except CodeInterpreterError:
        return "unknown"


async def is_empty(endpoint: str, azure: Azure) -> bool:
    """Return whether the container for saved sessions has no blob.

    Args:
        endpoint: Address of the account's blob service.
        azure: The sign-in.

    Raises:
        CodeInterpreterError: The container cannot be read.
    """
    if isinstance(azure.credential, str):
        raise ConfigurationError("a token for Resource Manager does not open the storage")
    storage = BlobStorage(
        endpoint, resources.CHECKPOINT_CONTAINER, credential=azure.credential, ca_file=azure.ca
    )
    try:
        return await storage.is_empty()
    finally:
        await storage.aclose()


def describe_kept(one: Found, content: Content) -> str:
    """Return why an account stays."""
    what = "has saved sessions" if content == "some" else "may have saved sessions"
    return f"{one.kind} {one.name} stays, because it {what}; --remove-checkpoints removes it"

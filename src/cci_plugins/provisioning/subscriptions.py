"""Which subscription, where none was named."""

from __future__ import annotations

from cci_plugins.azure import api_versions
from cci_plugins.azure.options import Azure
from cci_plugins.azure.resource_manager import ArmClient
from cci_plugins.errors import ConfigurationError

_MAX_LISTED = 8


async def find_only_subscription(azure: Azure) -> str:
    """The id of the one subscription that the sign-in sees.

    Raises:
        ConfigurationError: It sees none, or several.
        AuthenticationError: The sign-in failed.
    """
    async with ArmClient(azure, "") as arm:
        found = await arm.list("/subscriptions", api_versions.SUBSCRIPTIONS, step="subscription")
    enabled = [one for one in found if str(one.get("state", "Enabled")).lower() == "enabled"]
    if not enabled:
        raise ConfigurationError(
            "this sign-in sees no subscription", hint="az login --tenant TENANT; az account list"
        )
    if len(enabled) > 1:
        names = ", ".join(str(one.get("displayName")) for one in enabled[:_MAX_LISTED])
        raise ConfigurationError(
            f"this sign-in sees {len(enabled)} subscriptions: {names}",
            hint="name one by --subscription ID; az account list --output table",
        )
    return str(enabled[0]["subscriptionId"])

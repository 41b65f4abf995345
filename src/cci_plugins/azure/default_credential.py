"""The sign-in of this machine, as azure-identity finds it."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from cci_plugins.errors import ConfigurationError

if TYPE_CHECKING:
    from azure.identity import DefaultAzureCredential


def create_default_credential() -> DefaultAzureCredential:
    """Return the sign-in of this machine, as `DefaultAzureCredential` finds it.

    Raises:
        ConfigurationError: The extra `azure` is not installed.
    """
    try:
        from azure.identity import DefaultAzureCredential  # noqa: PLC0415 - heavy, and an extra
    except ModuleNotFoundError:
        raise ConfigurationError(
            "signing in to Azure needs azure-identity", hint='pip install "cci-plugins[azure]"'
        ) from None
    from .sign_in_transport import build_sign_in_transport  # noqa: PLC0415 - as above

    return DefaultAzureCredential(transport=build_sign_in_transport())


def build_sign_in_hint() -> str:
    """Return what to do after a failed sign-in."""
    if shutil.which("az") is None:
        return (
            "install Azure's command line (https://aka.ms/azure-cli) and run: az login; or give "
            "the app a managed identity"
        )
    return "run: az login; or give the app a managed identity"

"""Keys of a pool's MCP server and of a gateway: how they are fetched and replaced."""

from __future__ import annotations

from collections.abc import Mapping
from secrets import token_urlsafe
from typing import Any

from cci_plugins.azure import api_versions
from cci_plugins.azure.options import Azure
from cci_plugins.azure.resource import lowercase_keys
from cci_plugins.errors import ProvisioningError
from cci_plugins.redaction import know

from . import resources
from .client import ProvisioningClient
from .deployment_run import StepReporter
from .options import Options
from .progress import Progress, ProgressHandler


async def fetch_key(arm: ProvisioningClient, pool_id: str) -> str:
    """Return the key of a pool.

    Raises:
        ProvisioningError: The pool has no key, or a role is missing.
    """
    return await _request_key(arm, f"{pool_id}/fetchMcpServerCredentials", "key")


async def rotate(options: Options, azure: Azure, on_progress: ProgressHandler) -> None:
    """Replace the key of the pool's MCP server, or of the gateway in front of a custom pool.

    Azure may accept the old key of a pool for five more minutes.

    Args:
        options: What was provisioned.
        azure: Address, sign-in and waiting times for Azure.
        on_progress: Called with each progress.

    Raises:
        ProvisioningError: The pool has no key, or a role is missing.
        AuthenticationError: The sign-in failed.
    """
    pool = resources.build_pool(options)
    async with ProvisioningClient(azure, options.subscription) as arm:
        app = resources.build_gateway_secrets(options, {})
        found = await arm.get(app.id, app.api_version, step="gateway")
        if found is not None:
            await _rotate_gateway(options, arm, on_progress)
            return
        on_progress(Progress("key", "working", f"creating a new key for session pool {pool.name}"))
        await _request_key(arm, f"{pool.id}/rotateMcpServerCredentials", "key")
    on_progress(
        Progress(
            "key", "updated", "the pool has a new key; the old one may work for 5 more minutes"
        )
    )


async def fetch_gateway_secrets(arm: ProvisioningClient, options: Options) -> dict[str, str]:
    """Return the gateway's secrets, with new ones where it has none yet."""
    app = resources.build_gateway_secrets(options, {})
    found: Mapping[str, Any] = {}
    if await arm.get(app.id, app.api_version, step="gateway") is not None:
        found = await arm.post(f"{app.id}/listSecrets", api_versions.APP, step="gateway")
    known = {
        lowercase_keys(one).get("name"): lowercase_keys(one).get("value")
        for one in found.get("value") or []
    }
    names = (resources.SERVE_KEY, resources.SESSION_SECRET)
    secrets = {name: str(known.get(name) or token_urlsafe(32)) for name in names}
    for secret in secrets.values():
        know(secret)
    return secrets


async def _rotate_gateway(
    options: Options, arm: ProvisioningClient, on_progress: ProgressHandler
) -> None:
    """Replace the key and restart the gateway, because running replicas keep old secrets."""
    reporter = StepReporter(on_progress, "gateway")
    reporter.report("working", "creating a new key for the gateway; this takes a minute")
    key = token_urlsafe(32)
    know(key)
    secrets = await fetch_gateway_secrets(arm, options) | {resources.SERVE_KEY: key}
    wanted = resources.build_gateway_secrets(options, secrets)
    await arm.put(wanted, step="gateway", report_waiting=reporter.report_waiting, method="PATCH")
    found = await arm.get(wanted.id, wanted.api_version, step="gateway") or {}
    revision = lowercase_keys(found.get("properties")).get("latestrevisionname")
    if revision:
        path = f"{wanted.id}/revisions/{revision}/restart"
        await arm.post(path, api_versions.APP, step="gateway")
    reporter.report("updated", "the gateway has a new key, and restarts")


async def _request_key(arm: ProvisioningClient, path: str, step: str) -> str:
    try:
        found = await arm.post(path, api_versions.MANAGED_POOL, step=step)
    except ProvisioningError as error:
        if error.code != "SessionMCPServerNotEnabled":
            raise
        raise ProvisioningError(
            f"{step}: this pool has no MCP server and therefore no key",
            hint="a custom pool is used by signing in; see cci provision show",
            code=error.code,
            step=step,
        ) from None
    key = lowercase_keys(found).get("apikey")
    if not isinstance(key, str) or not key:
        raise ProvisioningError(f"{step}: Azure answered without a key", step=step)
    know(key)
    return key

"""Keys: of a pool's MCP server and of a gateway; fetched when needed, and made anew."""

from __future__ import annotations

from collections.abc import Mapping
from secrets import token_urlsafe
from typing import Any

from cci_plugins.azure import api_versions
from cci_plugins.azure.options import Azure
from cci_plugins.azure.resource_manager import ArmClient
from cci_plugins.errors import ProvisioningError
from cci_plugins.redaction import know

from . import resources
from .compare import lower
from .deployment_run import StepReporter
from .options import Options
from .progress import Progress, ProgressHandler


async def fetch_key(arm: ArmClient, pool_id: str) -> str:
    """The key of a pool.

    Raises:
        ProvisioningError: The pool has none, or a role is missing.
    """
    return await _request_key(arm, f"{pool_id}/fetchMcpServerCredentials", "key")


async def rotate(options: Options, azure: Azure, on_progress: ProgressHandler) -> None:
    """Make a new key: of the pool's MCP server, or of the gateway in front of a custom pool.

    Azure may still take the old key of a pool for five minutes.

    Raises:
        ProvisioningError: There is no key, or a role is missing.
        AuthenticationError: The sign-in failed.
    """
    pool = resources.pool(options)
    async with ArmClient(azure, options.subscription) as arm:
        app = resources.build_gateway_secrets(options, {})
        found = await arm.get(app.id, app.api_version, step="gateway")
        if found is not None:
            await _rotate_gateway(options, arm, on_progress)
            return
        on_progress(Progress("key", "working", f"making a new key for session pool {pool.name}"))
        await _request_key(arm, f"{pool.id}/rotateMcpServerCredentials", "key")
    on_progress(
        Progress("key", "updated", "the pool has a new key; the old one may work 5 minutes more")
    )


async def fetch_gateway_secrets(arm: ArmClient, options: Options) -> dict[str, str]:
    """The secrets that the gateway has; new ones for those it has not."""
    app = resources.build_gateway_secrets(options, {})
    found: Mapping[str, Any] = {}
    if await arm.get(app.id, app.api_version, step="gateway") is not None:
        found = await arm.post(f"{app.id}/listSecrets", api_versions.APP, step="gateway")
    known = {lower(one).get("name"): lower(one).get("value") for one in found.get("value") or []}
    names = (resources.SERVE_KEY, resources.SESSION_SECRET)
    secrets = {name: str(known.get(name) or token_urlsafe(32)) for name in names}
    for secret in secrets.values():
        know(secret)
    return secrets


async def _rotate_gateway(options: Options, arm: ArmClient, on_progress: ProgressHandler) -> None:
    """Change the key, and start the gateway anew: running replicas do not see new secrets."""
    reporter = StepReporter(on_progress, "gateway")
    reporter.report("working", "making a new key for the gateway; this takes a minute")
    key = token_urlsafe(32)
    know(key)
    secrets = await fetch_gateway_secrets(arm, options) | {resources.SERVE_KEY: key}
    wanted = resources.build_gateway_secrets(options, secrets)
    await arm.put(wanted, step="gateway", report_waiting=reporter.report_waiting, method="PATCH")
    found = await arm.get(wanted.id, wanted.api_version, step="gateway") or {}
    revision = lower(found.get("properties")).get("latestrevisionname")
    if revision:
        path = f"{wanted.id}/revisions/{revision}/restart"
        await arm.post(path, api_versions.APP, step="gateway")
    reporter.report("updated", "the gateway has a new key, and starts anew")


async def _request_key(arm: ArmClient, path: str, step: str) -> str:
    try:
        found = await arm.post(path, api_versions.APP, step=step)
    except ProvisioningError as error:
        if error.code != "SessionMCPServerNotEnabled":
            raise
        raise ProvisioningError(
            f"{step}: this pool has no MCP server, and so no key",
            hint="a custom pool is opened by signing in; see cci provision show",
            code=error.code,
            step=step,
        ) from None
    key = lower(found).get("apikey")
    if not isinstance(key, str) or not key:
        raise ProvisioningError(f"{step}: Azure answered without a key", step=step)
    know(key)
    return key

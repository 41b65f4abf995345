"""Deployment from nothing to a pool that runs code.

The steps run in a fixed order: registrations, resource group, environment, registry, identity,
image, pool, storage, gateway, Foundry, roles, `.env` file, smoke test. Each one reads the current
state and changes only what differs. So a run that was interrupted, or that failed, continues with
the same command. What Azure reports after a change counts, not what it accepted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from cci_plugins.azure.options import Azure
from cci_plugins.azure.resource import lowercase_keys
from cci_plugins.common.settings import get_variable_name
from cci_plugins.errors import ProvisioningError

from . import resources
from .access import (
    ACR_PULL,
    Principal,
    assign,
    list_identity_roles,
    list_user_roles,
    resolve_principal,
)
from .build import build
from .client import ProvisioningClient
from .deployment import Deployment, build_deployment, parse_gateway_url, read_back_pool
from .deployment_run import DeploymentRun
from .dotenv import write_env
from .existing import Existing, build_pool_change, complete_options
from .foundry import check_model, ensure_foundry
from .image import BuildContext, build_context
from .keys import fetch_gateway_secrets, fetch_key
from .options import Options
from .plan import list_warnings
from .pool_watch import ensure_watched
from .progress import ProgressHandler
from .registration import register
from .smoke_test import smoke_test

_POOL_DURATION = "1 to 10 minutes, at times up to an hour"


@dataclass(frozen=True, slots=True, kw_only=True)
class PostDeployOptions:
    """Options for the steps after a deployment.

    Attributes:
        env_file: File for the variables, if any.
        write_key: Whether to write the pool's key too.
        replace_env: Whether to replace values that the file already has.
        try_out: Whether to run `1+1` in the pool.
    """

    env_file: Path | None = None
    write_key: bool = False
    replace_env: bool = False
    try_out: bool = True


class _Gateway(NamedTuple):
    """The gateway's MCP endpoint, if Azure names it already, and its key."""

    endpoint: str | None
    key: str


async def deploy(
    options: Options, azure: Azure, post_deploy: PostDeployOptions, on_progress: ProgressHandler
) -> Deployment:
    """Create what is missing.

    Args:
        options: What to provision.
        azure: Address, sign-in and waiting times for Azure.
        post_deploy: The steps after the deployment.
        on_progress: Called with each progress.

    Returns:
        The pool and what belongs to it.

    Raises:
        ProvisioningError: Azure refused a step, or it took too long.
        AuthenticationError: The sign-in failed.
        ConfigurationError: A file cannot be read or written.
    """
    async with ProvisioningClient(azure, options.subscription) as arm:
        user = await resolve_principal(options, arm)
        existing = await complete_options(options, arm)
        options = existing.options
        context = _pack_image(options) if existing.needs_build else None
        run = DeploymentRun(options, azure, arm, on_progress)
        for warning in list_warnings(options):
            run.add_note("session pool", warning)
        for warning in await check_model(options, arm):
            run.add_note("model", warning)
        await _prepare(run)
        identity = await _ensure_identity(run)
        image = await _ensure_image(run, existing, context, identity)
        pool = await _ensure_pool(run, image)
        await _ensure_storage(run)
        deployment = await _read_back(run, pool)
        gateway = await _ensure_gateway(run, image, deployment, identity)
        if gateway is not None:
            deployment = replace(deployment, mcp_endpoint=gateway.endpoint)
        if options.foundry:
            deployment = await _ensure_foundry(run, deployment, gateway)
        for role, scope in list_user_roles(options):
            await assign(run, role, scope, user)
        await _finish(run, deployment, post_deploy)
    return replace(deployment, changed=tuple(run.changed), notes=tuple(run.notes))


async def _prepare(run: DeploymentRun) -> None:
    pool = resources.build_pool(run.options)
    existing = await run.arm.get(pool.id, pool.api_version, step="session pool")
    await register(run, force=existing is None)
    group = resources.build_resource_group(run.options)
    if await run.arm.get(group.id, group.api_version, step=group.kind) is None:
        await run.ensure(group)


async def _ensure_identity(run: DeploymentRun) -> Mapping[str, Any]:
    """Create environment, registry and identity, and return the identity's own ids."""
    options = run.options
    if options.kind == "custom" and options.environment is None:
        environment = resources.build_environment(options)
        await run.ensure(environment, expected_duration="2 to 5 minutes")
    if options.logs:
        await run.ensure(resources.build_workspace(options), expected_duration="a minute")
        await run.ensure(resources.build_diagnostic_setting(options))
    if options.uses_own_registry:
        await run.ensure(resources.build_registry(options), expected_duration="a minute")
    if not (options.uses_own_registry or options.gateway):
        return {}
    found = await run.ensure(resources.build_identity(options))
    properties = lowercase_keys(found.get("properties"))
    if "principalid" not in properties:
        raise ProvisioningError(
            "identity: Azure does not report its ids yet",
            hint="run the same command again; it continues from here",
            step="identity",
        )
    return properties


async def _ensure_image(
    run: DeploymentRun,
    existing: Existing,
    context: BuildContext | None,
    identity: Mapping[str, Any],
) -> str:
    if run.options.uses_own_registry:
        puller = Principal(str(identity["principalid"]), "ServicePrincipal")
        registry = resources.build_registry(run.options)
        await assign(run, ACR_PULL, registry.id, puller, required=True)
    if not run.options.builds_image:
        return run.options.image or ""
    if context is not None:
        return await build(run, context)
    run.add_note("image", "the pool keeps its image; --requirements FILE builds another one")
    return existing.built_image or ""


def _pack_image(options: Options) -> BuildContext:
    return build_context(options.requirements, base=options.base)


async def _ensure_pool(run: DeploymentRun, image: str) -> Mapping[str, Any]:
    wanted = resources.build_pool(run.options, image)
    if run.options.kind == "custom":
        ensure = partial(
            run.ensure,
            wanted,
            expected_duration=_POOL_DURATION,
            retry_role_propagation=run.options.uses_own_registry,
            change=build_pool_change(wanted),
        )
        await ensure_watched(run, wanted, ensure)
    else:
        await run.ensure(wanted, expected_duration=_POOL_DURATION)
    return await read_back_pool(run, wanted)


async def _ensure_storage(run: DeploymentRun) -> None:
    if run.options.storage:
        await run.ensure(resources.build_storage_account(run.options), expected_duration="a minute")
        await run.ensure(resources.build_blob_container(run.options))
        await run.ensure(resources.build_checkpoint_container(run.options))
        await run.ensure(resources.build_lifecycle_rule(run.options))


async def _read_back(run: DeploymentRun, pool: Mapping[str, Any]) -> Deployment:
    options = run.options
    deployment = build_deployment(options, pool, kind=options.kind, storage=options.storage)
    if options.kind == "custom" and not options.gateway:
        run.add_note(
            "session pool",
            "a custom pool has no MCP endpoint of its own: Azure drops mcpServerSettings there "
            "(github.com/microsoft-foundry/foundry-samples/issues/822). This package does not need "
            "one. For Foundry and other MCP clients add --gateway",
        )
    if options.kind == "python" and deployment.mcp_endpoint is None:
        raise ProvisioningError(
            "session pool: Azure created the pool but dropped mcpServerSettings, so the pool has "
            "no MCP endpoint",
            hint="make another pool: add --suffix OTHER and --location REGION, such as "
            "swedencentral; or use this pool without MCP: "
            f"{get_variable_name('endpoint')}={deployment.pool_endpoint}",
            code="McpServerSettingsDropped",
            step="session pool",
        )
    return deployment


async def _ensure_gateway(
    run: DeploymentRun, image: str, deployment: Deployment, identity: Mapping[str, Any]
) -> _Gateway | None:
    """Create the gateway of a custom pool. It keeps its key."""
    options = run.options
    if not options.gateway:
        return None
    principal = Principal(str(identity["principalid"]), "ServicePrincipal")
    for role, scope in list_identity_roles(options):
        await assign(run, role, scope, principal, required=role is ACR_PULL)
    secrets = await fetch_gateway_secrets(run.arm, options)
    wanted = resources.build_gateway(
        options,
        image,
        pool_endpoint=deployment.pool_endpoint,
        client_id=str(identity.get("clientid")),
        secrets=secrets,
    )
    found = await run.ensure(wanted, expected_duration="1 to 2 minutes")
    run.add_note(
        "gateway",
        "its key is a secret of the container app: az containerapp secret show --name "
        f"{wanted.name} --resource-group {options.resource_group} "
        f"--secret-name {resources.SERVE_KEY}",
    )
    return _Gateway(parse_gateway_url(found), secrets[resources.SERVE_KEY])


async def _ensure_foundry(
    run: DeploymentRun, deployment: Deployment, gateway: _Gateway | None
) -> Deployment:
    """Create the Foundry project, and connect it to the pool or its gateway."""
    endpoint = deployment.mcp_endpoint
    if gateway is not None and endpoint is None:
        app = resources.build_gateway_secrets(run.options, {})
        found = await run.arm.get(app.id, app.api_version, step="gateway")
        endpoint = parse_gateway_url(found or {})
    if endpoint is None:
        raise ProvisioningError(
            "Foundry connection: Azure does not name the gateway's address yet",
            hint="run the same command again; it continues from here",
            step="Foundry connection",
        )
    key = await fetch_key(run.arm, deployment.pool_id) if gateway is None else gateway.key
    return replace(
        deployment, mcp_endpoint=endpoint, foundry=await ensure_foundry(run, endpoint, key)
    )


async def _finish(
    run: DeploymentRun, deployment: Deployment, post_deploy: PostDeployOptions
) -> None:
    if post_deploy.env_file is not None:
        values = deployment.environment()
        if post_deploy.write_key and deployment.kind == "python":
            values[get_variable_name("mcp_key")] = await fetch_key(run.arm, deployment.pool_id)
        kept = write_env(post_deploy.env_file, values, replace=post_deploy.replace_env)
        if kept:
            run.add_note(
                "settings",
                f"{post_deploy.env_file} has other values for {', '.join(kept)}, which were kept; "
                "--replace-env replaces them",
            )
        else:
            run.add_note("settings", f"wrote the pool's settings to {post_deploy.env_file}")
    if post_deploy.try_out:
        await smoke_test(run, deployment)

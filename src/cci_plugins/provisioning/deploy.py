"""From nothing to a pool that runs code: one step after the other, each looking first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cci_plugins.azure.options import Azure
from cci_plugins.azure.resource_manager import Arm
from cci_plugins.common.settings import variable
from cci_plugins.errors import ProvisioningError

from . import resources
from .access import assign, identity_roles, user_roles
from .build import build
from .compare import lower
from .deployment import Deployment, deployment_of
from .deployment_run import Work
from .dotenv import write_env
from .image import BuildContext, build_context
from .keys import fetch_key, gateway_secrets
from .options import Options
from .principal import Principal, principal_of
from .progress import Tell
from .registration import register
from .roles import ACR_PULL
from .smoke_test import try_out

_POOL_TAKES = "1 to 10 minutes, at times up to an hour"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """What is done with a deployment in the end.

    Attributes:
        env_file: Where the variables are written, if anywhere.
        write_key: Whether the pool's key is among them.
        replace_env: Whether values that the file has already are replaced.
        try_out: Whether `1+1` is run in the pool.
    """

    env_file: Path | None = None
    write_key: bool = False
    replace_env: bool = False
    try_out: bool = True


async def deploy(options: Options, azure: Azure, ending: Ending, tell: Tell) -> Deployment:
    """Make what is missing.

    Raises:
        ProvisioningError: Azure refused a step, or took too long.
        AuthenticationError: The sign-in failed.
        ConfigurationError: A file cannot be read or written.
    """
    context = build_context(options.requirements) if options.builds_image else None
    async with Arm(azure, options.subscription) as arm:
        work = Work(options, azure, arm, tell)
        who = await principal_of(options, arm)
        await _prepare(work)
        identity = await _identity(work)
        image = await _image(work, context, identity)
        pool = await _pool(work, image)
        await _storage(work)
        for role, scope in user_roles(options):
            await assign(work, role, scope, who)
        deployment = await _read_back(work, pool)
        gateway = await _gateway(work, image, deployment, identity)
        deployment = replace(deployment, mcp_endpoint=gateway or deployment.mcp_endpoint)
        await _end(work, deployment, ending)
    return replace(deployment, changed=tuple(work.changed), notes=tuple(work.notes))


async def _prepare(work: Work) -> None:
    pool = resources.pool(work.options)
    there = await work.arm.get(pool.id, pool.api_version, step="session pool")
    await register(work, again=there is None)
    group = resources.resource_group(work.options)
    if await work.arm.get(group.id, group.api_version, step=group.kind) is None:
        await work.ensure(group)


async def _identity(work: Work) -> Mapping[str, Any]:
    """The environment, the registry, and the identity's own ids."""
    options = work.options
    if options.kind == "custom":
        await work.ensure(resources.environment(options), takes="2 to 5 minutes")
    if options.builds_image:
        await work.ensure(resources.registry(options), takes="a minute")
    if not (options.builds_image or options.gateway):
        return {}
    found = await work.ensure(resources.identity(options))
    properties = lower(found.get("properties"))
    if "principalid" not in properties:
        raise ProvisioningError(
            "identity: Azure does not tell its ids yet",
            hint="run the same command again; it goes on from here",
            step="identity",
        )
    return properties


async def _image(work: Work, context: BuildContext | None, identity: Mapping[str, Any]) -> str:
    if context is None:
        return work.options.image or ""
    puller = Principal(str(identity["principalid"]), "ServicePrincipal")
    await assign(work, ACR_PULL, resources.registry(work.options).id, puller)
    return await build(work, context)


async def _pool(work: Work, image: str) -> Mapping[str, Any]:
    wanted = resources.pool(work.options, image)
    custom = work.options.builds_image
    await work.ensure(wanted, takes=_POOL_TAKES, settles=custom)
    # read back: what was accepted is not always what is there
    return await work.arm.get(wanted.id, wanted.api_version, step=wanted.kind) or {}


async def _storage(work: Work) -> None:
    if work.options.storage:
        await work.ensure(resources.storage_account(work.options), takes="a minute")
        await work.ensure(resources.blob_container(work.options))
        await work.ensure(resources.lifecycle_rule(work.options))


async def _read_back(work: Work, pool: Mapping[str, Any]) -> Deployment:
    options = work.options
    deployment = deployment_of(options, pool, kind=options.kind, storage=options.storage)
    if options.kind == "custom" and not options.gateway:
        work.note(
            "session pool",
            "a custom pool has no MCP endpoint of its own: Azure drops mcpServerSettings there "
            "(github.com/microsoft-foundry/foundry-samples/issues/822). This package needs none; "
            "for Foundry and other MCP clients add --gateway",
        )
    if options.kind == "python" and deployment.mcp_endpoint is None:
        raise ProvisioningError(
            "session pool: Azure made the pool and dropped mcpServerSettings, so it has no MCP "
            "endpoint",
            hint="run the same command again with another --location, such as eastus or "
            "swedencentral; or use the pool without MCP: "
            f"{variable('endpoint')}={deployment.pool_endpoint}",
            code="McpServerSettingsDropped",
            step="session pool",
        )
    return deployment


async def _gateway(
    work: Work, image: str, deployment: Deployment, identity: Mapping[str, Any]
) -> str | None:
    """The MCP endpoint in front of a custom pool, with a key that stays what it was."""
    options = work.options
    if not options.gateway:
        return None
    for role, scope in identity_roles(options):
        who = Principal(str(identity["principalid"]), "ServicePrincipal")
        await assign(work, role, scope, who)
    wanted = resources.gateway(
        options,
        image,
        pool_endpoint=deployment.pool_endpoint,
        client_id=str(identity.get("clientid")),
        secrets=await gateway_secrets(work.arm, options),
    )
    made = await work.ensure(wanted, takes="1 to 2 minutes")
    work.note(
        "gateway",
        "its key is a secret of the container app: az containerapp secret show --name "
        f"{wanted.name} --resource-group {options.resource_group} "
        f"--secret-name {resources.SERVE_KEY}",
    )
    return gateway_url(made)


def gateway_url(found: Mapping[str, Any]) -> str | None:
    """A gateway's MCP endpoint."""
    configuration = lower(lower(found.get("properties")).get("configuration"))
    host = lower(configuration.get("ingress")).get("fqdn")
    return f"https://{host}/mcp" if host else None


async def _end(work: Work, deployment: Deployment, ending: Ending) -> None:
    if ending.env_file is not None:
        values = deployment.environment()
        if ending.write_key and deployment.kind == "python":
            values[variable("mcp_key")] = await fetch_key(work.arm, deployment.pool_id)
        kept = write_env(ending.env_file, values, replace=ending.replace_env)
        if kept:
            work.note(
                "settings",
                f"{ending.env_file} says something else for {', '.join(kept)}, and was left so; "
                "--replace-env changes it",
            )
        else:
            work.note("settings", f"wrote the pool's settings to {ending.env_file}")
    if ending.try_out:
        await try_out(work, deployment)

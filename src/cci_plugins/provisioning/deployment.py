"""The result of a deployment: the pool, and the settings for an application."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import anyio

from cci_plugins.azure.custom_container import read_container, read_variables
from cci_plugins.azure.resource import Resource, lowercase_keys
from cci_plugins.common.settings import get_variable_name

from . import resources
from .deployment_run import DeploymentRun, StepReporter
from .foundry import FoundryDeployment
from .options import Kind, Options

_LATE_SECONDS = 120  # Azure may name the endpoints a while after the pool


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """A session pool and what belongs to it.

    Attributes:
        kind: Kind of the pool.
        pool_id: Resource id of the pool.
        pool_endpoint: Its management endpoint.
        mcp_endpoint: Its MCP endpoint, or the gateway's. None if it has neither.
        storage_account: Storage account for file transfers by link, or None.
        storage_container: Container in that account, or None.
        checkpoint_container: Container for saved sessions, or None.
        checkpoint_days: Days after which it deletes them.
        image: Image of a custom pool's sessions.
        cpu: CPUs of the container of a custom pool's session.
        memory: Its memory, such as `2Gi`.
        variables: Names of the variables for the code, in a custom pool.
        secrets: Names of those whose values are secrets.
        environment_id: Resource id of a custom pool's environment.
        foundry: The Foundry project that is connected to the pool, or None.
        changed: Ids of the resources that this run created or changed.
        notes: Notes for the user, in the order they came up.
    """

    kind: Kind
    pool_id: str
    pool_endpoint: str
    mcp_endpoint: str | None = None
    storage_account: str | None = None
    storage_container: str | None = None
    checkpoint_container: str | None = None
    checkpoint_days: int | None = None
    image: str | None = None
    cpu: float | None = None
    memory: str | None = None
    variables: tuple[str, ...] = ()
    secrets: tuple[str, ...] = ()
    environment_id: str | None = None
    foundry: FoundryDeployment | None = None
    changed: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def environment(self) -> dict[str, str]:
        """Return the variables that make this package use the pool. None of them is a secret."""
        values = {
            "pool": "platform" if self.kind == "python" else "custom",
            "endpoint": self.pool_endpoint,
            "mcp_endpoint": self.mcp_endpoint,
            "resource_id": self.pool_id,
            "storage_account": self.storage_account,
            "storage_container": self.storage_container,
            "checkpoint_container": self.checkpoint_container,
            "checkpoint_days": self.checkpoint_days and str(self.checkpoint_days),
        }
        if self.foundry is not None:
            values |= {
                "foundry_endpoint": self.foundry.project_endpoint,
                "foundry_project_id": self.foundry.project_id,
                "foundry_model": self.foundry.model,
                "foundry_connection": self.foundry.connection_id,
            }
        return {get_variable_name(name): value for name, value in values.items() if value}


def build_deployment(
    options: Options, pool: Mapping[str, Any], *, kind: Kind, storage: bool
) -> Deployment:
    """Build a deployment from its pool, as Resource Manager returned it.

    Args:
        options: What was provisioned.
        pool: The pool's resource.
        kind: Kind of the pool.
        storage: Whether the storage account exists.
    """
    properties = lowercase_keys(pool.get("properties"))
    mcp = lowercase_keys(properties.get("mcpserversettings")).get("mcpserverendpoint")
    return Deployment(
        kind=kind,
        pool_id=str(pool.get("id") or resources.build_pool(options).id),
        pool_endpoint=str(properties.get("poolmanagementendpoint") or ""),
        mcp_endpoint=str(mcp) if mcp else None,
        storage_account=resources.build_storage_account(options).name if storage else None,
        storage_container=resources.BLOB_CONTAINER if storage else None,
        checkpoint_container=resources.CHECKPOINT_CONTAINER if storage else None,
        checkpoint_days=options.checkpoint_days if storage else None,
        **_read_compute(properties),
    )


def _read_compute(properties: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a deployment that only a custom pool has."""
    container = read_container(properties)
    if not container:
        return {}
    plain, secret = read_variables(properties)
    size = lowercase_keys(container.get("resources"))
    return {
        "image": container.get("image"),
        "cpu": size.get("cpu"),
        "memory": size.get("memory"),
        "variables": (*plain, *secret),
        "secrets": tuple(secret),
        "environment_id": properties.get("environmentid"),
    }


async def read_back_pool(run: DeploymentRun, pool: Resource) -> Mapping[str, Any]:
    """Return the pool once it has its endpoints. Azure drops properties, or fills them in late.

    Args:
        run: The deployment.
        pool: The pool.
    """
    reporter = StepReporter(run.report, pool.kind)
    deadline = time.monotonic() + min(_LATE_SECONDS, run.azure.settling.total_seconds())
    while True:
        found = await run.arm.get(pool.id, pool.api_version, step=pool.kind) or {}
        if not _lacks_endpoint(found) or time.monotonic() > deadline:
            return found
        reporter.report_waiting("until Azure names the pool's endpoint")
        await anyio.sleep(run.azure.polling.total_seconds())


def _lacks_endpoint(pool: Mapping[str, Any]) -> bool:
    properties = lowercase_keys(pool.get("properties"))
    settings = lowercase_keys(properties.get("mcpserversettings"))
    is_enabled = settings.get("ismcpserverenabled") is True
    lacks_mcp = is_enabled and not settings.get("mcpserverendpoint")
    return lacks_mcp or not properties.get("poolmanagementendpoint")


def parse_gateway_url(found: Mapping[str, Any]) -> str | None:
    """Return the MCP endpoint of a gateway's resource, or None if it has no address yet."""
    configuration = lowercase_keys(lowercase_keys(found.get("properties")).get("configuration"))
    host = lowercase_keys(configuration.get("ingress")).get("fqdn")
    return f"https://{host}/mcp" if host else None

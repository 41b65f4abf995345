"""What there is in the end, and what an application needs to know of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cci_plugins.common.settings import get_variable_name

from . import resources
from .compare import lower
from .options import Kind, Options


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """A session pool and what belongs to it.

    Attributes:
        kind: Which pool.
        pool_id: Its id in Resource Manager.
        pool_endpoint: Its management endpoint.
        mcp_endpoint: Its MCP endpoint, or the gateway's; None when it has none.
        storage_account: For files that cross by link, or None.
        storage_container: In that account.
        changed: Ids of what this run made or changed.
        notes: What should be known.
    """

    kind: Kind
    pool_id: str
    pool_endpoint: str
    mcp_endpoint: str | None = None
    storage_account: str | None = None
    storage_container: str | None = None
    changed: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def environment(self) -> dict[str, str]:
        """The variables that make this package use it; no secret is among them."""
        values = {
            "pool": "platform" if self.kind == "python" else "custom",
            "endpoint": self.pool_endpoint,
            "mcp_endpoint": self.mcp_endpoint,
            "resource_id": self.pool_id,
            "storage_account": self.storage_account,
            "storage_container": self.storage_container,
        }
        return {get_variable_name(name): value for name, value in values.items() if value}


def parse_endpoints(pool: Mapping[str, Any]) -> tuple[str, str | None]:
    """A pool's management endpoint and its MCP endpoint, as Resource Manager tells them."""
    properties = lower(pool.get("properties"))
    mcp = lower(properties.get("mcpserversettings")).get("mcpserverendpoint")
    return str(properties.get("poolmanagementendpoint") or ""), str(mcp) if mcp else None


def build_deployment(
    options: Options, pool: Mapping[str, Any], *, kind: Kind, storage: bool
) -> Deployment:
    """A deployment, from its pool as Resource Manager tells it."""
    endpoint, mcp = parse_endpoints(pool)
    return Deployment(
        kind=kind,
        pool_id=str(pool.get("id") or resources.pool(options).id),
        pool_endpoint=endpoint,
        mcp_endpoint=mcp,
        storage_account=resources.storage_account(options).name if storage else None,
        storage_container=resources.BLOB_CONTAINER if storage else None,
    )

"""The connection of a Foundry project to a session pool: its address and its key.

Foundry sends the key to the pool. Neither the agent nor its application sees it. Azure never
returns a connection's key, so a fingerprint in the metadata shows whether the key still matches.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from azure.core.exceptions import ResourceNotFoundError
from azure.mgmt.cognitiveservices.models import (
    ConnectionPropertiesV2BasicResource,
    CustomKeys,
    CustomKeysConnectionProperties,
)

from cci_plugins.azure.credentials import KEY_HEADER, TokenCredential, validate_secret
from cci_plugins.azure.foundry_connection import (
    AUTH_TYPE,
    CATEGORY,
    FINGERPRINT_FIELD,
    NAME,
    compute_fingerprint,
)
from cci_plugins.azure.gateway import find_gateway
from cci_plugins.azure.options import Azure
from cci_plugins.azure.pool_resource import CustomContainerError, PoolResource
from cci_plugins.common.settings import Settings, get_variable_name
from cci_plugins.common.urls import is_loopback_host
from cci_plugins.errors import ConfigurationError
from cci_plugins.mcp_client.client import parse_endpoint_url
from cci_plugins.redaction import know

from .failures import OWNER, translate_management_errors
from .project import Project, ProjectLocation
from .tool_names import get_tools
from .toolboxes import Toolbox, check_toolbox_name, ensure_toolbox, remove_toolbox_tools

_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_-]{2,32}")


@dataclass(frozen=True, slots=True)
class Connection:
    """A project's connection to a pool.

    Attributes:
        id: Its resource id, which an agent's tool needs.
        name: Its name in the project.
        endpoint: Its MCP endpoint.
        change: The change that `connect` made.
        toolbox: The toolbox that has the pool's tools, if one was named.
    """

    id: str
    name: str
    endpoint: str
    change: Literal["created", "updated", "unchanged"]
    toolbox: Toolbox | None = None


@dataclass(frozen=True, slots=True)
class ExistingConnection:
    """A connection as it is in the project. Azure does not return its key.

    Attributes:
        id: Its resource id.
        endpoint: Its endpoint.
        is_mcp_connection: Whether it is for an MCP server with a key.
        fingerprint: The fingerprint of its key, if `connect` wrote it.
    """

    id: str
    endpoint: str
    is_mcp_connection: bool
    fingerprint: str | None

    def has_key(self, key: str) -> bool | None:
        """Return whether it has this key, or None if only Azure knows."""
        return (
            None
            if self.fingerprint is None
            else self.fingerprint == compute_fingerprint(self.id, key)
        )


async def find_connection(project: Project, *, name: str = NAME) -> ExistingConnection | None:
    """Return a project's connection by its name, or None.

    Raises:
        AuthenticationError: A role is missing.
        ProvisioningError: Azure refused the request, or cannot be reached.
    """
    location = await project.place()
    with translate_management_errors(f"connection {name}", role=OWNER):
        async with project.management(location.subscription) as client:
            found = await _get(client, location, name)
    if found is None:
        return None
    kept = found.properties.metadata or {}
    connection_id, target = f"{location.id}/connections/{name}", str(found.properties.target or "")
    return ExistingConnection(
        connection_id, target, _is_mcp_connection(found), kept.get(FINGERPRINT_FIELD)
    )


async def connect(
    project: Project | None = None,
    *,
    endpoint: str | None = None,
    key: str | None = None,
    pool: str | None = None,
    name: str = NAME,
    replace: bool = False,
    toolbox: str | None = None,
    check_runs: bool = False,
    credential: TokenCredential | None = None,
) -> Connection:
    """Connect a project's agents to a session pool.

    You can call it again at any time. It reads the connection first and writes only what differs,
    such as a key that was rotated. Without `endpoint`, `key` and `pool` the environment variables
    name the pool.

    Args:
        project: The project. `Project.from_env()` when None.
        endpoint: The MCP endpoint of a pool, or of the gateway `cci serve --pool custom`.
        key: The endpoint's key, sent as `x-ms-apikey`.
        pool: The resource id of a pool. Its endpoint and its key are read from Azure.
        name: The connection's name.
        replace: Whether to overwrite a connection of that name with another endpoint.
        toolbox: Name of a toolbox to put the pool's tools into. It is created if it is missing.
            Agents use it by `create_agent(toolbox=...)`.
        check_runs: Put `check_run` into the toolbox too, which a gateway offers with
            `cci serve --wait`.
        credential: The sign-in for the pool's resource. The project's when None.

    Returns:
        The connection.

    Raises:
        ConfigurationError: The pool has no MCP endpoint, or the name is taken.
        AuthenticationError: A role is missing.
        ProvisioningError: Azure refused the request, or cannot be reached.
    """
    project = Project.from_env(credential=credential) if project is None else project
    _check_name(name)
    if toolbox is not None:
        check_toolbox_name(toolbox)
    target, secret = await _resolve_target(project, endpoint, key, pool, credential)
    connection = await _write(project, name, target, secret, overwrite=replace)
    if toolbox is None:
        return connection
    tools = get_tools(check_runs=check_runs)
    made = await ensure_toolbox(project, toolbox, connection.id, connection.endpoint, tools=tools)
    return dataclasses.replace(connection, toolbox=made)


async def _write(
    project: Project, name: str, target: str, secret: str, *, overwrite: bool
) -> Connection:
    """Create or change the connection, unless it is as it should be."""
    location = await project.place()
    connection_id = f"{location.id}/connections/{name}"
    fingerprint = compute_fingerprint(connection_id, secret)
    with translate_management_errors(f"connection {name}", role=OWNER):
        async with project.management(location.subscription) as client:
            found = await _get(client, location, name)
            if found is not None and _is_up_to_date(found, target, fingerprint):
                return Connection(connection_id, name, target, "unchanged")
            if found is not None and not overwrite:
                _check_ownership(found, target, name)
            metadata = {} if found is None else dict(found.properties.metadata or {})
            body = _build_body(target, secret, metadata | {FINGERPRINT_FIELD: fingerprint})
            await client.project_connections.create(
                location.group, location.account, location.project, name, body
            )
    change: Literal["created", "updated"] = "created" if found is None else "updated"
    return Connection(connection_id, name, target, change)


async def disconnect(
    project: Project | None = None,
    *,
    name: str = NAME,
    toolbox: str | None = None,
    credential: TokenCredential | None = None,
) -> bool:
    """Delete a connection. The pool and its key stay as they are.

    Args:
        project: The project. `Project.from_env()` when None.
        name: The connection's name.
        toolbox: Name of a toolbox to take the pool's tools out of. It is deleted if it has no
            other tools.
        credential: The sign-in, if no project is passed.

    Returns:
        Whether the connection existed.

    Raises:
        ConfigurationError: The connection of that name is for something else.
        AuthenticationError: A role is missing.
        ProvisioningError: Azure refused the request, or cannot be reached.
    """
    project = Project.from_env(credential=credential) if project is None else project
    _check_name(name)
    if toolbox is not None:
        await remove_toolbox_tools(project, toolbox)
    location = await project.place()
    with translate_management_errors(f"connection {name}", role=OWNER):
        async with project.management(location.subscription) as client:
            found = await _get(client, location, name)
            if found is None:
                return False
            _check_kind(found, name)
            await client.project_connections.delete(
                location.group, location.account, location.project, name
            )
    return True


async def _resolve_target(
    project: Project,
    endpoint: str | None,
    key: str | None,
    pool: str | None,
    credential: TokenCredential | None,
) -> tuple[str, str]:
    """Return the endpoint and the key for the connection."""
    if endpoint is None and key is None and pool is None:
        settings = Settings.read(check=False)
        settings.check_sign_ins("sessions")
        endpoint, pool = settings.mcp_endpoint, settings.resource_id
        if settings.chosen_pool == "custom":  # the endpoint is a gateway's
            key = settings.gateway_key
        elif pool is None and settings.mcp_key is not None:
            key = settings.mcp_key.get_secret_value()
        # otherwise the key is read from the pool, where it is never outdated
    if pool is not None and (endpoint is None or key is None):
        azure = Azure(credential=credential or project.sign_in, endpoint=project.arm_endpoint)
        endpoint, key = await _read_pool(pool, azure, endpoint, key)
    if endpoint is None or key is None:
        missing = get_variable_name("mcp_endpoint") if endpoint is None else "its key"
        raise ConfigurationError(
            f"the session pool to connect is not complete: {missing} is missing",
            hint="set AZURE_SESSION_POOL_RESOURCE_ID; "
            "or AZURE_SESSION_POOL_MCP_ENDPOINT and AZURE_SESSION_POOL_MCP_KEY",
        )
    know(key)
    return _check_endpoint(endpoint), validate_secret(key)


async def _read_pool(
    pool: str, azure: Azure, endpoint: str | None, key: str | None
) -> tuple[str, str]:
    """Return the endpoint and key of a pool, or of the gateway in front of a custom one."""
    credential: Any = azure.credential
    resource = PoolResource(pool, credential=credential, endpoint=azure.endpoint)
    try:
        pool_endpoint = await resource.fetch_mcp_endpoint()
        return endpoint or pool_endpoint, key or await resource.fetch_key()
    except CustomContainerError:
        gateway = await find_gateway(pool, azure, endpoint=endpoint)
        return gateway.endpoint, key or gateway.key
    finally:
        await resource.aclose()


async def _get(client: Any, location: ProjectLocation, name: str) -> Any:
    try:
        return await client.project_connections.get(
            location.group, location.account, location.project, name
        )
    except ResourceNotFoundError as error:
        code = str(getattr(error.error, "code", "") or "")
        if code in {"ParentResourceNotFound", "ResourceGroupNotFound", "SubscriptionNotFound"}:
            raise
        return None


def _build_body(
    target: str, key: str, metadata: Mapping[str, str]
) -> ConnectionPropertiesV2BasicResource:
    return ConnectionPropertiesV2BasicResource(
        properties=CustomKeysConnectionProperties(
            category=CATEGORY,
            target=target,
            credentials=CustomKeys(keys={KEY_HEADER: key}),
            metadata=dict(metadata),
        )
    )


def _is_up_to_date(found: Any, target: str, fingerprint: str) -> bool:
    kept = found.properties.metadata or {}
    return (
        _is_mcp_connection(found)
        and found.properties.target == target
        and kept.get(FINGERPRINT_FIELD) == fingerprint
    )


def _is_mcp_connection(found: Any) -> bool:
    """Return whether a connection is for an MCP server with a key."""
    kind = (str(found.properties.category), str(found.properties.auth_type))
    return kind == (CATEGORY, AUTH_TYPE)


def _check_kind(found: Any, name: str) -> None:
    if not _is_mcp_connection(found):
        raise ConfigurationError(
            f"the project's connection {name!r} is for something else", hint="choose another --name"
        )


def _check_ownership(found: Any, target: str, name: str) -> None:
    """Refuse to overwrite a connection that `connect` did not create."""
    _check_kind(found, name)
    if found.properties.target != target and FINGERPRINT_FIELD not in (
        found.properties.metadata or {}
    ):
        raise ConfigurationError(
            f"the project's connection {name!r} leads elsewhere, and was made by something else",
            hint="choose another --name, or add --replace",
        )


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise ConfigurationError(
            f"{name!r} is not valid: a connection's name has 3 to 33 letters, digits, - and _, and "
            "begins with a letter or digit",
            hint=f"leave it out for {NAME}",
        )


def _check_endpoint(endpoint: str) -> str:
    """Return an endpoint that may receive the key: https, or http on this machine."""
    url = parse_endpoint_url(endpoint.rstrip("/"))
    if url.scheme != "https" and not is_loopback_host(url.host):
        raise ConfigurationError(
            "the key must not be sent without encryption", hint="use an https endpoint"
        )
    return str(url)

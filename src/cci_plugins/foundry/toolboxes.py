"""Toolboxes: one MCP endpoint of a Foundry project that serves the pool's tools to many agents.

The toolbox reaches the pool by the connection with the key. An agent reaches the toolbox by a
second connection, with the agent's own identity, which needs the role Foundry User on the project.
A version of a toolbox never changes, so each change makes a new one, with the other tools kept.

A toolbox exposes the tools of an MCP server as `<label>___<tool>`. The form of that connection is
only in a preview of the API, and neither was tried on Azure.
"""

from __future__ import annotations

import io
import json
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from azure.ai.projects import models
from azure.ai.projects.models import MCPTool, MCPToolFilter, MCPToolRequireApproval
from azure.core.exceptions import ResourceNotFoundError

from cci_plugins.azure import api_versions
from cci_plugins.azure.foundry_connection import CATEGORY
from cci_plugins.errors import ConfigurationError

from .failures import OWNER, USER, translate_management_errors
from .project import Project
from .tool_names import (
    CHECK_RUN,
    LABEL,
    LAUNCH,
    LAUNCH_NAMES,
    RUN_PYTHON,
    TOOLS,
    add_launch_names,
)

SEPARATOR = "___"
_AUTH_TYPE = "AgenticIdentityToken"
_AUDIENCE = "https://ai.azure.com"
_MARKER = "cci-toolbox"
_API_VERSION = "v1"
_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_-]{0,23}")
_PREFIX = "toolbox-"

# The SDK logs a warning for each connection of a type that its models do not know.
logging.getLogger("azure.mgmt.cognitiveservices._utils.serialization").addFilter(
    lambda record: _AUTH_TYPE not in record.getMessage()
)


def add_toolbox_label(instructions: str) -> str:
    """Return instructions with the names that tools have in a toolbox."""
    for name in (LAUNCH, RUN_PYTHON, CHECK_RUN):
        instructions = instructions.replace(name, f"{LABEL}{SEPARATOR}{name}")
    return instructions


@dataclass(frozen=True, slots=True)
class Toolbox:
    """A toolbox that has the pool's tools.

    Attributes:
        name: Its name in the project.
        version: The version that agents use.
        endpoint: Its MCP endpoint.
        connection_id: Resource id of the connection by which agents reach it.
        change: The change that `connect` made.
    """

    name: str
    version: str
    endpoint: str
    connection_id: str
    change: Literal["created", "updated", "unchanged"]


async def ensure_toolbox(
    project: Project, name: str, connection_id: str, endpoint: str, *, tools: Sequence[str] = TOOLS
) -> Toolbox:
    """Put the pool's tools into a toolbox, and connect the project's agents to it.

    Args:
        project: The project.
        name: Name of the toolbox. It is created if it is missing.
        connection_id: Connection with the pool's key.
        endpoint: The pool's MCP endpoint.
        tools: Tools of the pool that the toolbox offers.

    Raises:
        ConfigurationError: The name is invalid, or the installed SDK is too old.
        AuthenticationError: A role is missing.
        ProvisioningError: Azure refused the request, or cannot be reached.
    """
    check_toolbox_name(name)
    wanted = _build_stored_tool(connection_id, endpoint, tools)
    with translate_management_errors(f"toolbox {name}", role=USER):
        async with await project.client() as client:
            current = await _read_current(client, name)
            kept = [] if current is None else _list_others(current)
            if current is not None and _has_tool(current, wanted):
                version, change = str(current["version"]), "unchanged"
            else:
                change = "created" if current is None else "updated"
                version = await _publish(client, name, [*kept, wanted])
    url = await build_toolbox_url(project, name)
    has_changed = await _ensure_connection(project, name, url)
    if has_changed and change == "unchanged":
        change = "updated"
    connection = f"{(await project.place()).id}/connections/{_PREFIX}{name}"
    return Toolbox(name, version, url, connection, _as_change(change))


async def remove_toolbox_tools(project: Project, name: str) -> bool:
    """Take the pool's tools out of a toolbox, and remove the connection to it.

    A toolbox without other tools is deleted.

    Args:
        project: The project.
        name: Name of the toolbox.

    Returns:
        Whether the toolbox had the tools.
    """
    check_toolbox_name(name)
    location = await project.place()
    with translate_management_errors(f"toolbox {name}", role=OWNER):
        async with project.management(location.subscription) as client:
            found = await _find_connection(client, location, name)
            if found is not None and _is_ours(found):
                await client.project_connections.delete(
                    location.group, location.account, location.project, f"{_PREFIX}{name}"
                )
        async with await project.client() as projects:
            current = await _read_current(projects, name)
            if current is None or len(_list_others(current)) == len(_list_tools(current)):
                return False
            others = _list_others(current)
            if others:
                await _publish(projects, name, others)
            else:
                await projects.toolboxes.delete(name)
    return True


async def build_toolbox_tool(
    project: Project,
    toolbox: Toolbox | str,
    require_approval: Literal["always", "never"],
    *,
    check_runs: bool = False,
) -> MCPTool:
    """Build the tool of an agent that uses a toolbox.

    Args:
        project: The project.
        toolbox: What `connect(toolbox=...)` returned, or the name of a toolbox.
        require_approval: `always` asks before code runs.
        check_runs: Whether the toolbox has `check_run`, which nobody needs to approve.
    """
    approval = _build_approval(check_runs=check_runs)
    if isinstance(toolbox, Toolbox):
        url, connection_id = toolbox.endpoint, toolbox.connection_id
    else:
        check_toolbox_name(toolbox)
        url = await build_toolbox_url(project, toolbox)
        connection_id = f"{(await project.place()).id}/connections/{_PREFIX}{toolbox}"
    return MCPTool(
        server_label="toolbox",
        server_url=url,
        project_connection_id=connection_id,
        require_approval=approval if require_approval == "always" else "never",
    )


def is_toolbox_tool(tool: Any) -> bool:
    """Return whether an agent's tool leads to a toolbox."""
    return "/toolboxes/" in str(getattr(tool, "server_url", None) or "")


async def build_toolbox_url(project: Project, name: str) -> str:
    """Return the MCP endpoint that always serves the toolbox's default version."""
    return f"{await project.endpoint()}/toolboxes/{name}/mcp?api-version={_API_VERSION}"


def check_toolbox_name(name: str) -> None:
    """Refuse a name that a toolbox or the connection to it cannot have.

    Raises:
        ConfigurationError: It cannot.
    """
    if not _NAME.fullmatch(name):
        raise ConfigurationError(
            f"{name!r} is not valid: a toolbox's name has up to 24 letters, digits, - and _, and "
            "begins with a letter or digit",
            hint="choose another name",
        )


def _build_approval(*, check_runs: bool) -> MCPToolRequireApproval:
    """Return the rule that only code needs approval, whatever prefix Foundry uses."""
    free_tools = (*LAUNCH_NAMES, CHECK_RUN) if check_runs else LAUNCH_NAMES
    free = [name for tool in free_tools for name in (tool, f"{LABEL}{SEPARATOR}{tool}")]
    run = [RUN_PYTHON, f"{LABEL}{SEPARATOR}{RUN_PYTHON}"]
    return MCPToolRequireApproval(
        always=MCPToolFilter(tool_names=run), never=MCPToolFilter(tool_names=free)
    )


def _build_stored_tool(connection_id: str, endpoint: str, tools: Sequence[str]) -> dict[str, Any]:
    return {
        "type": "mcp",
        "server_label": LABEL,
        "server_url": endpoint,
        "project_connection_id": connection_id,
        "allowed_tools": add_launch_names(tools),
        "require_approval": "never",  # the agent's own tool decides
    }


async def _read_current(client: Any, name: str) -> Any:
    """Return the default version of a toolbox, or None if it does not exist."""
    operations = _get_operations(client)
    try:
        found = await operations.get(name)
        return await operations.get_version(name, found.default_version)
    except ResourceNotFoundError:
        return None


async def _publish(client: Any, name: str, tools: list[dict[str, Any]]) -> str:
    """Create a version with these tools, make it the default, and return its number."""
    body = {"tools": tools, "description": "Python in a session pool."}
    made = await client.toolboxes.create_version(name, body)
    found = await client.toolboxes.get(name)
    if str(found.default_version) != str(made.version):
        await client.toolboxes.update(name, default_version=str(made.version))
    return str(made.version)


def _get_operations(client: Any) -> Any:
    """Return the operations on toolboxes, which are stable since 2.3 of the SDK."""
    operations = getattr(client, "toolboxes", None)
    if operations is None or not hasattr(models, "MCPToolboxTool"):
        raise ConfigurationError(
            "toolboxes need azure-ai-projects 2.3 or newer",
            hint='pip install --upgrade "azure-ai-projects>=2.3,<3"',
        )
    return operations


def _list_tools(version: Any) -> list[dict[str, Any]]:
    return [tool.as_dict() for tool in version.tools or []]


def _has_tool(version: Any, wanted: dict[str, Any]) -> bool:
    """Return whether a version has a tool. Foundry may add properties to it."""
    return any(
        all(tool.get(name) == value for name, value in wanted.items())
        for tool in _list_tools(version)
    )


def _list_others(version: Any) -> list[dict[str, Any]]:
    """Return the tools of a version that are not the pool's."""
    return [tool for tool in _list_tools(version) if tool.get("server_label") != LABEL]


async def _ensure_connection(project: Project, name: str, url: str) -> bool:
    """Create the agents' connection to the toolbox, unless it is there. Return whether it wrote."""
    location = await project.place()
    body = {
        "properties": {
            "category": CATEGORY,
            "authType": _AUTH_TYPE,
            "audience": _AUDIENCE,
            "target": url,
            "metadata": {_MARKER: name},
        }
    }
    version = api_versions.COGNITIVE_SERVICES_PREVIEW
    with translate_management_errors(f"connection {_PREFIX}{name}", role=OWNER):
        async with project.management(location.subscription) as client:
            found = await _find_connection(client, location, name)
        if found is not None and str(found.properties.target) == url and _is_ours(found):
            return False
        if found is not None and not _is_ours(found):
            raise ConfigurationError(
                f"the project's connection {_PREFIX}{name} was made by something else",
                hint="choose another toolbox",
            )
        # the SDK's models do not know this type of sign-in, so the body is sent as bytes
        async with project.management(location.subscription, api_version=version) as client:
            await client.project_connections.create(
                location.group,
                location.account,
                location.project,
                f"{_PREFIX}{name}",
                io.BytesIO(json.dumps(body).encode()),
                content_type="application/json",
            )
    return True


async def _find_connection(client: Any, location: Any, name: str) -> Any:
    try:
        return await client.project_connections.get(
            location.group, location.account, location.project, f"{_PREFIX}{name}"
        )
    except ResourceNotFoundError:
        return None


def _is_ours(connection: Any) -> bool:
    return _MARKER in (connection.properties.metadata or {})


def _as_change(change: str) -> Literal["created", "updated", "unchanged"]:
    if change == "created":
        return "created"
    return "updated" if change == "updated" else "unchanged"

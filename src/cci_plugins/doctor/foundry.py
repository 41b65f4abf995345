"""Checks of the Foundry project and its connection to the pool."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cci_plugins.errors import ConfigurationError

from .context import Check, Context
from .findings import Outcome, SkipCheckError

if TYPE_CHECKING:
    from cci_plugins.foundry import Project

_CONNECT = "cci foundry connect"


def _open_project(context: Context) -> Project:
    if not context.has_foundry:
        raise SkipCheckError("no Foundry project is configured")
    try:
        from cci_plugins.foundry import Project
    except ConfigurationError as error:
        raise SkipCheckError(f"this check needs another package: {error.hint}") from None
    settings = context.settings
    settings.check_sign_ins("foundry")
    endpoint = None if settings.foundry_project_id else settings.foundry_endpoint
    return Project(
        endpoint,
        resource_id=settings.foundry_project_id,
        credential=context.credential,
        arm_endpoint=context.arm_endpoint,
        ca_file=context.ca,
    )


async def _check_project(context: Context) -> Outcome:
    project = _open_project(context)
    place = await project.place()
    context.mask.hide_name("Foundry account", place.account)
    shown = context.mask.hide_name("Foundry project", place.project)
    endpoint = context.settings.foundry_endpoint
    if endpoint is not None and context.settings.foundry_project_id is not None:
        if (await project.endpoint()).lower() != endpoint.rstrip("/").lower():
            return Outcome.failed(
                "FOUNDRY_PROJECT_ENDPOINT and AZURE_AI_PROJECT_ID name two different projects",
                "unset one of them",
            )
    elif endpoint is None:
        await project.endpoint()
    return Outcome.ok(f"Foundry project {shown} exists")


async def _check_connection(context: Context) -> Outcome:
    project = _open_project(context)
    from cci_plugins.foundry.connections import NAME, find_connection

    name = (context.settings.foundry_connection or NAME).rpartition("/")[2]
    shown = context.mask.hide_name("connection", name)
    connection = await find_connection(project, name=name)
    if connection is None:
        return Outcome.failed(f"the project does not have the connection {shown}", _CONNECT)
    if not connection.is_mcp_connection:
        return Outcome.failed(
            f"the project's connection {shown} is not an MCP connection", _CONNECT
        )
    pool = context.settings.mcp_endpoint
    if pool and connection.endpoint.rstrip("/") != pool.rstrip("/"):
        return Outcome.warning(
            f"the project's connection {shown} has another endpoint than these settings",
            f"{_CONNECT} --replace",
        )
    key = context.settings.mcp_key
    if key is not None and connection.has_key(key.get_secret_value()) is False:
        return Outcome.failed(
            f"the project's connection {shown} has another key than these settings", _CONNECT
        )
    return Outcome.ok(f"the project's connection {shown} has the endpoint of a pool")


_ROLE = "assign the role Foundry User on the project, or sign in: az login"
CHECKS = (
    Check("foundry.project", _check_project, _ROLE, ("auth.sign-in",)),
    Check("foundry.connection", _check_connection, _ROLE, ("foundry.project",)),
)

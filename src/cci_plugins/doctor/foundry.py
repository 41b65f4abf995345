"""Checks of the Foundry project and its connection to the pool."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cci_plugins.errors import ConfigurationError

from .context import Context
from .findings import Check, Outcome, PointlessError, failed, ok, warning

if TYPE_CHECKING:
    from cci_plugins.foundry import Project

_CONNECT = "cci foundry connect"


def _project(context: Context) -> Project:
    if not context.wants_foundry:
        raise PointlessError("no Foundry project is configured")
    try:
        from cci_plugins.foundry import Project
    except ConfigurationError as error:
        raise PointlessError(f"looking into Foundry needs more: {error.hint}") from None
    return Project.from_env(credential=context.credential)


async def _is_there(context: Context) -> Outcome:
    project = _project(context)
    place = await project.place()
    context.mask.name("Foundry account", place.account)
    shown = context.mask.name("Foundry project", place.project)
    endpoint = await project.endpoint()
    if context.settings.foundry_project_id and context.settings.foundry_endpoint:
        from cci_plugins.foundry import Project

        told = await Project(
            resource_id=place.id, credential=context.credential, arm_endpoint=context.arm_endpoint
        ).endpoint()
        if told.rstrip("/").lower() != endpoint.rstrip("/").lower():
            return failed(
                "FOUNDRY_PROJECT_ENDPOINT and AZURE_AI_PROJECT_ID are two different projects",
                "unset one of them",
            )
    return ok(f"Foundry project {shown} is there")


async def _connection(context: Context) -> Outcome:
    project = _project(context)
    from cci_plugins.foundry.connections import NAME, look

    wanted = (context.settings.foundry_connection or NAME).rpartition("/")[2]
    shown = context.mask.name("connection", wanted)
    found = await look(project, name=wanted)
    if found is None:
        return failed(f"the project has no connection {shown}", _CONNECT)
    if not found.is_ours:
        return failed(f"the project's connection {shown} is for something else", _CONNECT)
    pool = context.settings.mcp_endpoint
    if pool and found.endpoint.rstrip("/") != pool.rstrip("/"):
        return warning(
            f"the project's connection {shown} leads to another endpoint than these settings",
            f"{_CONNECT} --replace",
        )
    key = context.settings.mcp_key
    if key is not None and found.fits(key.get_secret_value()) is False:
        return failed(
            f"the project's connection {shown} has another key than these settings", _CONNECT
        )
    return ok(f"the project's connection {shown} leads to a pool")


_ROLE = "assign the role Foundry User on the project, or sign in: az login"
CHECKS = (
    Check("foundry.project", _is_there, _ROLE, ("auth.sign-in",)),
    Check("foundry.connection", _connection, _ROLE, ("foundry.project",)),
)

"""Checks of the Foundry project and its connection to the pool."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cci_plugins.errors import ConfigurationError

from .check import Check
from .context import Context
from .findings import Outcome, SkipCheckError, report_failure, report_ok, report_warning

if TYPE_CHECKING:
    from cci_plugins.foundry import Project

_CONNECT = "cci foundry connect"


def _open_project(context: Context) -> Project:
    if not context.has_foundry:
        raise SkipCheckError("no Foundry project is configured")
    try:
        from cci_plugins.foundry import Project
    except ConfigurationError as error:
        raise SkipCheckError(f"looking into Foundry needs more: {error.hint}") from None
    known = context.settings
    endpoint = None if known.foundry_project_id else known.foundry_endpoint
    return Project(
        endpoint,
        resource_id=known.foundry_project_id,
        credential=context.credential,
        arm_endpoint=context.arm_endpoint,
        ca_file=context.ca,
    )


async def _check_project(context: Context) -> Outcome:
    project = _open_project(context)
    place = await project.place()
    context.mask.name("Foundry account", place.account)
    shown = context.mask.name("Foundry project", place.project)
    given = context.settings.foundry_endpoint
    if given is not None and context.settings.foundry_project_id is not None:
        if (await project.endpoint()).lower() != given.rstrip("/").lower():
            return report_failure(
                "FOUNDRY_PROJECT_ENDPOINT and AZURE_AI_PROJECT_ID are two different projects",
                "unset one of them",
            )
    elif given is None:
        await project.endpoint()
    return report_ok(f"Foundry project {shown} is there")


async def _check_connection(context: Context) -> Outcome:
    project = _open_project(context)
    from cci_plugins.foundry.connections import NAME, find_connection

    wanted = (context.settings.foundry_connection or NAME).rpartition("/")[2]
    shown = context.mask.name("connection", wanted)
    found = await find_connection(project, name=wanted)
    if found is None:
        return report_failure(f"the project has no connection {shown}", _CONNECT)
    if not found.is_mcp_connection:
        return report_failure(f"the project's connection {shown} is for something else", _CONNECT)
    pool = context.settings.mcp_endpoint
    if pool and found.endpoint.rstrip("/") != pool.rstrip("/"):
        return report_warning(
            f"the project's connection {shown} leads to another endpoint than these settings",
            f"{_CONNECT} --replace",
        )
    key = context.settings.mcp_key
    if key is not None and found.has_key(key.get_secret_value()) is False:
        return report_failure(
            f"the project's connection {shown} has another key than these settings", _CONNECT
        )
    return report_ok(f"the project's connection {shown} leads to a pool")


_ROLE = "assign the role Foundry User on the project, or sign in: az login"
CHECKS = (
    Check("foundry.project", _check_project, _ROLE, ("auth.sign-in",)),
    Check("foundry.connection", _check_connection, _ROLE, ("foundry.project",)),
)

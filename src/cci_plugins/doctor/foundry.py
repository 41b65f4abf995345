"""Checks of the Foundry project and its connection to the pool."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from cci_plugins.errors import ConfigurationError

from .context import Check, Context
from .findings import Outcome, SkipCheckError, lower_keys

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
    from cci_plugins.azure.foundry_connection import NAME
    from cci_plugins.foundry.connections import find_connection

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


async def _check_model(context: Context) -> Outcome:
    """Check that the model's deployment exists, and that its model does not end."""
    model = context.settings.foundry_model
    project = _open_project(context)
    if model is None:
        raise SkipCheckError("FOUNDRY_MODEL_DEPLOYMENT_NAME is not set")
    place = await project.place()
    shown = context.mask.hide_name("model deployment", model)
    account_id = place.id.rpartition("/projects/")[0]
    path = f"{account_id}/deployments"
    found = await context.get(f"{path}/{model}", "COGNITIVE_SERVICES", "model")
    if found is None:
        others = await context.list(path, "COGNITIVE_SERVICES", "models")
        names = ", ".join(str(one.get("name")) for one in others) or "none"
        return Outcome.failed(
            f"the Foundry account has no model deployment {shown}; it has {names}",
            "set FOUNDRY_MODEL_DEPLOYMENT_NAME to one of them, or run cci provision up --foundry",
        )
    account = await context.get(account_id, "COGNITIVE_SERVICES", "Foundry account")
    location = str((account or {}).get("location") or "").replace(" ", "").lower()
    return await _judge_model(context, found, place.subscription, location)


async def _judge_model(
    context: Context, deployment: Mapping[str, Any], subscription: str, location: str
) -> Outcome:
    arm = await context.open_arm()
    from cci_plugins.azure.foundry_models import find_end, find_problem, list_offered_models

    properties = lower_keys(deployment.get("properties"))
    model = lower_keys(properties.get("model"))
    name, version = str(model.get("name") or ""), str(model.get("version") or "")
    fix = "deploy another one: cci provision up --foundry --model NAME, and name it in the settings"
    state = str(properties.get("provisioningstate") or "succeeded").lower()
    if state in {"failed", "canceled"}:
        return Outcome.failed(f"the deployment of the model {name} has the state {state}", fix)
    offered = await list_offered_models(arm, subscription, location)
    if offered is None:
        return Outcome.ok(f"the model {name} is deployed; Azure does not report when it ends")
    problem = find_problem(offered, name, location=location, version=version)
    if problem is not None:
        return Outcome.failed(problem, fix)
    ends = find_end(offered, name, version)
    if ends is not None:
        return Outcome.warning(f"the model {name} ends in {location} on {ends}", fix)
    return Outcome.ok(f"the model {name} is deployed, and {location} offers it")


_ROLE = "assign the role Foundry User on the project, or sign in: az login"
CHECKS = (
    Check("foundry.project", _check_project, _ROLE, ("auth.sign-in",)),
    Check("foundry.connection", _check_connection, _ROLE, ("foundry.project",)),
    Check("foundry.model", _check_model, _ROLE, ("foundry.project",)),
)

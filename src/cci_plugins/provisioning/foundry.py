"""The steps of Microsoft Foundry: account, project, model, and the connection to the pool.

An account that is deleted keeps its name for 48 hours. If it was this deployment's, it is restored
instead. What the region offers is asked before anything is written, so that a model that retired,
or that the region never had, does not end a deployment in its middle.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cci_plugins.azure import api_versions
from cci_plugins.azure.failures import FORBIDDEN, ArmError
from cci_plugins.azure.foundry_connection import is_made_elsewhere
from cci_plugins.azure.foundry_models import find_end, find_problem, list_offered_models
from cci_plugins.azure.resource import lowercase_keys
from cci_plugins.azure.resource_manager import ArmClient
from cci_plugins.errors import ProvisioningError
from cci_plugins.redaction import know

from . import foundry_resources as bodies
from .deployment_run import DeploymentRun, StepReporter, has_owner_tag, is_up_to_date
from .options import Options
from .tags import FOUNDRY_TAG, parse_foundry_tag

_MODEL = "model"
_DELETED = "FlagMustBeSetForRestore"
_API_NAME = "ai foundry api"
_QUOTA_HINT = (
    "lower --model-capacity, choose another --model or --model-sku, or ask Azure for more quota"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundryDeployment:
    """A Foundry project that is connected to a pool.

    Attributes:
        project_id: Resource id of the project.
        project_endpoint: Its endpoint.
        model: Name of the model's deployment.
        connection_id: Resource id of the connection, or None without one.
    """

    project_id: str
    project_endpoint: str
    model: str
    connection_id: str | None = None


async def complete_foundry(
    options: Options, arm: ArmClient, pool: Mapping[str, Any] | None
) -> Options:
    """Return the options with what the deployment already has of Foundry.

    Args:
        options: What to provision.
        arm: Client of Resource Manager.
        pool: The pool, if it exists.
    """
    if options.foundry_account is None and options.foundry_project is None:
        tag = str(lowercase_keys((pool or {}).get("tags")).get(FOUNDRY_TAG) or "")
        named = parse_foundry_tag(tag)
        if named:
            options = options.with_values(**named, **_imply_gateway(options))
        elif "foundry" not in options.given:
            account = await _read_own_account(options, arm)
            if account is not None:
                options = options.with_values(foundry=True, **_imply_gateway(options))
    return await _complete_model(options, arm) if options.foundry else options


async def check_model(options: Options, arm: ArmClient) -> list[str]:
    """Refuse a model that the region does not offer, before anything is written.

    Args:
        options: What to provision.
        arm: Client of Resource Manager.

    Returns:
        Notes for the user.

    Raises:
        ProvisioningError: The named account or project does not exist, or the region does not
            offer the model.
    """
    if not options.foundry:
        return []
    location = await _read_location(options, arm)
    wanted = bodies.build_model(options)
    if await arm.get(wanted.id, wanted.api_version, step=_MODEL) is not None:
        return []
    subscription = bodies.get_account_id(options).split("/")[2]
    offered = await list_offered_models(arm, subscription, location)
    if offered is None:
        return []
    problem = find_problem(
        offered,
        options.model,
        location=location,
        version=options.model_version,
        sku=options.model_sku,
    )
    if problem is not None:
        raise ProvisioningError(
            f"{_MODEL}: {problem}",
            hint="choose one by --model, or its kind by --model-sku; or name an account in another "
            "region by --foundry-account ID",
            code="ModelNotOffered",
            step=_MODEL,
        )
    ends = find_end(offered, options.model, options.model_version)
    return [] if ends is None else [f"the model {options.model} ends in {location} on {ends}"]


async def ensure_foundry(run: DeploymentRun, endpoint: str, key: str) -> FoundryDeployment:
    """Create what is missing of the project, and connect it to the pool.

    Args:
        run: The deployment.
        endpoint: MCP endpoint of the pool, or of its gateway.
        key: Its key.

    Raises:
        ProvisioningError: Azure refused a step, or it took too long.
    """
    know(key)
    options = run.options
    await check_model(options, run.arm)
    if bodies.owns_account(options):
        await _ensure_account(run)
    location = await _read_location(options, run.arm)
    if options.foundry_project is None:
        project = bodies.build_project(options, location=location)
        await run.ensure(project, expected_duration="a minute", retry_conflict=True)
    await _ensure_model(run, location)
    await _ensure_connection(run, endpoint, key)
    found = await read_foundry(options, run.arm)
    if found is None:
        raise ProvisioningError(
            "Foundry project: Azure does not report it yet",
            hint="run the same command again; it continues from here",
            step="Foundry project",
        )
    return found


async def read_foundry(options: Options, arm: ArmClient) -> FoundryDeployment | None:
    """Return the project that the options name or that was created, or None without one.

    Args:
        options: The complete options of the deployment.
        arm: Client of Resource Manager.
    """
    project_id = bodies.get_project_id(options)
    version = api_versions.COGNITIVE_SERVICES
    project = await arm.get(project_id, version, step="Foundry project")
    if project is None:
        return None
    account = await arm.get(bodies.get_account_id(options), version, step="Foundry account")
    connection = bodies.build_connection(options)
    has_connection = await arm.get(connection.id, version, step=connection.kind) is not None
    return FoundryDeployment(
        project_id=project_id,
        project_endpoint=_find_endpoint(project, account or {}, project_id),
        model=options.model,
        connection_id=connection.id if has_connection else None,
    )


async def _read_own_account(options: Options, arm: ArmClient) -> Mapping[str, Any] | None:
    """Return the account that `up` created, or None."""
    wanted = bodies.build_account(options)
    found = await arm.get(wanted.id, wanted.api_version, step=wanted.kind)
    return found if found is not None and has_owner_tag(found, options.name) else None


def _imply_gateway(options: Options) -> dict[str, Any]:
    needs = options.kind == "custom" and "gateway" not in options.given
    return {"gateway": True} if needs else {}


async def _complete_model(options: Options, arm: ArmClient) -> Options:
    """Return the options with the model that `up` deployed before, where none is named."""
    names = ("model", "model_version", "model_sku", "model_capacity")
    if "model" in options.given:
        return options
    path = f"{bodies.get_account_id(options)}/deployments"
    for item in await arm.list(path, api_versions.COGNITIVE_SERVICES, step=_MODEL):
        if not has_owner_tag(item, options.name):
            continue
        model = lowercase_keys(lowercase_keys(item.get("properties")).get("model"))
        sku = lowercase_keys(item.get("sku"))
        found = {
            "model": str(item.get("name") or model.get("name") or "").rpartition("/")[2],
            "model_sku": sku.get("name"),
            "model_capacity": sku.get("capacity"),
        }
        return options.with_values(
            **{name: found[name] for name in names if found.get(name) and name not in options.given}
        )
    return options


async def _read_location(options: Options, arm: ArmClient) -> str:
    """Return the region of the account.

    Raises:
        ProvisioningError: The account or project is named and does not exist.
    """
    if bodies.owns_account(options):
        return options.location
    version = api_versions.COGNITIVE_SERVICES
    account_id = bodies.get_account_id(options)
    account = await arm.get(account_id, version, step="Foundry account")
    missing = None if account is not None else account_id
    if options.foundry_project is not None and missing is None:
        project = await arm.get(options.foundry_project, version, step="Foundry project")
        missing = None if project is not None else options.foundry_project
    if account is None or missing is not None:
        raise ProvisioningError(
            f"Foundry: {missing} does not exist, or you may not read it",
            hint="correct --foundry-project or --foundry-account, or use --foundry alone to "
            "create both",
            code="FoundryNotFound",
            step="Foundry account",
        )
    return str(account.get("location") or options.location).replace(" ", "").lower()


async def _ensure_account(run: DeploymentRun) -> None:
    wanted = bodies.build_account(run.options)
    try:
        await run.ensure(wanted, expected_duration="a minute", retry_conflict=True)
    except ArmError as error:
        if error.code != _DELETED:
            raise
        await _restore_account(run, error)


async def _restore_account(run: DeploymentRun, refusal: ArmError) -> None:
    """Restore the account of this name, which was deleted and keeps its name for 48 hours."""
    wanted = bodies.build_account(run.options)
    reporter = StepReporter(run.report, wanted.kind)
    deleted = await _read_deleted(run)
    if deleted is not None and not has_owner_tag(deleted, run.options.name):
        raise ProvisioningError(
            f"{wanted.kind}: a deleted account of somebody else keeps the name {wanted.name}",
            hint="choose other names by --suffix or --name, or ask for its removal: "
            + format_purge_command(run.options, run.options.location),
            code=_DELETED,
            step=wanted.kind,
        ) from refusal
    reporter.report("working", f"restoring {wanted.kind} {wanted.name}, which was deleted")
    for body in (bodies.build_account(run.options, restore=True), wanted):
        found = await run.arm.get(wanted.id, wanted.api_version, step=wanted.kind)
        if found is None or not is_up_to_date(wanted, found):
            await run.arm.put(body, step=wanted.kind, report_waiting=reporter.report_waiting)
    run.changed.append(wanted.id)
    reporter.report("updated", f"restored {wanted.kind} {wanted.name}")


async def _read_deleted(run: DeploymentRun) -> Mapping[str, Any] | None:
    path = build_deleted_path(run.options, run.options.location)
    try:
        return await run.arm.get(path, api_versions.COGNITIVE_SERVICES, step="Foundry account")
    except ArmError as error:
        if error.status != FORBIDDEN:
            raise
        return None


def build_deleted_path(options: Options, location: str) -> str:
    """Return the path of the account among the deleted ones of its region."""
    name = bodies.build_account(options).name
    return (
        f"{options.subscription_id}/providers/{bodies.PROVIDER}/locations/{location}"
        f"/resourceGroups/{options.resource_group}/deletedAccounts/{name}"
    )


def format_purge_command(options: Options, location: str) -> str:
    """Return the command of Azure's command line that frees the name of a deleted account."""
    return (
        f"az cognitiveservices account purge --location {location} "
        f"--resource-group {options.resource_group} --name {bodies.build_account(options).name}"
    )


async def _ensure_model(run: DeploymentRun, location: str) -> None:
    wanted = bodies.build_model(run.options)
    reporter = StepReporter(run.report, wanted.kind)
    found = await run.wait_until_provisioned(wanted, reporter)
    if found is not None and not has_owner_tag(found, run.options.name):
        reporter.report("kept", f"{wanted.kind} {wanted.name} exists, and stays as it is")
        return
    try:
        await run.ensure(wanted, expected_duration="a minute", retry_conflict=True)
    except ArmError as error:
        raise await _explain_refusal(run, error, location) from error


async def _explain_refusal(run: DeploymentRun, error: ArmError, location: str) -> ProvisioningError:
    """Return the error with the true reason why Azure refused a model."""
    if "quota" in f"{error.code} {error}".lower():
        hint, reason = _QUOTA_HINT, None
    else:
        hint = "choose another one by --model, --model-version or --model-sku"
        subscription = bodies.get_account_id(run.options).split("/")[2]
        offered = await list_offered_models(run.arm, subscription, location)
        reason = None
        if offered is not None:
            options = run.options
            reason = find_problem(
                offered,
                options.model,
                location=location,
                version=options.model_version,
                sku=options.model_sku,
            )
    text = str(error) if reason is None else f"{error}; {reason}"
    return ProvisioningError(text, hint=hint, code=error.code, step=_MODEL)


async def _ensure_connection(run: DeploymentRun, endpoint: str, key: str) -> None:
    wanted = bodies.build_connection(run.options, endpoint, key)
    found = await run.arm.get(wanted.id, wanted.api_version, step=wanted.kind)
    if found is not None and is_made_elsewhere(found.get("properties") or {}, endpoint):
        raise ProvisioningError(
            f"{wanted.kind}: {wanted.name} leads elsewhere, and was made by something else",
            hint="remove it in the project, or connect under another name: "
            "cci foundry connect --name NAME",
            code="ConnectionOfOthers",
            step=wanted.kind,
        )
    await run.ensure(wanted, retry_conflict=True)


def _find_endpoint(project: Mapping[str, Any], account: Mapping[str, Any], project_id: str) -> str:
    """Return the project's endpoint. Azure may name it late, so it is else built from its names."""
    endpoints = lowercase_keys(lowercase_keys(project.get("properties")).get("endpoints"))
    if endpoints.get(_API_NAME):
        return str(endpoints[_API_NAME])
    parts = project_id.split("/")
    properties = lowercase_keys(account.get("properties"))
    domain = properties.get("customsubdomainname") or parts[8]
    return f"https://{domain}.services.ai.azure.com/api/projects/{parts[-1]}"

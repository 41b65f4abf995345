"""Providers and preview features that a subscription must have registered."""

from __future__ import annotations

import time
from dataclasses import dataclass

import anyio

from cci_plugins.azure import api_versions
from cci_plugins.azure.failures import FORBIDDEN, ArmError
from cci_plugins.azure.resource import lowercase_keys
from cci_plugins.errors import ProvisioningError

from . import foundry_resources
from .deployment_run import DeploymentRun, StepReporter
from .options import Options

FEATURE = "SessionPoolsSupportMCP"
APP = "Microsoft.App"


def list_providers(options: Options) -> list[str]:
    """Return the resource providers that the options need."""
    needed = [APP]
    if options.uses_own_registry:
        needed.append("Microsoft.ContainerRegistry")
    if options.uses_own_registry or options.gateway:
        needed.append("Microsoft.ManagedIdentity")
    if options.logs:
        needed += ["Microsoft.Insights", "Microsoft.OperationalInsights"]
    if options.storage:
        needed.append("Microsoft.Storage")
    if options.foundry:
        needed.append(foundry_resources.PROVIDER)
    return needed


async def register(run: DeploymentRun, *, force: bool) -> None:
    """Register what is not registered.

    Args:
        run: The deployment.
        force: Whether to register Microsoft.App even if it is registered. That activates a newly
            registered feature.

    A state that the sign-in may not read is a note only. A person who may change one resource
    group may not be able to read the subscription. What is missing shows when the pool is made.

    Raises:
        ProvisioningError: Azure refused, an approval is missing, or it took too long.
    """
    subscription = run.options.subscription_id
    if run.options.kind == "python":
        features = f"{subscription}/providers/Microsoft.Features/providers"
        feature = _Registration(
            name=f"feature {FEATURE}",
            path=f"{features}/{APP}/features/{FEATURE}",
            version=api_versions.FEATURES,
            manual_command=f"az feature register --namespace {APP} --name {FEATURE}",
            expected_duration="up to half an hour",
            is_optional=True,
        )
        await _register(run, feature)
    for name in list_providers(run.options):
        provider = _Registration(
            name=f"provider {name}",
            path=f"{subscription}/providers/{name}",
            version=api_versions.RESOURCES,
            manual_command=f"az provider register --namespace {name} --wait",
            expected_duration="a minute",
        )
        needs_force = force and name == APP and run.options.kind == "python"
        await _register(run, provider, force=needs_force)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Registration:
    """A feature or a provider.

    Attributes:
        is_optional: Whether Azure may no longer have it. That is not an error.
    """

    name: str
    path: str
    version: str
    manual_command: str
    expected_duration: str
    is_optional: bool = False


async def _register(run: DeploymentRun, wanted: _Registration, *, force: bool = False) -> None:
    reporter = StepReporter(run.report, wanted.name)
    try:
        state = await _read_state(run, wanted)
    except ArmError as error:
        if error.status != FORBIDDEN:
            raise
        message = f"you may not read whether the {wanted.name} is registered; continuing"
        run.add_note(wanted.name, f"{message}. If it is not: {wanted.manual_command}")
        return
    if state is None:
        run.add_note(wanted.name, f"Azure no longer has the {wanted.name}; continuing without it")
        return
    if state == "registered" and not force:
        reporter.report("kept", f"{wanted.name} is registered")
        return
    if state not in {"registering", "pending"}:
        reporter.report(
            "working", f"registering {wanted.name}; this takes {wanted.expected_duration}"
        )
        await run.arm.post(
            f"{wanted.path}/register",
            wanted.version,
            step=wanted.name,
            manual_command=wanted.manual_command,
        )
        run.changed.append(wanted.path)
    await _wait_until_registered(run, wanted, reporter)


async def _wait_until_registered(
    run: DeploymentRun, wanted: _Registration, reporter: StepReporter
) -> None:
    deadline = time.monotonic() + run.azure.patience.total_seconds()
    while (state := await _read_state(run, wanted)) != "registered":
        if state == "pending":
            raise ProvisioningError(
                f"{wanted.name} is waiting for an approval",
                hint=f"ask the subscription's owner to run: {wanted.manual_command}",
                step=wanted.name,
            )
        if time.monotonic() > deadline:
            raise ProvisioningError(
                f"{wanted.name} is still not registered",
                hint="run the same command again later; Azure continues the registration",
                step=wanted.name,
            )
        reporter.report_waiting()
        await anyio.sleep(run.azure.polling.total_seconds())
    reporter.report("created", f"{wanted.name} is registered")


async def _read_state(run: DeploymentRun, wanted: _Registration) -> str | None:
    """Return the state in lower case, or None if Azure does not have the optional feature."""
    found = await run.arm.get(wanted.path, wanted.version, step=wanted.name)
    if found is None and wanted.is_optional:
        return None
    values = lowercase_keys(found)
    feature = lowercase_keys(values.get("properties"))
    return str(feature.get("state") or values.get("registrationstate") or "").lower()

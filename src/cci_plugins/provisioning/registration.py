"""Providers and preview features that a subscription must have registered."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import anyio

from cci_plugins.azure import api_versions
from cci_plugins.azure.resource import lowercase_keys
from cci_plugins.errors import ProvisioningError

from .deployment_run import DeploymentRun, StepReporter
from .options import Options

FEATURE = "SessionPoolsSupportMCP"
APP = "Microsoft.App"


def list_providers(options: Options) -> list[str]:
    """Return the resource providers that the options need."""
    needed = [APP]
    if options.builds_image:
        needed.append("Microsoft.ContainerRegistry")
    if options.builds_image or options.gateway:
        needed.append("Microsoft.ManagedIdentity")
    if options.storage:
        needed.append("Microsoft.Storage")
    return needed


async def register(run: DeploymentRun, *, force: bool) -> None:
    """Register what is not registered.

    Args:
        run: The deployment.
        force: Whether to register Microsoft.App even if it is registered. That activates a newly
            registered feature.

    Raises:
        ProvisioningError: Azure refused, an approval is missing, or it took too long.
    """
    if run.options.kind == "python":
        await _register_feature(run)
    for name in list_providers(run.options):
        needs_force = force and name == APP and run.options.kind == "python"
        await _register_provider(run, name, force=needs_force)


async def _register_feature(run: DeploymentRun) -> None:
    features = f"{run.options.subscription_id}/providers/Microsoft.Features/providers"
    path = f"{features}/{APP}/features/{FEATURE}"
    reporter = StepReporter(run.report, f"feature {FEATURE}")
    manual_command = f"az feature register --namespace {APP} --name {FEATURE}"

    async def read_state() -> str | None:
        found = await run.arm.get(path, api_versions.FEATURES, step=reporter.step)
        return None if found is None else _read_lower(found.get("properties"), "state")

    state = await read_state()
    if state is None:
        run.add_note(
            reporter.step, f"Azure no longer has the feature {FEATURE}; continuing without it"
        )
        return
    if state == "registered":
        reporter.report("kept", f"{reporter.step} is registered")
        return
    if state not in {"registering", "pending"}:
        reporter.report("working", f"registering {reporter.step}; this takes up to half an hour")
        await run.arm.post(
            f"{path}/register",
            api_versions.FEATURES,
            step=reporter.step,
            manual_command=manual_command,
        )
        run.changed.append(path)
    await _wait_until_registered(run, reporter, read_state, manual_command)


async def _register_provider(run: DeploymentRun, name: str, *, force: bool) -> None:
    path = f"{run.options.subscription_id}/providers/{name}"
    reporter = StepReporter(run.report, f"provider {name}")
    manual_command = f"az provider register --namespace {name} --wait"

    async def read_state() -> str | None:
        found = await run.arm.get(path, api_versions.RESOURCES, step=reporter.step)
        return _read_lower(found, "registrationState")

    state = await read_state()
    if state == "registered" and not force:
        reporter.report("kept", f"{reporter.step} is registered")
        return
    if state != "registering":
        reporter.report("working", f"registering {reporter.step}; this takes a minute")
        await run.arm.post(
            f"{path}/register",
            api_versions.RESOURCES,
            step=reporter.step,
            manual_command=manual_command,
        )
        run.changed.append(path)
    await _wait_until_registered(run, reporter, read_state, manual_command)


async def _wait_until_registered(
    run: DeploymentRun,
    reporter: StepReporter,
    read_state: Callable[[], Awaitable[str | None]],
    manual_command: str,
) -> None:
    deadline = time.monotonic() + run.azure.patience.total_seconds()
    while (state := await read_state()) != "registered":
        if state == "pending":
            raise ProvisioningError(
                f"{reporter.step} is waiting for an approval",
                hint=f"ask the subscription's owner to run: {manual_command}",
                step=reporter.step,
            )
        if time.monotonic() > deadline:
            raise ProvisioningError(
                f"{reporter.step} is still not registered",
                hint="run the same command again later; Azure continues the registration",
                step=reporter.step,
            )
        reporter.report_waiting()
        await anyio.sleep(run.azure.polling.total_seconds())
    reporter.report("created", f"{reporter.step} is registered")


def _read_lower(found: Mapping[str, Any] | None, name: str) -> str:
    return str(lowercase_keys(found).get(name.lower(), "")).lower()

"""What a subscription must have switched on before any of this can be made in it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import anyio

from cci_plugins.azure import api_versions
from cci_plugins.errors import ProvisioningError

from .compare import lower
from .deployment_run import DeploymentRun, StepReporter
from .options import Options

FEATURE = "SessionPoolsSupportMCP"
APP = "Microsoft.App"


def list_providers(options: Options) -> list[str]:
    """The resource providers that are needed."""
    needed = [APP]
    if options.builds_image:
        needed.append("Microsoft.ContainerRegistry")
    if options.builds_image or options.gateway:
        needed.append("Microsoft.ManagedIdentity")
    if options.storage:
        needed.append("Microsoft.Storage")
    return needed


def build_feature_path(options: Options) -> str:
    """The preview feature of the platform's MCP server, as Resource Manager names it."""
    return (
        f"{options.subscription_id}/providers/Microsoft.Features/providers/{APP}/features/{FEATURE}"
    )


def build_provider_path(options: Options, name: str) -> str:
    """A resource provider, as Resource Manager names it."""
    return f"{options.subscription_id}/providers/{name}"


async def register(run: DeploymentRun, *, force: bool) -> None:
    """Register what is not registered.

    Args:
        work: The run.
        again: Whether to register Microsoft.App also when it is: that carries the feature over.
    """
    if run.options.kind == "python":
        await _register_feature(run)
    for name in list_providers(run.options):
        needs_force = force and name == APP and run.options.kind == "python"
        await _register_provider(run, name, force=needs_force)


async def _register_feature(run: DeploymentRun) -> None:
    path, reporter = build_feature_path(run.options), StepReporter(run.report, f"feature {FEATURE}")
    manual_command = f"az feature register --namespace {APP} --name {FEATURE}"

    async def state() -> str | None:
        found = await run.arm.get(path, api_versions.FEATURES, step=reporter.step)
        return None if found is None else _read_lower(found.get("properties"), "state")

    now = await state()
    if now is None:
        run.add_note(
            reporter.step, f"Azure knows no feature {FEATURE} any more; going on without it"
        )
        return
    if now == "registered":
        reporter.report("kept", f"{reporter.step} is registered")
        return
    if now not in {"registering", "pending"}:
        reporter.report("working", f"registering {reporter.step}; this takes up to half an hour")
        await run.arm.post(
            f"{path}/register",
            api_versions.FEATURES,
            step=reporter.step,
            manual_command=manual_command,
        )
        run.changed.append(path)
    await _wait_until_registered(run, reporter, state, manual_command)


async def _register_provider(run: DeploymentRun, name: str, *, force: bool) -> None:
    path, reporter = (
        build_provider_path(run.options, name),
        StepReporter(run.report, f"provider {name}"),
    )
    manual_command = f"az provider register --namespace {name} --wait"

    async def state() -> str | None:
        found = await run.arm.get(path, api_versions.RESOURCES, step=reporter.step)
        return _read_lower(found, "registrationState")

    now = await state()
    if now == "registered" and not force:
        reporter.report("kept", f"{reporter.step} is registered")
        return
    if now != "registering":
        reporter.report("working", f"registering {reporter.step}; this takes a minute")
        await run.arm.post(
            f"{path}/register",
            api_versions.RESOURCES,
            step=reporter.step,
            manual_command=manual_command,
        )
        run.changed.append(path)
    await _wait_until_registered(run, reporter, state, manual_command)


async def _wait_until_registered(
    run: DeploymentRun, reporter: StepReporter, state: Any, manual_command: str
) -> None:
    deadline = time.monotonic() + run.azure.patience.total_seconds()
    while (now := await state()) != "registered":
        if now == "pending":
            raise ProvisioningError(
                f"{reporter.step} waits for an approval",
                hint=f"ask the subscription's owner to run: {manual_command}",
                step=reporter.step,
            )
        if time.monotonic() > deadline:
            raise ProvisioningError(
                f"{reporter.step} is still not registered",
                hint="run the same command again later; Azure goes on with it",
                step=reporter.step,
            )
        reporter.report_waiting()
        await anyio.sleep(run.azure.polling.total_seconds())
    reporter.report("created", f"{reporter.step} is registered")


def _read_lower(found: Mapping[str, Any] | None, name: str) -> str:
    return str(lower(found).get(name.lower(), "")).lower()

"""What a subscription must have switched on before any of this can be made in it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import anyio

from cci_plugins.azure import api_versions
from cci_plugins.errors import ProvisioningError

from .compare import lower
from .deployment_run import Watch, Work
from .options import Options

FEATURE = "SessionPoolsSupportMCP"
APP = "Microsoft.App"


def providers(options: Options) -> list[str]:
    """The resource providers that are needed."""
    needed = [APP]
    if options.builds_image:
        needed.append("Microsoft.ContainerRegistry")
    if options.builds_image or options.gateway:
        needed.append("Microsoft.ManagedIdentity")
    if options.storage:
        needed.append("Microsoft.Storage")
    return needed


def feature_path(options: Options) -> str:
    """The preview feature of the platform's MCP server, as Resource Manager names it."""
    return (
        f"{options.subscription_id}/providers/Microsoft.Features/providers/{APP}/features/{FEATURE}"
    )


def provider_path(options: Options, name: str) -> str:
    """A resource provider, as Resource Manager names it."""
    return f"{options.subscription_id}/providers/{name}"


async def register(work: Work, *, again: bool) -> None:
    """Register what is not registered.

    Args:
        work: The run.
        again: Whether to register Microsoft.App also when it is: that carries the feature over.
    """
    if work.options.kind == "python":
        await _feature(work)
    for name in providers(work.options):
        carries = again and name == APP and work.options.kind == "python"
        await _provider(work, name, again=carries)


async def _feature(work: Work) -> None:
    path, watch = feature_path(work.options), Watch(work.tell, f"feature {FEATURE}")
    by_hand = f"az feature register --namespace {APP} --name {FEATURE}"

    async def state() -> str | None:
        found = await work.arm.get(path, api_versions.FEATURES, step=watch.step)
        return None if found is None else _text(found.get("properties"), "state")

    now = await state()
    if now is None:
        work.note(watch.step, f"Azure knows no feature {FEATURE} any more; going on without it")
        return
    if now == "registered":
        watch.tell("kept", f"{watch.step} is registered")
        return
    if now not in {"registering", "pending"}:
        watch.tell("working", f"registering {watch.step}; this takes up to half an hour")
        await work.arm.post(
            f"{path}/register", api_versions.FEATURES, step=watch.step, by_hand=by_hand
        )
        work.changed.append(path)
    await _until_registered(work, watch, state, by_hand)


async def _provider(work: Work, name: str, *, again: bool) -> None:
    path, watch = provider_path(work.options, name), Watch(work.tell, f"provider {name}")
    by_hand = f"az provider register --namespace {name} --wait"

    async def state() -> str | None:
        found = await work.arm.get(path, api_versions.RESOURCES, step=watch.step)
        return _text(found, "registrationState")

    now = await state()
    if now == "registered" and not again:
        watch.tell("kept", f"{watch.step} is registered")
        return
    if now != "registering":
        watch.tell("working", f"registering {watch.step}; this takes a minute")
        await work.arm.post(
            f"{path}/register", api_versions.RESOURCES, step=watch.step, by_hand=by_hand
        )
        work.changed.append(path)
    await _until_registered(work, watch, state, by_hand)


async def _until_registered(work: Work, watch: Watch, state: Any, by_hand: str) -> None:
    deadline = time.monotonic() + work.azure.patience.total_seconds()
    while (now := await state()) != "registered":
        if now == "pending":
            raise ProvisioningError(
                f"{watch.step} waits for an approval",
                hint=f"ask the subscription's owner to run: {by_hand}",
                step=watch.step,
            )
        if time.monotonic() > deadline:
            raise ProvisioningError(
                f"{watch.step} is still not registered",
                hint="run the same command again later; Azure goes on with it",
                step=watch.step,
            )
        watch.waiting()
        await anyio.sleep(work.azure.polling.total_seconds())
    watch.tell("created", f"{watch.step} is registered")


def _text(found: Mapping[str, Any] | None, name: str) -> str:
    return str(lower(found).get(name.lower(), "")).lower()

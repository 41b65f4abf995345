"""The image, built in the cloud: no Docker on this machine."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from typing import Any

import aiohttp

from cci_plugins.azure import api_versions
from cci_plugins.azure.failures import clean
from cci_plugins.azure.resource import Resource
from cci_plugins.errors import ProvisioningError
from cci_plugins.redaction import know

from .compare import lower
from .deployment_run import DeploymentRun, StepReporter
from .image import BuildContext
from .resources import image, registry, task_run

_STEP = "image"
_LOG_TAIL_LINES = 15
_UPLOAD_SECONDS = 600


async def build(run: DeploymentRun, context: BuildContext) -> str:
    """Build the image unless it is there, and wait for it.

    The build is a task run named by the image's tag, so that a second look finds it.

    Returns:
        The image, with its registry and tag.

    Raises:
        ProvisioningError: The build failed; the end of its log is in the message.
    """
    reporter, name = StepReporter(run.report, _STEP), image(run.options, context.tag)
    wanted = task_run(run.options, context.tag, source="", arguments={})
    found = await run.wait_until_provisioned(wanted, reporter)
    if found is not None and _parse_status(found) == "succeeded":
        reporter.report("kept", f"image {name} is there")
        return name
    reporter.report("working", f"building image {name}; this takes 5 to 10 minutes")
    source = await _send_context(run, context)
    wanted = task_run(run.options, context.tag, source=source, arguments=context.arguments)
    await _run_build(run, reporter, wanted)
    run.changed.append(wanted.id)
    reporter.report("created", f"built image {name}")
    return name


async def _send_context(run: DeploymentRun, context: BuildContext) -> str:
    """Send the build context; the path it has in the registry."""
    path = f"{registry(run.options).id}/listBuildSourceUploadUrl"
    upload_target = lower(await run.arm.post(path, api_versions.REGISTRY_TASKS, step=_STEP))
    link = str(upload_target.get("uploadurl"))
    know(link)
    await _upload(run, link, context.archive)
    return str(upload_target.get("relativepath"))


async def _run_build(run: DeploymentRun, reporter: StepReporter, wanted: Resource) -> None:
    """Start the task run and wait for it.

    Raises:
        ProvisioningError: It failed.
    """
    refusal = None
    try:
        await run.arm.put(wanted, step=_STEP, report_waiting=reporter.report_waiting)
    except ProvisioningError as error:
        refusal = error
    found = await run.arm.get(wanted.id, wanted.api_version, step=_STEP)
    if refusal is not None and (found is None or not _parse_run_id(found)):
        raise refusal  # it never began
    status = _parse_status(found or {})
    if refusal is not None or status != "succeeded":
        log = await _fetch_log(run, _parse_run_id(found or {}))
        raise ProvisioningError(
            f"{_STEP}: the build ended as {status or 'failed'}{log}",
            hint="correct the requirements.txt and run the same command again",
            code=status,
            step=_STEP,
        ) from refusal


async def _fetch_log(run: DeploymentRun, run_id: str) -> str:
    """The end of a build's log; nothing when it cannot be had."""
    path = f"{registry(run.options).id}/runs/{run_id}"
    link = await run.arm.post(f"{path}/listLogSasUrl", api_versions.REGISTRY_TASKS, step=_STEP)
    try:
        async with _open_http(run) as http, http.get(str(lower(link).get("loglink"))) as response:
            text = await response.text(errors="replace")
            if response.status != 200:  # noqa: PLR2004 - HTTP
                return ""
    except (aiohttp.ClientError, TimeoutError):
        return ""
    lines = [clean(line) for line in text.splitlines() if line.strip()]
    return "\n".join(["; its log ends with:", *lines[-_LOG_TAIL_LINES:]]) if lines else ""


async def _upload(run: DeploymentRun, url: str, archive: bytes) -> None:
    """Send the build context. The URL lets everybody write there, so it is never repeated.

    Not by the ARM client, which would send its token along, nor by httpx, which logs URLs.
    """
    headers = {"x-ms-blob-type": "BlockBlob", "content-type": "application/gzip"}
    try:
        async with (
            _open_http(run) as http,
            http.put(url, data=archive, headers=headers) as response,
        ):
            status = response.status
    except (aiohttp.ClientError, TimeoutError, ValueError) as error:
        raise ProvisioningError(
            f"{_STEP}: the build context could not be sent ({type(error).__name__})",
            hint="check the network, and run the same command again",
            step=_STEP,
        ) from None
    if status not in {200, 201}:
        raise ProvisioningError(
            f"{_STEP}: Azure did not take the build context ({status})",
            hint="run the same command again",
            step=_STEP,
        )


def _open_http(run: DeploymentRun) -> aiohttp.ClientSession:
    context = ssl.create_default_context(cafile=run.azure.ca)
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(ssl=context),
        timeout=aiohttp.ClientTimeout(total=_UPLOAD_SECONDS),
        trust_env=True,
    )


def _parse_status(found: Mapping[str, Any]) -> str:
    """How the run of a task run stands; as the resource says where it says nothing of the run."""
    properties = lower(found.get("properties"))
    run = lower(lower(properties.get("runresult")).get("properties"))
    return str(run.get("status") or properties.get("provisioningstate") or "").lower()


def _parse_run_id(found: Mapping[str, Any]) -> str:
    run = lower(lower(found.get("properties")).get("runresult"))
    return str(lower(run.get("properties")).get("runid") or run.get("name") or "")

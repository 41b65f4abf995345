"""The build of the session image in the cloud, without Docker on this machine."""

from __future__ import annotations

import ssl
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import aiohttp

from cci_plugins.azure import api_versions
from cci_plugins.azure.failures import clean
from cci_plugins.azure.resource import Resource, lowercase_keys
from cci_plugins.errors import ProvisioningError
from cci_plugins.redaction import know

from .deployment_run import DeploymentRun, StepReporter
from .image import BuildContext
from .resources import DOCKERFILE, build_image_name, build_registry, build_task_run

_STEP = "image"
_LOG_BYTES = 256 * 1024
_LOG_TAIL_LINES = 15
_NO_TASKS = ("TasksOperationsNotAllowed",)  # github.com/Azure-Samples/azure-search-openai-demo#2220
_UPLOAD_SECONDS = 600
_OK_STATUS, _UPLOADED_STATUSES = 200, {200, 201}


async def build(run: DeploymentRun, context: BuildContext) -> str:
    """Build the image unless it exists, and wait for it.

    The build is a task run named by the image's tag, so a later run finds it again.

    Args:
        run: The deployment.
        context: Files, arguments and tag of the image.

    Returns:
        The image, with its registry and tag.

    Raises:
        ProvisioningError: The build failed. The message has the end of its log.
    """
    reporter = StepReporter(run.report, _STEP)
    name = build_image_name(run.options, context.tag)
    wanted = build_task_run(run.options, context.tag, source="", arguments={})
    found = await run.wait_until_provisioned(wanted, reporter)
    if found is not None and _parse_status(found) == "succeeded":
        reporter.report("kept", f"image {name} exists")
        return name
    reporter.report("working", f"building image {name}; this takes 5 to 10 minutes")
    try:
        source = await _upload_context(run, context)
        wanted = build_task_run(
            run.options, context.tag, source=source, arguments=context.arguments
        )
        await _run_build(run, reporter, wanted)
    except ProvisioningError as error:
        explained = _explain_refusal(run, context, error)
        if explained is error:  # which must not become its own cause
            raise
        raise explained from error
    run.changed.append(wanted.id)
    reporter.report("created", f"built image {name}")
    return name


async def _upload_context(run: DeploymentRun, context: BuildContext) -> str:
    """Upload the build context and return its path in the registry."""
    path = f"{build_registry(run.options).id}/listBuildSourceUploadUrl"
    answer = await run.arm.post(path, api_versions.REGISTRY_TASKS, step=_STEP)
    upload_target = lowercase_keys(answer)
    link = str(upload_target.get("uploadurl"))
    know(link)
    await _upload(run, link, context.archive)
    return str(upload_target.get("relativepath"))


async def _run_build(run: DeploymentRun, reporter: StepReporter, wanted: Resource) -> None:
    """Start the task run and wait until it ends.

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
        raise refusal  # the build never started
    status = _parse_status(found or {})
    if refusal is not None or status != "succeeded":
        log = await _fetch_log(run, _parse_run_id(found or {}))
        raise ProvisioningError(
            f"{_STEP}: the build ended as {status or 'failed'}{log}",
            hint=_choose_hint(log),
            code=status,
            step=_STEP,
        ) from refusal


def _choose_hint(log: str) -> str:
    low = log.lower()
    if "toomanyrequests" in low or "pull rate limit" in low:
        return (
            "Docker Hub limits how often its images are pulled without an account, and Azure's "
            "builds share addresses: run the same command again later, or name the base image from "
            "another registry by --base"
        )
    return "correct the requirements.txt and run the same command again"


def _explain_refusal(
    run: DeploymentRun, context: BuildContext, error: ProvisioningError
) -> ProvisioningError:
    """Return the error of a build that Azure does not run, with a way to build it here."""
    if error.code not in _NO_TASKS:
        return error
    name = build_image_name(run.options, context.tag)
    path = Path(tempfile.gettempdir()) / f"cci-session-{context.tag}.tar.gz"
    path.write_bytes(context.archive)
    arguments = " ".join(
        f"--build-arg {key}={value}" for key, value in sorted(context.arguments.items())
    )
    registry = build_registry(run.options).name
    return ProvisioningError(
        f"{_STEP}: this subscription may not build images in Azure, as free and trial ones may "
        f"not ({error.code})",
        hint=f"build it with Docker on this machine: docker build --platform linux/amd64 -t {name} "
        f"-f {DOCKERFILE} {arguments} - < {path} && az acr login -n {registry} && docker push "
        f"{name}; then run the same command with --image {name} instead of --requirements",
        code=error.code,
        step=_STEP,
    )


async def _fetch_log(run: DeploymentRun, run_id: str) -> str:
    """Return the end of a build's log, or nothing if it cannot be read."""
    path = f"{build_registry(run.options).id}/runs/{run_id}/listLogSasUrl"
    answer = await run.arm.post(path, api_versions.REGISTRY_TASKS, step=_STEP)
    link = str(lowercase_keys(answer).get("loglink"))
    try:
        async with _open_http(run) as http, http.get(link) as response:
            text = (await _read_end(response)).decode(errors="replace")
            if response.status != _OK_STATUS:
                return ""
    except (aiohttp.ClientError, TimeoutError):
        return ""
    lines = [clean(line) for line in text.splitlines() if line.strip()]
    return "\n".join(["; its log ends with:", *lines[-_LOG_TAIL_LINES:]]) if lines else ""


async def _read_end(response: aiohttp.ClientResponse) -> bytes:
    """Return the end of a body of any length."""
    end = b""
    async for chunk in response.content.iter_chunked(_LOG_BYTES):
        end = (end + chunk)[-_LOG_BYTES:]
    return end


async def _upload(run: DeploymentRun, url: str, archive: bytes) -> None:
    """Upload the build context. Anybody can write with the URL, so no message repeats it.

    The ARM client would send its token along, and httpx logs URLs, so neither is used here.
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
            f"{_STEP}: the upload of the build context failed ({type(error).__name__})",
            hint="check the network, and run the same command again",
            step=_STEP,
        ) from None
    if status not in _UPLOADED_STATUSES:
        raise ProvisioningError(
            f"{_STEP}: Azure refused the build context ({status})",
            hint="run the same command again",
            step=_STEP,
        )


def _open_http(run: DeploymentRun) -> aiohttp.ClientSession:
    context = ssl.create_default_context(cafile=run.azure.ca)
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(ssl=context),
        timeout=aiohttp.ClientTimeout(total=_UPLOAD_SECONDS),
        auto_decompress=False,  # it decodes without a bound
        headers={"accept-encoding": "identity"},
        trust_env=True,
    )


def _parse_status(found: Mapping[str, Any]) -> str:
    """Return the status of a task run's build, or else the provisioning state of the task run."""
    properties = lowercase_keys(found.get("properties"))
    run = lowercase_keys(lowercase_keys(properties.get("runresult")).get("properties"))
    return str(run.get("status") or properties.get("provisioningstate") or "").lower()


def _parse_run_id(found: Mapping[str, Any]) -> str:
    run = lowercase_keys(lowercase_keys(found.get("properties")).get("runresult"))
    return str(lowercase_keys(run.get("properties")).get("runid") or run.get("name") or "")

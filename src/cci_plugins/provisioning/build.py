"""The image, built in the cloud: no Docker on this machine."""

from __future__ import annotations

import ssl
import time
from collections.abc import Mapping
from typing import Any

import aiohttp
import anyio

from cci_plugins.errors import ProvisioningError

from . import versions
from .compare import lower
from .failures import clean
from .image import DOCKERFILE, BuildContext
from .options import Options
from .resources import REPOSITORY, image, registry
from .work import Watch, Work

_STEP = "image"
_TIMEOUT_SECONDS = 3600
_LAST_LINES = 15
_GOES_ON = {"queued", "started", "running"}
_UPLOAD_SECONDS = 600


async def build(work: Work, context: BuildContext) -> str:
    """Build the image unless it is there, and wait for it.

    Returns:
        The image, with its registry and tag.

    Raises:
        ProvisioningError: The build failed; the end of its log is in the message.
    """
    watch, name = Watch(work.tell, _STEP), image(work.options, context.tag)
    run = await _earlier(work, context.tag)
    if run is not None and _status(run) == "succeeded":
        watch.tell("kept", f"image {name} is there")
        return name
    if run is None:
        watch.tell("working", f"building image {name}; this takes 5 to 10 minutes")
        run = await _start(work, context)
        work.changed.append(name)
    await _wait(work, watch, run)
    watch.tell("created", f"built image {name}")
    return name


async def _earlier(work: Work, tag: str) -> Mapping[str, Any] | None:
    """A run that made this image, or is about to."""
    runs = await work.arm.list(f"{_path(work.options)}/runs", versions.REGISTRY_TASKS, step=_STEP)
    for run in runs:
        images = lower(run.get("properties")).get("outputimages") or []
        makes = any(
            (one := lower(item)).get("repository") == REPOSITORY and one.get("tag") == tag
            for item in images
        )
        if makes and _status(run) in {"succeeded", *_GOES_ON}:
            return run
    return None


async def _start(work: Work, context: BuildContext) -> Mapping[str, Any]:
    path = _path(work.options)
    place = lower(
        await work.arm.post(f"{path}/listBuildSourceUploadUrl", versions.REGISTRY_TASKS, step=_STEP)
    )
    await _upload(str(place.get("uploadurl")), context.archive)
    arguments = [
        {"name": name, "value": value, "isSecret": False}
        for name, value in sorted(context.arguments.items())
    ]
    request = {
        "type": "DockerBuildRequest",
        "imageNames": [f"{REPOSITORY}:{context.tag}"],
        "isPushEnabled": True,
        "noCache": False,
        "dockerFilePath": DOCKERFILE,
        "platform": {"os": "Linux", "architecture": "amd64"},
        "sourceLocation": place.get("relativepath"),
        "arguments": arguments,
        "timeout": _TIMEOUT_SECONDS,
    }
    return await work.arm.post(
        f"{path}/scheduleRun", versions.REGISTRY_TASKS, step=_STEP, body=request
    )


async def _wait(work: Work, watch: Watch, run: Mapping[str, Any]) -> None:
    identifier = str(lower(run.get("properties")).get("runid") or run.get("name"))
    path = f"{_path(work.options)}/runs/{identifier}"
    deadline = time.monotonic() + work.azure.patience.total_seconds()
    while (status := _status(run)) in _GOES_ON:
        if time.monotonic() > deadline:
            raise ProvisioningError(
                f"{_STEP}: build {identifier} is still {status}",
                hint="run the same command again later; it waits for this build",
                step=_STEP,
            )
        watch.waiting("for the build")
        await anyio.sleep(work.azure.polling.total_seconds())
        run = await work.arm.get(path, versions.REGISTRY_TASKS, step=_STEP) or {}
    if status != "succeeded":
        log = await _log(work, path)
        raise ProvisioningError(
            f"{_STEP}: build {identifier} {status}{log}",
            hint="correct the requirements.txt and run the same command again",
            code=status,
            step=_STEP,
        )


async def _log(work: Work, path: str) -> str:
    """The end of a build's log; nothing when it cannot be had."""
    link = await work.arm.post(f"{path}/listLogSasUrl", versions.REGISTRY_TASKS, step=_STEP)
    try:
        async with _http() as http, http.get(str(lower(link).get("loglink"))) as response:
            text = await response.text(errors="replace")
            if response.status != 200:  # noqa: PLR2004 - HTTP
                return ""
    except (aiohttp.ClientError, TimeoutError):
        return ""
    lines = [clean(line) for line in text.splitlines() if line.strip()]
    return "\n".join(["; its log ends with:", *lines[-_LAST_LINES:]]) if lines else ""


async def _upload(url: str, archive: bytes) -> None:
    """Send the build context. The URL lets everybody write there, so it is never repeated.

    Not by the ARM client, which would send its token along, nor by httpx, which logs URLs.
    """
    headers = {"x-ms-blob-type": "BlockBlob", "content-type": "application/gzip"}
    try:
        async with _http() as http, http.put(url, data=archive, headers=headers) as response:
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


def _http() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(ssl=ssl.create_default_context()),
        timeout=aiohttp.ClientTimeout(total=_UPLOAD_SECONDS),
        trust_env=True,
    )


def _path(options: Options) -> str:
    return registry(options).id


def _status(run: Mapping[str, Any]) -> str:
    return str(lower(run.get("properties")).get("status", "")).lower()

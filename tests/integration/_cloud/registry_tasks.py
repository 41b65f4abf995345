"""Builds of a registry: a link for the upload, runs, and their logs."""

import io
import tarfile
from collections.abc import Callable
from functools import lru_cache
from typing import Any
from uuid import uuid4

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from . import values


class RegistryTasks:
    """Builds of a registry.

    Attributes:
        images: Built images, as `repository:tag`.
        builds: Number of runs that started.
        uploads: Uploaded files, by their path in the registry.
        fails: Whether builds fail.
        on_upload: Called when a build context arrives.
        requirements: The `requirements.txt` of the last build.
    """

    def __init__(self, cloud: Any) -> None:
        self._cloud = cloud
        self.images: set[str] = set()
        self.builds = 0
        self.uploads: dict[str, bytes] = {}
        self.fails = False
        self.log_text = "ERROR: No matching distribution found for nopkg"
        self.requirements = ""
        self.on_upload: Callable[[], object] | None = None

    def answer(self, path: str, action: str) -> Response:
        """Answer an action of a registry or of a run."""
        if action == "listBuildSourceUploadUrl":
            name = f"source/202611230000/{uuid4().hex}.tar.gz"
            link = f"{self._cloud.url}/upload/{name}?sv=2026-10-06&sig={values.SIGNATURE}"
            return JSONResponse({"relativePath": name, "uploadUrl": link})
        assert action == "listLogSasUrl", path
        link = f"{self._cloud.url}/log/{path.split('/')[-2]}?sv=2026-10-06&sig={values.SIGNATURE}"
        return JSONResponse({"logLink": link})

    async def upload(self, request: Request) -> Response:
        """Accept a build context by its link, without any other credential."""
        if request.query_params.get("sig") != values.SIGNATURE:
            return Response(status_code=403)
        if request.headers.get("authorization") or request.method != "PUT":
            self._cloud.wrong.append("a link was used with a token")
        if request.headers.get("x-ms-blob-type") != "BlockBlob":
            return Response(status_code=400)
        if self.on_upload is not None:
            self.on_upload()
        self.uploads[request.path_params["name"]] = await request.body()
        return Response(status_code=201)

    async def log(self, request: Request) -> Response:
        """Return the log of a build."""
        if request.query_params.get("sig") != values.SIGNATURE:
            return Response(status_code=403)
        return PlainTextResponse(f"Step 9/20 : RUN pip install\n{self.log_text}")

    def error_of(self, kept: dict[str, Any]) -> dict[str, str] | None:
        """Start a run, and return the error that it will end with."""
        self.builds += 1
        request = kept["properties"]["runRequest"]
        run = f"ca{self.builds}"
        kept["properties"]["runResult"] = {
            "name": run,
            "properties": {"runId": run, "status": "Running"},
        }
        archive = self.uploads.get(request["sourceLocation"])
        fine = archive is not None and self._has(archive, request["dockerFilePath"])
        if fine and not self.fails:
            return None
        kept["properties"]["runResult"]["properties"]["status"] = "Failed"
        return {"code": "TaskRunFailed", "message": f"Run {run} failed."}

    def built(self, kept: dict[str, Any]) -> None:
        """Mark a run as succeeded."""
        kept["properties"]["runResult"]["properties"]["status"] = "Succeeded"
        self.images |= set(kept["properties"]["runRequest"]["imageNames"])

    def _has(self, archive: bytes, dockerfile: str) -> bool:
        names, self.requirements = _read(archive)
        return dockerfile in names and "infra/container/server.lock" in names


@lru_cache(maxsize=8)
def _read(archive: bytes) -> tuple[frozenset[str], str]:
    """Return the names in a build context, and its `requirements.txt`."""
    with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as opened:
        member = opened.extractfile("infra/container/requirements.txt")
        return frozenset(opened.getnames()), member.read().decode() if member else ""

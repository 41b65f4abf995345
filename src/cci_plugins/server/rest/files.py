"""A session's files over REST, in the newer and the older form."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from cci_plugins.common.file_names import safe_name
from cci_plugins.common.limits import Limits
from cci_plugins.errors import FileTooLargeError, SessionFileNotFoundError
from cci_plugins.models import FileInfo
from cci_plugins.pools.base import SessionPool

from .errors import RequestError
from .multipart import FileUpload
from .requests import is_old_form, session_of

ROOT = "/mnt/data"


class Files:
    """Moves files for REST clients, in pieces.

    Args:
        pool: Where the sessions are.
        limits: `file_bytes` bounds an upload.
    """

    def __init__(self, pool: SessionPool, limits: Limits) -> None:
        self._pool = pool
        self._limits = limits

    def routes(self) -> list[Route]:
        """The routes of both forms; the api-version tells apart what looks alike."""
        return [
            Route("/files", self._list, methods=["GET"]),
            Route("/files", self._upload, methods=["POST"]),
            Route("/files/upload", self._upload, methods=["POST"]),
            Route("/files/{name:path}", self._read, methods=["GET"]),
            Route("/files/{name:path}", self._delete, methods=["DELETE"]),
        ]

    async def _list(self, request: Request) -> Response:
        files = await self._pool.list_files(session_of(request))
        folder = _folder(request)
        deep = request.query_params.get("recursive", "").lower() == "true"
        if is_old_form(request):
            return JSONResponse({"$id": "1", "value": [_old_form(file) for file in files]})
        shown = [file for file in files if _is_below(file.name, folder, deep=deep)]
        return JSONResponse({"value": [_new_form(file) for file in shown]})

    async def _upload(self, request: Request) -> Response:
        session_id = session_of(request)
        upload = FileUpload(request.headers.get("content-type", ""), aiter(request.stream()))
        await upload.open()
        name = _name(request, upload.filename)
        declared = request.headers.get("content-length", "")
        if declared.isdigit() and int(declared) > self._limits.file_bytes + 4096:
            raise self._too_large(name, int(declared))
        content = self._bounded(name, upload.content())
        info = await self._pool.upload(session_id, name, content)
        if is_old_form(request):
            return JSONResponse({"$id": "1", "value": [_old_form(info)]})
        return JSONResponse(_new_form(info))

    async def _read(self, request: Request) -> Response:
        session_id = session_of(request)
        path = request.path_params["name"]
        if is_old_form(request):
            inner = path.removeprefix("content/")
            if inner == path:
                return JSONResponse(_old_form(await self._info(session_id, _name(request, path))))
            return await self._content(session_id, _name(request, inner))
        inner = path.removesuffix("/content")
        if inner == path:
            return JSONResponse(_new_form(await self._info(session_id, _name(request, path))))
        return await self._content(session_id, _name(request, inner))

    async def _delete(self, request: Request) -> Response:
        session_id = session_of(request)
        name = _name(request, request.path_params["name"])
        await self._pool.delete_file(session_id, name)
        if is_old_form(request):
            return JSONResponse({"message": "file deleted successfully"})
        return Response(status_code=204)

    async def _content(self, session_id: str, name: str) -> Response:
        pieces = _generator(self._pool.download(session_id, name))
        first = await anext(pieces, b"")  # a missing file shows before the status is sent
        return StreamingResponse(_chained(first, pieces), media_type="application/octet-stream")

    async def _info(self, session_id: str, name: str) -> FileInfo:
        for file in await self._pool.list_files(session_id):
            if file.name == name:
                return file
        raise SessionFileNotFoundError(f"the session has no file {name!r}")

    async def _bounded(self, name: str, content: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        size = 0
        async for piece in content:
            size += len(piece)
            if size > self._limits.file_bytes:
                raise self._too_large(name, size)
            yield piece

    def _too_large(self, name: str, size: int) -> FileTooLargeError:
        limit = self._limits.file_bytes
        return FileTooLargeError(f"{name!r} is larger than {limit:,} bytes", size=size, limit=limit)


async def _chained(first: bytes, pieces: AsyncGenerator[bytes]) -> AsyncIterator[bytes]:
    async with aclosing(pieces) as rest:
        yield first
        async for piece in rest:
            yield piece


async def _generator(pieces: AsyncIterator[bytes]) -> AsyncGenerator[bytes]:
    async for piece in pieces:
        yield piece


def _name(request: Request, name: str) -> str:
    """A file's name below the session's folder; clients may call it by its absolute path."""
    if name.startswith((f"{ROOT}/", f"{ROOT[1:]}/")):
        name = name.removeprefix("/").removeprefix(f"{ROOT[1:]}/")
    folder = _folder(request)
    return safe_name(f"{folder}/{name}" if folder else name)


def _folder(request: Request) -> str:
    path = request.query_params.get("path", "").replace("\\", "/")
    if path == ROOT or path.startswith(f"{ROOT}/"):
        path = path.removeprefix(ROOT)
    path = path.strip("/").removeprefix("./")
    if ".." in path.split("/"):
        raise RequestError(400, "FilePathInvalid", "The path leaves the session's folder.")
    return "" if path == "." else path


def _is_below(name: str, folder: str, *, deep: bool) -> bool:
    if folder and not name.startswith(f"{folder}/"):
        return False
    return deep or "/" not in name.removeprefix(f"{folder}/" if folder else "")


def _time(file: FileInfo) -> str:
    return (file.modified_at or datetime.now(UTC)).astimezone(UTC).isoformat()


def _new_form(file: FileInfo) -> dict[str, Any]:
    directory, _, name = file.name.rpartition("/")
    return {
        "name": name,
        "type": "file",
        "contentType": file.media_type,
        "sizeInBytes": file.size,
        "lastModifiedAt": _time(file),
        "directory": directory or ".",
    }


def _old_form(file: FileInfo) -> dict[str, Any]:
    fields = {"filename": file.name, "size": file.size, "lastModifiedTime": _time(file)}
    return {"$id": "2", "properties": {"$id": "3", **fields}}

"""A session's files over REST, in the newer and the older form."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from cci_plugins.common.file_names import validate_name
from cci_plugins.common.limits import Limits
from cci_plugins.errors import FileTooLargeError, SessionFileNotFoundError
from cci_plugins.models import FileInfo
from cci_plugins.pools.base import SessionPool

from .errors import RequestError
from .multipart import FileUpload
from .requests import get_session_id, is_old_form

ROOT = "/mnt/data"


class FileRoutes:
    """Routes that move files for REST clients, chunk by chunk.

    Args:
        pool: Where the sessions are.
        limits: `file_bytes` bounds an upload.
    """

    def __init__(self, pool: SessionPool, limits: Limits) -> None:
        self._pool = pool
        self._limits = limits

    def build_routes(self) -> list[Route]:
        """Return the routes of both forms. The api-version decides where their paths are equal."""
        return [
            Route("/files", self._list, methods=["GET"]),
            Route("/files", self._upload, methods=["POST"]),
            Route("/files/upload", self._upload, methods=["POST"]),
            Route("/files/{name:path}", self._read, methods=["GET"]),
            Route("/files/{name:path}", self._delete, methods=["DELETE"]),
        ]

    async def _list(self, request: Request) -> Response:
        files = await self._pool.list_files(get_session_id(request))
        folder = _parse_folder(request)
        is_recursive = request.query_params.get("recursive", "").lower() == "true"
        if is_old_form(request):
            return JSONResponse({"$id": "1", "value": [_to_old_form(file) for file in files]})
        matching = [
            file for file in files if _is_below(file.name, folder, is_recursive=is_recursive)
        ]
        return JSONResponse({"value": [_to_new_form(file) for file in matching]})

    async def _upload(self, request: Request) -> Response:
        session_id = get_session_id(request)
        upload = FileUpload(request.headers.get("content-type", ""), aiter(request.stream()))
        name = _parse_name(request, await upload.open())
        declared = request.headers.get("content-length", "")
        if declared.isdigit() and int(declared) > self._limits.file_bytes + 4096:
            raise self._build_too_large_error(name, int(declared))
        content = self._limit_size(name, upload.content())
        info = await self._pool.upload(session_id, name, content)
        if is_old_form(request):
            return JSONResponse({"$id": "1", "value": [_to_old_form(info)]})
        return JSONResponse(_to_new_form(info))

    async def _read(self, request: Request) -> Response:
        session_id = get_session_id(request)
        path = request.path_params["name"]
        if is_old_form(request):
            inner = path.removeprefix("content/")
            if inner == path:
                return JSONResponse(
                    _to_old_form(await self._find_file(session_id, _parse_name(request, path)))
                )
            return await self._stream_content(session_id, _parse_name(request, inner))
        inner = path.removesuffix("/content")
        if inner == path:
            return JSONResponse(
                _to_new_form(await self._find_file(session_id, _parse_name(request, path)))
            )
        return await self._stream_content(session_id, _parse_name(request, inner))

    async def _delete(self, request: Request) -> Response:
        session_id = get_session_id(request)
        name = _parse_name(request, request.path_params["name"])
        await self._pool.delete_file(session_id, name)
        if is_old_form(request):
            return JSONResponse({"message": "file deleted successfully"})
        return Response(status_code=204)

    async def _stream_content(self, session_id: str, name: str) -> Response:
        chunks = _to_generator(self._pool.download(session_id, name))
        first = await anext(chunks, b"")  # a missing file raises before the status is sent
        return StreamingResponse(_chain(first, chunks), media_type="application/octet-stream")

    async def _find_file(self, session_id: str, name: str) -> FileInfo:
        for file in await self._pool.list_files(session_id):
            if file.name == name:
                return file
        raise SessionFileNotFoundError(f"the session has no file {name!r}")

    async def _limit_size(self, name: str, content: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        size = 0
        async for chunk in content:
            size += len(chunk)
            if size > self._limits.file_bytes:
                raise self._build_too_large_error(name, size)
            yield chunk

    def _build_too_large_error(self, name: str, size: int) -> FileTooLargeError:
        limit = self._limits.file_bytes
        return FileTooLargeError(f"{name!r} is larger than {limit:,} bytes", size=size, limit=limit)


async def _chain(first: bytes, chunks: AsyncGenerator[bytes]) -> AsyncIterator[bytes]:
    async with aclosing(chunks) as rest:
        yield first
        async for chunk in rest:
            yield chunk


async def _to_generator(chunks: AsyncIterator[bytes]) -> AsyncGenerator[bytes]:
    async for chunk in chunks:
        yield chunk


def _parse_name(request: Request, name: str) -> str:
    """Return a file's name below the session's folder. Clients may send its absolute path."""
    if name.startswith((f"{ROOT}/", f"{ROOT[1:]}/")):
        name = name.removeprefix("/").removeprefix(f"{ROOT[1:]}/")
    folder = _parse_folder(request)
    return validate_name(f"{folder}/{name}" if folder else name)


def _parse_folder(request: Request) -> str:
    path = request.query_params.get("path", "").replace("\\", "/")
    if path == ROOT or path.startswith(f"{ROOT}/"):
        path = path.removeprefix(ROOT)
    path = path.strip("/").removeprefix("./")
    if ".." in path.split("/"):
        raise RequestError(
            400, "FilePathInvalid", f"The path {path[:200]!r} leaves the session's folder."
        )
    return "" if path == "." else path


def _is_below(name: str, folder: str, *, is_recursive: bool) -> bool:
    if folder and not name.startswith(f"{folder}/"):
        return False
    return is_recursive or "/" not in name.removeprefix(f"{folder}/" if folder else "")


def _format_time(file: FileInfo) -> str:
    return (file.modified_at or datetime.now(UTC)).astimezone(UTC).isoformat()


def _to_new_form(file: FileInfo) -> dict[str, Any]:
    directory, _, name = file.name.rpartition("/")
    return {
        "name": name,
        "type": "file",
        "contentType": file.media_type,
        "sizeInBytes": file.size,
        "lastModifiedAt": _format_time(file),
        "directory": directory or ".",
    }


def _to_old_form(file: FileInfo) -> dict[str, Any]:
    fields = {"filename": file.name, "size": file.size, "lastModifiedTime": _format_time(file)}
    return {"$id": "2", "properties": {"$id": "3", **fields}}

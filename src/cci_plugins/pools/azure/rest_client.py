"""The data plane of a session pool beside MCP: runs, files, and the end of a session.

The 2025 form of the REST API (learn.microsoft.com, Container Apps dynamic sessions; the
DynamicSessions specification in github.com/Azure/azure-rest-api-specs).
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from secrets import token_hex
from typing import Any
from urllib.parse import quote

import anyio
import httpx

from cci_plugins.azure import api_versions
from cci_plugins.common.file_names import guess_media_type, validate_name
from cci_plugins.common.limits import Limits
from cci_plugins.errors import (
    CodeInterpreterError,
    ExecutionTimeoutError,
    FileTooLargeError,
    ProtocolError,
    SessionFileNotFoundError,
    SessionLostError,
)
from cci_plugins.mcp_client.client import parse_endpoint_url
from cci_plugins.mcp_client.failures import MAY_HAVE_RUN, build_error_from_status
from cci_plugins.mcp_client.http import ensure_closed, map_protocol_errors, map_transport_errors
from cci_plugins.models import Execution, FileInfo

from .replies import read_rest
from .retry import NoRouteError

OUTPUT_CHARACTERS = 2_000_000  # asked for; a pool may give less
LONGEST_RUN = timedelta(seconds=220)  # of a managed pool
READ_BYTES = 256 * 1024
_MAX_PAGES = 1_000
_CONNECT_TIMEOUT_ONLY = httpx.Timeout(None, connect=10)
_NO_SESSION = b"NoSessionFoundError"  # what is to be ended has ended
_NOT_FOUND, _NOT_ALLOWED, _TOO_LARGE = 404, 405, 413


class RestClient:
    """Runs code and moves files in a pool's sessions; for one event loop.

    Args:
        endpoint: Base URL of the pool, without `/mcp`.
        http: A client that carries the key or token; left open.
        timeout: Longest wait for an answer, and for each piece of a transfer.
        file_bytes: Largest upload.
    """

    def __init__(
        self,
        endpoint: str,
        *,
        http: httpx.AsyncClient,
        timeout: timedelta = timedelta(seconds=60),
        file_bytes: int = Limits().file_bytes,
    ) -> None:
        self._base = parse_endpoint_url(endpoint.rstrip("/"))
        self._timeout = httpx.Timeout(timeout.total_seconds())
        self._file_bytes = file_bytes
        self._http = http

    def __repr__(self) -> str:
        return f"RestClient({str(self._base)!r})"

    async def execute(
        self, session_id: str, code: str, *, timeout: timedelta, old_form: bool = False
    ) -> Execution:
        """Run code and wait for its end.

        Args:
            session_id: The session.
            code: What to run.
            timeout: Longest wait for the answer; the pool is told the same.
            old_form: Use `/code/execute` instead of `/executions`.

        Raises:
            NoRouteError: The pool has only the other form.
            ExecutionTimeoutError: No answer came in time; the code may have run.
        """
        seconds = min(timeout, LONGEST_RUN).total_seconds()
        body: dict[str, Any] = {"code": code, "timeoutInSeconds": int(seconds)}
        if old_form:
            properties = body | {"codeInputType": "inline", "executionType": "synchronous"}
            body, url = {"properties": properties}, self._build_old_url(session_id)
        else:
            body |= {"codeInputType": "Inline", "executionType": "Synchronous"}
            body["outputStreamsMaxLength"] = OUTPUT_CHARACTERS
            url = self._build_url("executions", session_id)
        try:
            with anyio.fail_after(timeout.total_seconds()):
                answer = await self._request_json("POST", url, json=body, starts_code=True)
        except TimeoutError as error:
            if isinstance(error, CodeInterpreterError):
                raise
            raise ExecutionTimeoutError(
                f"the pool did not answer in time; {MAY_HAVE_RUN}"
            ) from None
        return read_rest(answer, session_id)

    async def stop_session(self, session_id: str) -> None:
        """End a session of a custom-container pool; one that is gone already is no error.

        Raises:
            NoRouteError: This is a managed pool.
        """
        params = {"identifier": session_id, "api-version": api_versions.DATA_PLANE_MANAGEMENT}
        url = httpx.URL(f"{self._base}/.management/stopSession", params=params)
        async with self._send("POST", url):
            pass

    async def list_files(self, session_id: str) -> list[FileInfo]:
        """The session's files with those in its folders, by name."""
        url = self._build_url("files", session_id, recursive="true")
        files: list[FileInfo] = []
        for _ in range(_MAX_PAGES):
            page = await self._request_json("GET", url)
            entries = page.get("value")
            if not isinstance(entries, list):
                raise ProtocolError("the pool's list of files has no files")
            files += [parse_file_info(entry) for entry in entries if not _is_folder(entry)]
            following = page.get("nextLink")
            if not isinstance(following, str) or not following:
                break
            url = self._resolve_next_link(following)
        return sorted(files, key=lambda file: file.name)

    async def upload(self, session_id: str, name: str, content: AsyncIterator[bytes]) -> FileInfo:
        """Send a file in pieces as they come.

        Raises:
            UnsafeNameError: The name would leave the session's folder.
            FileTooLargeError: The file is larger than the pool takes.
        """
        folder, _, leaf = validate_name(name).rpartition("/")
        boundary = token_hex(16)
        body = _encode_multipart(boundary, leaf, self._limit_size(name, content))
        headers = {"content-type": f"multipart/form-data; boundary={boundary}"}
        url = self._build_url("files", session_id, path=folder)
        async with self._send("POST", url, headers=headers, content=body) as response:
            value = _parse_object(await response.aread())
        listed = value.get("value")  # the older form wraps the file into a list
        return parse_file_info(listed[0] if isinstance(listed, list) and listed else value, name)

    async def download(self, session_id: str, name: str) -> AsyncGenerator[bytes]:
        """Read a file in pieces.

        Raises:
            UnsafeNameError: The name would leave the session's folder.
            SessionFileNotFoundError: There is no such file.
        """
        url = self._build_file_url(session_id, name, "/content")
        async with self._send("GET", url, name=name) as response:
            async for chunk in response.aiter_bytes(READ_BYTES):
                yield chunk

    async def delete_file(self, session_id: str, name: str) -> None:
        """Remove a file.

        Raises:
            UnsafeNameError: The name would leave the session's folder.
            SessionFileNotFoundError: There is no such file.
        """
        async with self._send("DELETE", self._build_file_url(session_id, name), name=name):
            pass

    async def delete_session(self, session_id: str) -> None:
        """End a session; one that is gone already is no error.

        Raises:
            NoRouteError: The pool cannot end sessions in this way.
        """
        async with self._send("DELETE", self._build_url("session", session_id)):
            pass

    def _build_url(self, route: str, session_id: str, **query: str) -> httpx.URL:
        given = {name: value for name, value in query.items() if value}
        params = {"identifier": session_id, "api-version": api_versions.DATA_PLANE, **given}
        return httpx.URL(f"{self._base}/{route}", params=params)

    def _build_old_url(self, session_id: str) -> httpx.URL:
        params = {"identifier": session_id, "api-version": api_versions.DATA_PLANE_EXECUTE}
        return httpx.URL(f"{self._base}/code/execute", params=params)

    def _build_file_url(self, session_id: str, name: str, suffix: str = "") -> httpx.URL:
        folder, _, leaf = validate_name(name).rpartition("/")
        return self._build_url(f"files/{quote(leaf, safe='')}{suffix}", session_id, path=folder)

    def _resolve_next_link(self, link: str) -> httpx.URL:
        """The next page, where it is the same server that has our key already."""
        url = self._base.join(link)
        if (url.scheme, url.host, url.port) != (
            self._base.scheme,
            self._base.host,
            self._base.port,
        ):
            raise ProtocolError("the pool's list of files goes on at another server")
        return url

    async def _request_json(
        self, method: str, url: httpx.URL, *, json: Any = None, starts_code: bool = False
    ) -> Mapping[str, Any]:
        async with self._send(method, url, json=json, starts_code=starts_code) as response:
            with map_protocol_errors(starts_code=starts_code):
                return _parse_object(await response.aread())

    @asynccontextmanager
    async def _send(
        self,
        method: str,
        url: httpx.URL,
        *,
        headers: Mapping[str, str] | None = None,
        content: AsyncIterator[bytes] | None = None,
        json: Any = None,
        name: str = "",
        starts_code: bool = False,
    ) -> AsyncIterator[httpx.Response]:
        request = self._http.build_request(
            method,
            url,
            headers=headers,
            content=content,
            json=json,
            timeout=_CONNECT_TIMEOUT_ONLY if starts_code else self._timeout,
        )
        with map_transport_errors(starts_code=starts_code):
            async with ensure_closed(await self._http.send(request, stream=True)) as response:
                if not response.is_success:
                    body = await response.aread()
                    if response.status_code == _NOT_FOUND and _NO_SESSION in body:
                        yield response
                        return
                    raise self._build_error(response, body, name, starts_code=starts_code)
                yield response

    def _build_error(
        self, response: httpx.Response, body: bytes, name: str, *, starts_code: bool
    ) -> Exception:
        status = response.status_code
        if status == _NOT_FOUND and name:
            return SessionFileNotFoundError(f"the session has no file {name!r}")
        error = build_error_from_status(status, response.headers, body, starts_code=starts_code)
        if status in {_NOT_FOUND, _NOT_ALLOWED} and not isinstance(error, SessionLostError):
            return NoRouteError(str(error), hint=error.hint)
        if status == _TOO_LARGE:
            limit = self._file_bytes
            return FileTooLargeError("the pool refused the size", size=0, limit=limit)
        return error

    async def _limit_size(self, name: str, content: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        size = 0
        async for chunk in content:
            size += len(chunk)
            if size > self._file_bytes:
                raise FileTooLargeError(
                    f"{name!r} is larger than {self._file_bytes:,} bytes",
                    size=size,
                    limit=self._file_bytes,
                )
            yield chunk


def parse_file_info(entry: object, name: str = "") -> FileInfo:
    """Read a file's description in the newer or older form.

    Args:
        entry: What the pool said.
        name: The name we know it by, where we do.

    Raises:
        ProtocolError: It has no name or size.
    """
    value = entry.get("properties", entry) if isinstance(entry, Mapping) else None
    if not isinstance(value, Mapping):
        raise ProtocolError("the pool described a file in an unknown form")
    given = value.get("name", value.get("filename"))
    size = value.get("sizeInBytes", value.get("size"))
    if not isinstance(given, str) or not isinstance(size, int):
        raise ProtocolError("the pool described a file without name or size")
    full_name = name or "/".join(
        part for part in (_parse_folder(value.get("directory")), given) if part
    )
    changed = value.get("lastModifiedAt", value.get("lastModifiedTime"))
    return FileInfo(full_name, size, guess_media_type(full_name), _parse_time(changed))


def _parse_folder(value: object) -> str:
    """A listed folder, relative to `/mnt/data`; the root is told as `.`, `/` or nothing."""
    path = value if isinstance(value, str) else ""
    return path.removeprefix("/mnt/data").strip("/").removeprefix("./").removeprefix(".")


def _is_folder(entry: object) -> bool:
    return isinstance(entry, Mapping) and entry.get("type") in {"directory", "Directory"}


def _parse_time(value: object) -> datetime | None:
    try:
        time = datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        return None
    return None if time is None or time.tzinfo is None else time


def _parse_object(body: bytes) -> Mapping[str, Any]:
    try:
        value = httpx.Response(200, content=body).json()
    except ValueError as error:
        raise ProtocolError("the pool's answer is not JSON") from error
    if not isinstance(value, Mapping):
        raise ProtocolError("the pool's answer is not a JSON object")
    return value


async def _encode_multipart(
    boundary: str, filename: str, content: AsyncIterator[bytes]
) -> AsyncIterator[bytes]:
    """One file as `multipart/form-data`, in pieces (RFC 7578)."""
    quoted = filename.replace('"', '\\"')
    yield (
        f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{quoted}"\r\n'
        "Content-Type: application/octet-stream\r\n\r\n"
    ).encode()
    async for chunk in content:
        yield chunk
    yield f"\r\n--{boundary}--\r\n".encode()

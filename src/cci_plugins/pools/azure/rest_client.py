"""A client of a session pool's REST API: runs, files and the end of a session.

It uses the form of 2025 (learn.microsoft.com, Container Apps dynamic sessions, and the
DynamicSessions specification in github.com/Azure/azure-rest-api-specs). It also reads the answers
of the older form, in which a file's fields lie under `properties`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager, nullcontext
from datetime import timedelta
from functools import partial
from secrets import token_hex
from typing import Any
from urllib.parse import quote

import anyio
import httpx
from pydantic import AliasChoices, Field

from cci_plugins.azure import api_versions
from cci_plugins.common.file_names import guess_media_type, validate_name
from cci_plugins.common.http_bodies import ACCEPT_ENCODING, REPLY_BYTES, RUN_BYTES
from cci_plugins.common.limits import Limits
from cci_plugins.common.log import logger
from cci_plugins.errors import (
    FileTooLargeError,
    PoolError,
    ProtocolError,
    SessionFileNotFoundError,
    SessionLostError,
)
from cci_plugins.mcp_client.bodies import (
    ByteBudget,
    decode_in_lane,
    iterate_body,
    limit_pace,
    read_body,
    read_error_body,
)
from cci_plugins.mcp_client.client import parse_endpoint_url
from cci_plugins.mcp_client.executions import check_file
from cci_plugins.mcp_client.failures import (
    MAY_HAVE_RUN,
    build_error_from_status,
    parse_error_body,
    shorten,
)
from cci_plugins.mcp_client.http import (
    ensure_closed,
    limit_answer_time,
    limit_time,
    map_protocol_errors,
    map_transport_errors,
)
from cci_plugins.mcp_client.messages import decode_json
from cci_plugins.mcp_client.wire_model import Text, Timestamp, TolerantModel
from cci_plugins.models import Execution, FileInfo, SessionInfo

from .multipart import encode_multipart
from .replies import read_rest
from .retry import NoRouteError
from .session_list import SessionPage, parse_session_info

OUTPUT_CHARACTERS = 2_000_000  # of one stream, in the request. A pool may return less.
LONGEST_RUN = timedelta(seconds=220)  # limit of managed pools
READ_BYTES = 256 * 1024
MIN_PACE = 8 * 1024  # bytes a second of a download, on average
MAX_FILES = 100_000  # in one list
MAX_PAGES = 1_000
_RUNNING = frozenset({"notstarted", "running", "inprogress", "accepted", "queued", "pending"})
_POLL_SECONDS = 0.5
_MAX_POLL_FAILURES = 5
_LIST_TIME = timedelta(minutes=3)  # for all pages
_CONNECT_TIMEOUT_ONLY = httpx.Timeout(None, connect=10)
_NO_SESSION = b"NoSessionFoundError"  # the session to end has already ended
_BAD_REQUEST, _NOT_FOUND, _NOT_ALLOWED, _TOO_LARGE = 400, 404, 405, 413


class RestClient:
    """A client that runs code and moves files in a pool's sessions, on one event loop.

    It sends each request once. Callers repeat it by `RetryPolicy`.

    Args:
        endpoint: Base URL of the pool, without `/mcp`.
        http: HTTP client that adds the key or token. It stays open.
        timeout: Longest wait for an answer, and for each chunk of a transfer.
        file_bytes: Largest upload in bytes.

    Raises:
        ConfigurationError: The endpoint is not an HTTP URL.
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
        self._timeout = timeout
        self._versions: dict[str, str] = {}  # versions of the API that replace refused ones
        self._file_bytes = file_bytes
        self._http = http

    def __repr__(self) -> str:
        return f"RestClient({str(self._base)!r})"

    async def execute(
        self, session_id: str, code: str, *, timeout: timedelta, old_form: bool = False
    ) -> Execution:
        """Run code once and wait for its end.

        Args:
            session_id: The session.
            code: The code to run.
            timeout: Longest wait for the answer. The pool gets the same limit.
            old_form: Whether to use `/code/execute` instead of `/executions`.

        Raises:
            NoRouteError: The pool has only the other form. Nothing was started.
            ExecutionTimeoutError: No answer came in time. The code may have run.
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
        with limit_time(timeout, starts_code=True):
            answer = await self._request_json("POST", url, json=body, starts_code=True)
            if _is_running(answer):
                answer = await self._wait_finished(session_id, answer)
        with map_protocol_errors(starts_code=True):
            return read_rest(answer, session_id)

    async def _wait_finished(self, session_id: str, answer: Mapping[str, Any]) -> Mapping[str, Any]:
        """Ask for a run until it has ended. A pool may answer with HTTP 202 before that.

        Raises:
            ProtocolError: The pool did not name the run.
            PoolError: The pool no longer answers for it. The code may have run.
        """
        run = answer.get("id")
        if not isinstance(run, str) or not run:
            text = f"the pool answered that the code still runs, without an id; {MAY_HAVE_RUN}"
            raise ProtocolError(text)
        url = self._build_url(f"executions/{quote(run, safe='')}", session_id)
        failures = 0
        while _is_running(answer):
            await anyio.sleep(_POLL_SECONDS)
            try:
                answer = await self._request_json("GET", url)
            except PoolError as error:
                failures += 1
                if failures == _MAX_POLL_FAILURES or isinstance(error, NoRouteError):
                    raise PoolError(f"{error}; {MAY_HAVE_RUN}", hint=error.hint) from error
        return answer

    async def stop_session(self, session_id: str) -> None:
        """End a session of a custom-container pool, if it still exists.

        Raises:
            NoRouteError: The pool is a managed one.
        """
        params = {"identifier": session_id, "api-version": api_versions.DATA_PLANE_MANAGEMENT}
        url = httpx.URL(f"{self._base}/.management/stopSession", params=params)
        async with self._send("POST", url):
            pass

    async def list_sessions(self, *, is_custom: bool = True) -> list[SessionInfo]:
        """Return the live sessions of the pool.

        Args:
            is_custom: Whether to use the route of custom-container pools. A managed pool has
                another one, which a custom pool would pass on to a container.

        Raises:
            NoRouteError: The pool has no such route.
            ProtocolError: The list is malformed, or continues on another server.
        """
        path = ".management/listSessions" if is_custom else "listSessions"
        version = api_versions.DATA_PLANE_MANAGEMENT if is_custom else api_versions.DATA_PLANE
        url = httpx.URL(f"{self._base}/{path}", params={"api-version": version})
        sessions, budget = list[SessionInfo](), ByteBudget()
        with limit_time(_LIST_TIME, starts_code=False):
            for _ in range(MAX_PAGES):
                method = "POST" if is_custom else "GET"
                answer = await self._request_json(method, url, budget=budget)
                page = SessionPage.load(answer, "list of sessions")
                sessions += [parse_session_info(entry) for entry in page.sessions]
                if not page.next_link:
                    return sessions
                url = self._resolve_next_link(page.next_link)
        raise ProtocolError(f"the pool's list of sessions has more than {MAX_PAGES:,} pages")

    async def list_files(self, session_id: str) -> list[FileInfo]:
        """Return the session's files, including those in its folders, sorted by name.

        Raises:
            NoRouteError: The pool has no files API.
            ProtocolError: The list is malformed, or continues on another server.
        """
        url = self._build_url("files", session_id, recursive="true")
        files, budget = list[FileInfo](), ByteBudget()
        with limit_time(_LIST_TIME, starts_code=False):
            for _ in range(MAX_PAGES):
                answer = await self._request_json("GET", url, budget=budget)
                page = _FilePage.load(answer, "list of files")
                files += [parse_file_info(entry) for entry in page.value if not _is_folder(entry)]
                if not page.next_link:
                    return sorted(files, key=lambda file: file.name)
                if len(files) > MAX_FILES:
                    raise ProtocolError(f"the pool lists more than {MAX_FILES:,} files")
                url = self._resolve_next_link(page.next_link)
        raise ProtocolError(f"the pool's list of files has more than {MAX_PAGES:,} pages")

    async def upload(self, session_id: str, name: str, content: AsyncIterator[bytes]) -> FileInfo:
        """Upload a file in chunks as they arrive.

        Args:
            session_id: The session.
            name: Name of the file in the session.
            content: Content of the file.

        Raises:
            UnsafeNameError: The name would leave the session's folder.
            FileTooLargeError: The file exceeds the limit of this client or of the pool.
        """
        folder, _, leaf = validate_name(name).rpartition("/")
        boundary = token_hex(16)
        body = encode_multipart(boundary, leaf, self._limit_size(name, content))
        headers = {"content-type": f"multipart/form-data; boundary={boundary}"}
        url = self._build_url("files", session_id, path=folder)
        with limit_answer_time(body, self._timeout) as limited:
            async with self._send("POST", url, headers=headers, content=limited) as response:
                value = _parse_object(await read_body(response, REPLY_BYTES))
        listed = value.get("value")  # the older form wraps the file in a list
        return parse_file_info(listed[0] if isinstance(listed, list) and listed else value, name)

    async def download(self, session_id: str, name: str) -> AsyncGenerator[bytes]:
        """Download a file in chunks.

        Raises:
            UnsafeNameError: The name would leave the session's folder.
            SessionFileNotFoundError: The session has no such file.
        """
        url = self._build_file_url(session_id, name, "/content")
        async with self._send("GET", url, name=name) as response:
            chunks = iterate_body(response)
            async with aclosing(limit_pace(chunks, self._timeout, MIN_PACE)) as paced:
                buffer = bytearray()  # a chunk of the network is small, and each one costs a write
                async for chunk in paced:
                    buffer += chunk
                    if len(buffer) >= READ_BYTES:
                        yield bytes(buffer)
                        buffer.clear()
                if buffer:
                    yield bytes(buffer)

    async def delete_file(self, session_id: str, name: str) -> None:
        """Delete a file.

        Raises:
            UnsafeNameError: The name would leave the session's folder.
            SessionFileNotFoundError: The session has no such file.
        """
        async with self._send("DELETE", self._build_file_url(session_id, name), name=name):
            pass

    async def delete_session(self, session_id: str) -> None:
        """End a session of a managed pool, if it still exists.

        Raises:
            NoRouteError: The pool has no such route.
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
        """Return the URL of the next page, which must be on the server that already has the key."""
        base = self._base
        try:
            url = base.join(link)
            host = url.host
        except (httpx.InvalidURL, ValueError):  # the latter for invalid punycode too
            raise ProtocolError("the pool's list continues at an invalid URL") from None
        if (url.scheme, host, url.port) != (base.scheme, base.host, base.port):
            raise ProtocolError(f"the pool's list continues on another server ({shorten(host)})")
        return url

    async def _request_json(
        self,
        method: str,
        url: httpx.URL,
        *,
        json: Any = None,
        starts_code: bool = False,
        budget: ByteBudget | None = None,
    ) -> Mapping[str, Any]:
        limit = RUN_BYTES if starts_code else REPLY_BYTES
        async with self._send(method, url, json=json, starts_code=starts_code) as response:
            with (
                nullcontext() if starts_code else limit_time(self._timeout, starts_code=False),
                map_protocol_errors(starts_code=starts_code),
            ):
                body = await read_body(response, limit)
                if budget is not None:
                    budget.take(len(body))
                return await decode_in_lane(len(body), partial(_parse_object, body))

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
        with map_transport_errors(starts_code=starts_code):
            response = await self._open(
                method, url, headers=headers, content=content, json=json, starts_code=starts_code
            )
            async with ensure_closed(response):
                if not response.is_success:
                    body = await self._read_error(response)
                    if response.status_code == _NOT_FOUND and _NO_SESSION in body:
                        yield response
                        return
                    raise self._build_error(response, body, name, starts_code=starts_code)
                yield response

    async def _open(
        self,
        method: str,
        url: httpx.URL,
        *,
        headers: Mapping[str, str] | None,
        content: AsyncIterator[bytes] | None,
        json: Any,
        starts_code: bool,
    ) -> httpx.Response:
        """Send a request and return the beginning of its answer.

        A version of the API that the pool refuses is replaced, now and for later requests.
        """
        wanted, tried = str(url.params.get("api-version") or ""), list[str]()
        while True:
            version = self._versions.get(wanted, wanted)
            request = self._http.build_request(
                method,
                url.copy_set_param("api-version", version) if version else url,
                headers={**ACCEPT_ENCODING, **(headers or {})},
                content=content,
                json=json,
                timeout=_CONNECT_TIMEOUT_ONLY if starts_code else self._timeout.total_seconds(),
            )
            # a run and an upload have time limits of their own
            has_limit = starts_code or content is not None
            with nullcontext() if has_limit else limit_time(self._timeout, starts_code=False):
                response = await self._http.send(request, stream=True)
            if response.status_code != _BAD_REQUEST or content is not None:
                return response
            tried.append(version)
            async with ensure_closed(response):
                body = await self._read_error(response)
            other = _find_other_version(wanted, response, body, tried)
            if other is None:
                raise self._build_error(response, body, "", starts_code=starts_code)
            logger.info("the pool refuses version %s of its API; using %s", version, other)
            self._versions[wanted] = other

    async def _read_error(self, response: httpx.Response) -> bytes:
        with limit_time(self._timeout, starts_code=False):
            return await read_error_body(response)

    def _build_error(
        self, response: httpx.Response, body: bytes, name: str, *, starts_code: bool
    ) -> Exception:
        status = response.status_code
        if status == _NOT_FOUND and name:
            return SessionFileNotFoundError(f"the session has no file {name!r}")
        error = build_error_from_status(status, response.headers, body, starts_code=starts_code)
        if status in {_NOT_FOUND, _NOT_ALLOWED} and not isinstance(error, SessionLostError):
            missing = NoRouteError(str(error), hint=error.hint)
            missing.is_bare = not any(parse_error_body(body))
            return missing
        if status == _TOO_LARGE:
            limit = self._file_bytes
            return FileTooLargeError(f"the pool refused the file ({error})", size=0, limit=limit)
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


class _FilePage(TolerantModel):
    value: list[Any]
    next_link: Text = ""


class _File(TolerantModel):
    name: Text = Field(validation_alias=AliasChoices("name", "filename"))
    size: int = Field(ge=0, validation_alias=AliasChoices("sizeInBytes", "size"))
    directory: Text = ""
    modified_at: Timestamp = Field(
        None, validation_alias=AliasChoices("lastModifiedAt", "lastModifiedTime")
    )


def parse_file_info(entry: object, name: str = "") -> FileInfo:
    """Read a file's description in the newer or older form.

    Args:
        entry: The description that the pool sent.
        name: Path of the file, if the caller knows it.

    Raises:
        ProtocolError: The description has no valid name or size.
    """
    fields = entry.get("properties", entry) if isinstance(entry, Mapping) else entry
    file = _File.load(fields, "file description")
    # The pool lists the folder as a path below /mnt/data, and the root as `.`, `/` or nothing.
    folder = file.directory.removeprefix("/mnt/data").strip("/").removeprefix("./")
    path = name or "/".join(filter(None, (folder.removeprefix("."), file.name)))
    modified = file.modified_at
    has_zone = modified is not None and modified.tzinfo is not None
    return check_file(
        FileInfo(path, file.size, guess_media_type(path), modified if has_zone else None)
    )


def _is_running(answer: Mapping[str, Any]) -> bool:
    """Return whether a run has not ended, by the status in the newer or older form."""
    inner = answer.get("properties")
    status = (inner if isinstance(inner, Mapping) else answer).get("status")
    return isinstance(status, str) and status.lower() in _RUNNING


def _find_other_version(
    wanted: str, response: httpx.Response, body: bytes, tried: list[str]
) -> str | None:
    """Return the version to try after a refusal, or None after any other answer."""
    code, message = parse_error_body(body)
    if code not in api_versions.REFUSALS:
        return None
    listed = f"{message} {response.headers.get('api-supported-versions', '')}"
    ours = api_versions.DATA_PLANE_FALLBACKS.get(wanted, ())
    return api_versions.choose_other_version(wanted, ours, listed, tried)


def _is_folder(entry: object) -> bool:
    return isinstance(entry, Mapping) and str(entry.get("type")).lower() == "directory"


def _parse_object(body: bytes) -> Mapping[str, Any]:
    value = decode_json(body)
    if not isinstance(value, Mapping):
        kind = type(value).__name__
        raise ProtocolError(f"the pool's answer is not a JSON object ({kind})")
    return value

"""An MCP client of one server, over streamable HTTP (modelcontextprotocol.io).

The project has its own client because the frameworks require two majors of the official SDK that
exclude each other, and because both hide the HTTP status of a refusal.

Why nothing runs twice: the client sends each request once. It does not know what a tool does, so
it never decides to repeat a call. Instead every exception states what is certain:

* `PoolUnavailableError` and `PoolExhaustedError` are `retryable`: the request did not start.
* `ExecutionTimeoutError`, `PoolError` and `ProtocolError` after `tools/call` say that the code
  may have run. Only a caller that knows the call to be harmless may repeat it
  (`cci_plugins.pools.azure.retry`).

There is one exception. HTTP 404 to a request with an `Mcp-Session-Id` means that the server
forgot the MCP session, so it did not start the request. The client then repeats the handshake and
sends the request once more. Without such an id a 404 is an error.

The handshake happens with the first call. Concurrent first calls share it and its failure, and the
next call repeats a failed one. `_session` holds the headers that the handshake returned. A new
handshake replaces the dictionary. Each request remembers the one that it was sent with: a 404 to it
is about that one, also when another call has meanwhile renewed the session.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import anyio
import httpx

from cci_plugins.common.cancellation import run_to_end
from cci_plugins.common.http_bodies import ACCEPT_ENCODING, REPLY_BYTES, RUN_BYTES
from cci_plugins.common.shared_attempt import SharedAttempt
from cci_plugins.errors import (
    CodeInterpreterError,
    ConfigurationError,
    PoolError,
    ProtocolError,
)

from . import messages
from .bodies import (
    LARGE_BYTES,
    ByteBudget,
    decode_in_lane,
    iterate_body,
    read_body,
    read_error_body,
)
from .failures import NOT_FOUND, SERVER_ERROR, build_error_from_rpc, build_error_from_status
from .http import ensure_closed, limit_time, make_http, map_protocol_errors, map_transport_errors
from .messages import EventReader, RpcReply, ToolResult
from .progress import ProgressDispatcher, ProgressHandler

SESSION_HEADER = "mcp-session-id"
VERSION_HEADER = "mcp-protocol-version"
DEFAULT_TIMEOUT = timedelta(seconds=30)
MAX_PAGES = 100
_MAX_HEADER = 1_000  # characters
_MAX_PORT = 65_535
# Some servers answer it to a session that they do not know, but not only then.
_MAYBE_TERMINATED = frozenset({400, 410})


class McpClient:
    """A client that calls the tools of one MCP server, for any number of tasks on one event loop.

    Args:
        url: The MCP endpoint.
        headers: Headers of every request, including the key. They are never shown.
        timeout: Longest wait for an answer to a request that starts no code.
        connect_timeout: Longest wait for a connection.
        handshake: Whether to begin with `initialize`. A server without MCP sessions needs none.
        http: HTTP client to use. It stays open. By default the client creates and closes one.

    Raises:
        ConfigurationError: The URL is invalid.
    """

    def __init__(
        self,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        timeout: timedelta = DEFAULT_TIMEOUT,
        connect_timeout: timedelta = timedelta(seconds=10),
        handshake: bool = True,
        http: httpx.AsyncClient | None = None,
    ) -> None:
        self._url = parse_endpoint_url(url)
        self._timeout = timeout
        self._owns_http = http is None
        self._http = make_http(connect_timeout) if http is None else http
        self._headers = {
            **(headers or {}),
            "content-type": "application/json",
            "accept": "application/json, text/event-stream",
            **ACCEPT_ENCODING,
        }
        self._ids = itertools.count(1)
        self._handshake = SharedAttempt()
        self._session: dict[str, str] = {}
        self._prepared: tuple[Mapping[str, str], httpx.Headers] | None = None
        self._server: Mapping[str, Any] | None = None if handshake else {}

    def __repr__(self) -> str:
        return f"McpClient({str(self._url)!r})"

    async def initialize(self) -> Mapping[str, Any]:
        """Perform the handshake once and return the server's description of itself.

        Raises:
            AuthenticationError: The server refused the key.
            PoolUnavailableError: The server cannot be reached.
            ProtocolError: The server does not speak MCP.
        """
        if self._server is None:
            async with self._handshake.hold():
                if self._server is None:
                    self._server = await self._perform_handshake()
        return self._server

    async def ping(self) -> None:
        """Make sure that the server answers.

        Raises:
            CodeInterpreterError: It does not.
        """
        await self._send_request("ping", {}, self._timeout, starts_code=False)

    async def list_tools(self) -> list[Mapping[str, Any]]:
        """Return the server's tools from all pages.

        Raises:
            ProtocolError: The answer has no list of tools.
        """
        tools: list[Mapping[str, Any]] = []
        cursor: str | None = None
        budget = ByteBudget()
        await self.initialize()
        with limit_time(self._timeout, starts_code=False):
            for _ in range(MAX_PAGES):
                params = {} if cursor is None else {"cursor": cursor}
                result = await self._send_request(
                    "tools/list", params, self._timeout, starts_code=False, budget=budget
                )
                page = result.get("tools")
                if not isinstance(page, list):
                    kind = type(page).__name__
                    raise ProtocolError(f"the pool returned an invalid list of tools ({kind})")
                tools += [tool for tool in page if isinstance(tool, Mapping)]
                following = result.get("nextCursor")
                if not isinstance(following, str) or following == cursor or not page:
                    return tools
                cursor = following
        raise ProtocolError(f"the pool's list of tools has more than {MAX_PAGES} pages")

    async def call_tool(
        self,
        name: str,
        arguments: Mapping[str, Any],
        *,
        timeout: timedelta,
        meta: Mapping[str, Any] | None = None,
        on_progress: ProgressHandler | None = None,
    ) -> ToolResult:
        """Call a tool.

        Args:
            name: Name of the tool.
            arguments: Arguments of the tool.
            timeout: Longest wait for the answer.
            meta: Extra `_meta` of the request.
            on_progress: Called with the parameters of each progress notification. A server may
                send none.

        Raises:
            ExecutionTimeoutError: No answer came in time. The code may have run.
            PoolExhaustedError: No session is free.
            PoolUnavailableError: The server cannot be reached. Nothing was started.
            PoolError: The connection broke or the server failed. The code may have run.
            ProtocolError: The answer is malformed. The code may have run.
            AuthenticationError: The server refused the key.
        """
        params: dict[str, Any] = {"name": name, "arguments": arguments}
        request_meta = dict(meta or {})
        progress = None
        if on_progress is not None:
            progress = ProgressDispatcher(f"progress-{next(self._ids)}", on_progress)
            request_meta["progressToken"] = progress.token
        if request_meta:
            params["_meta"] = request_meta
        return messages.parse_tool_result(
            await self._send_request(
                "tools/call", params, timeout, starts_code=True, progress=progress
            )
        )

    async def aclose(self) -> None:
        """End the MCP session, if there is one, and close the connections.

        A cancelled caller waits until they are closed.
        """
        await run_to_end(self._close())

    async def _close(self) -> None:
        session, self._session = self._session, {}
        self._server = None
        if SESSION_HEADER in session:
            request = self._http.build_request(
                "DELETE", self._url, headers={**self._headers, **session}
            )
            with contextlib.suppress(httpx.HTTPError, TimeoutError), anyio.fail_after(5):
                async with ensure_closed(await self._http.send(request, stream=True)):
                    pass
        if self._owns_http:
            await self._http.aclose()

    async def _send_request(
        self,
        method: str,
        params: Mapping[str, Any],
        timeout: timedelta,
        *,
        starts_code: bool,
        progress: ProgressDispatcher | None = None,
        budget: ByteBudget | None = None,
    ) -> Mapping[str, Any]:
        await self.initialize()
        request = partial(
            self._request,
            method,
            params,
            timeout,
            starts_code=starts_code,
            progress=progress,
            budget=budget,
        )
        try:
            reply = await request()
        except _SessionTerminated as terminated:
            if self._session is terminated.session:  # else another call has renewed it
                self._server, self._session = None, {}
            await self.initialize()
            try:
                reply = await request()
            except _SessionTerminated:
                error = terminated.error  # its text is about the MCP session
                raise PoolError(str(error), hint="check the pool's endpoint") from None
        return _unwrap_result(reply, starts_code=starts_code)

    async def _perform_handshake(self) -> Mapping[str, Any]:
        self._session = {}  # also that of a handshake which failed after its first answer
        params = messages.build_initialize_params("cci-plugins", _get_package_version())
        reply = await self._request("initialize", params, self._timeout, starts_code=False)
        if reply.error is not None and reply.error.code == messages.METHOD_NOT_FOUND:
            return {}  # a server without a handshake
        server = _unwrap_result(reply, starts_code=False)
        protocol = server.get("protocolVersion")
        if isinstance(protocol, str):
            version_header = {VERSION_HEADER: _check_header(protocol, "protocolVersion")}
            self._session = {**self._session, **version_header}  # never changed, see `_prepared`
        await self._notify("notifications/initialized")
        return server

    async def _notify(self, method: str) -> None:
        """Send a notification. Session pools may answer it with 4xx, which has no meaning."""
        body = messages.build_notification(method)
        async with self._post(body, self._session, self._timeout, starts_code=False) as response:
            if response.status_code >= SERVER_ERROR:
                raise await _read_error(response, starts_code=False)

    async def _request(
        self,
        method: str,
        params: Mapping[str, Any],
        timeout: timedelta,
        *,
        starts_code: bool,
        progress: ProgressDispatcher | None = None,
        budget: ByteBudget | None = None,
    ) -> RpcReply:
        request_id, session = next(self._ids), self._session
        body = messages.build_request(request_id, method, params)
        limit = RUN_BYTES if starts_code else REPLY_BYTES
        async with self._post(body, session, timeout, starts_code=starts_code) as response:
            if response.is_success:
                with map_protocol_errors(starts_code=starts_code):
                    reply, size = await _read_reply(response, request_id, progress, limit)
                if budget is not None:
                    budget.take(size)
                if method == "initialize" and (value := response.headers.get(SESSION_HEADER)):
                    self._session = {SESSION_HEADER: _check_header(value, "Mcp-Session-Id")}
                return reply
            error = await _read_error(response, starts_code=starts_code)
            if SESSION_HEADER in session:
                if response.status_code == NOT_FOUND:
                    raise _SessionTerminated(error, session)
                if response.status_code in _MAYBE_TERMINATED and session is self._session:
                    self._server, self._session = None, {}  # the next call begins again
            raise error

    @asynccontextmanager
    async def _post(
        self, body: bytes, session: Mapping[str, str], timeout: timedelta, *, starts_code: bool
    ) -> AsyncIterator[httpx.Response]:
        """Send a POST and map each failure of the transport to an exception of this package."""
        request = self._build_request(body, session)
        with (
            limit_time(timeout, starts_code=starts_code),
            map_transport_errors(starts_code=starts_code),
        ):
            async with ensure_closed(await self._http.send(request, stream=True)) as response:
                yield response

    def _build_request(self, body: bytes, session: Mapping[str, str]) -> httpx.Request:
        """Build a POST. Its headers are put together once for each MCP session."""
        if self._prepared is None or self._prepared[0] is not session or self._http.cookies:
            request = self._http.build_request(
                "POST", self._url, content=body, headers={**self._headers, **session}
            )
            headers = request.headers.copy()
            del headers["content-length"]
            self._prepared = (session, headers)
            return request
        timeout = self._http.timeout.as_dict()
        return httpx.Request(
            "POST",
            self._url,
            content=body,
            headers=self._prepared[1],
            extensions={"timeout": timeout},
        )


class _SessionTerminated(Exception):  # noqa: N818 - a signal between two methods
    def __init__(self, error: CodeInterpreterError, session: Mapping[str, str]) -> None:
        super().__init__()
        self.error, self.session = error, session


def parse_endpoint_url(url: str) -> httpx.URL:
    """Parse the URL of an endpoint.

    Raises:
        ConfigurationError: The URL is not an HTTP URL, or contains a password.
    """
    try:
        parsed = httpx.URL(url)
        host = parsed.host
    except (httpx.InvalidURL, TypeError, ValueError):  # the last one for invalid punycode
        parsed, host = httpx.URL(), ""
    is_reachable = bool(host) and (parsed.port or 0) <= _MAX_PORT
    if parsed.scheme not in {"http", "https"} or not is_reachable or parsed.userinfo:
        raise ConfigurationError(
            "the endpoint of a session pool must be an http or https URL without a password",
            hint="use a URL such as https://<region>.dynamicsessions.io/subscriptions/.../mcp",
        )
    return parsed


async def _read_reply(
    response: httpx.Response, request_id: int, progress: ProgressDispatcher | None, limit: int
) -> tuple[RpcReply, int]:
    """Return the reply, and the size in bytes of the answer until its end."""
    kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "text/event-stream":
        body = await read_body(response, limit)
        parse = partial(messages.parse_body, body, request_id)
        return await decode_in_lane(len(body), parse), len(body)
    reader, size = EventReader(), 0
    async with contextlib.aclosing(iterate_body(response, limit=2 * limit)) as chunks:
        async for chunk in chunks:
            size += len(chunk)
            for message in await _read_messages(reader, chunk, request_id):
                reply = messages.match_reply(message, request_id)
                if reply is not None:
                    return reply, size
                if progress is not None:
                    progress.dispatch(message)
    raise ProtocolError("the pool's event stream ended before the reply")


async def _read_messages(reader: EventReader, chunk: bytes, request_id: int) -> Iterable[Any]:
    """Return the messages that a chunk completes. A large one is decoded in a worker thread."""
    found = messages.split_batches(reader.feed(chunk))
    if reader.size <= LARGE_BYTES or not (b"\n" in chunk or b"\r" in chunk):
        return found  # they are decoded one by one, so that nothing after the reply is

    def read_to_reply() -> list[Any]:
        taken = []
        for message in found:
            taken.append(message)
            if messages.match_reply(message, request_id) is not None:
                break
        return taken

    return await decode_in_lane(reader.size, read_to_reply)


def _check_header(value: str, name: str) -> str:
    """Return a value that the server chose for a header of later requests.

    Raises:
        ProtocolError: It has characters that no header may have, or is too long.
    """
    if len(value) > _MAX_HEADER or not value.isascii() or not value.isprintable() or " " in value:
        raise ProtocolError(f"the pool sent an invalid {name} ({value[:40]!a})")
    return value


async def _read_error(response: httpx.Response, *, starts_code: bool) -> CodeInterpreterError:
    body = await read_error_body(response)
    return build_error_from_status(
        response.status_code, response.headers, body, starts_code=starts_code
    )


def _unwrap_result(reply: RpcReply, *, starts_code: bool) -> Mapping[str, Any]:
    if reply.error is None:
        return reply.result
    raise build_error_from_rpc(reply.error.code, reply.error.message, starts_code=starts_code)


def _get_package_version() -> str:
    try:
        return version("cci-plugins")
    except PackageNotFoundError:
        return "0"

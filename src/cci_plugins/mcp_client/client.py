"""An MCP client of one server: a POST for a call, and the HTTP status kept.

Streamable HTTP as modelcontextprotocol.io has it. It is ours, because the official SDK's two
majors exclude each other in the frameworks' requirements and hide the status of a refusal.
"""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import anyio
import httpx

from cci_plugins.common.log import logger
from cci_plugins.errors import (
    CodeInterpreterError,
    ConfigurationError,
    ExecutionTimeoutError,
    PoolUnavailableError,
    ProtocolError,
)

from . import messages
from .failures import (
    MAY_HAVE_RUN,
    NOT_FOUND,
    SERVER_ERROR,
    build_error_from_rpc,
    build_error_from_status,
)
from .http import ensure_closed, make_http, map_protocol_errors, map_transport_errors
from .messages import EventReader, RpcReply, ToolResult
from .progress import PROGRESS_METHOD

SESSION_HEADER = "mcp-session-id"
VERSION_HEADER = "mcp-protocol-version"
DEFAULT_TIMEOUT = timedelta(seconds=30)
ProgressHandler = Callable[[Mapping[str, Any]], None]
"""Gets the parameters of each progress notification."""


class McpClient:
    """Calls the tools of one MCP server; for one event loop, for any number of tasks.

    The handshake is made with the first call. Nothing is ever sent twice, except after an answer
    that says the MCP session was unknown, so that the request did not start.

    Args:
        url: The MCP endpoint.
        headers: Sent with every request, the key among them; shown nowhere.
        timeout: Longest wait for an answer that starts no code.
        connect_timeout: Longest wait for a connection.
        handshake: Whether to begin with `initialize`; a server without MCP sessions needs none.
        http: A client to use and leave open, instead of one of our own.
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
        }
        self._ids = itertools.count(1)
        self._handshake_lock = anyio.Lock()
        self._session: dict[str, str] = {}
        self._server: Mapping[str, Any] | None = None if handshake else {}

    def __repr__(self) -> str:
        return f"McpClient({str(self._url)!r})"

    async def initialize(self) -> Mapping[str, Any]:
        """Shake hands, once, and return what the server said of itself.

        Raises:
            AuthenticationError: The server refused the key.
            PoolUnavailableError: It cannot be reached.
            ProtocolError: It does not speak MCP.
        """
        if self._server is None:
            async with self._handshake_lock:
                if self._server is None:
                    self._server = await self._perform_handshake()
        return self._server

    async def list_tools(self) -> list[Mapping[str, Any]]:
        """The server's tools, all pages of them."""
        tools: list[Mapping[str, Any]] = []
        cursor: str | None = None
        while True:
            params = {} if cursor is None else {"cursor": cursor}
            result = await self._send_request(
                "tools/list", params, self._timeout, starts_code=False
            )
            page = result.get("tools")
            if not isinstance(page, list):
                raise ProtocolError("the pool's list of tools has no tools")
            tools += [tool for tool in page if isinstance(tool, Mapping)]
            following = result.get("nextCursor")
            if not isinstance(following, str) or following == cursor or not page:
                return tools
            cursor = following

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
            name: The tool.
            arguments: What it gets.
            timeout: Longest wait for the answer.
            meta: `_meta` of the request.
            on_progress: Asks the server for progress, and gets the parameters of each
                notification; a server may tell none.

        Raises:
            ExecutionTimeoutError: No answer came in time; the code may have run.
            PoolExhaustedError: No session is free.
            PoolUnavailableError: The server cannot be reached; nothing was started.
            PoolError: The connection broke or the server failed; the code may have run.
            AuthenticationError: The server refused the key.
        """
        params: dict[str, Any] = {"name": name, "arguments": arguments}
        request_meta = dict(meta or {})
        progress = None
        if on_progress is not None:
            progress = _ProgressDispatcher(f"progress-{next(self._ids)}", on_progress)
            request_meta["progressToken"] = progress.token
        if request_meta:
            params["_meta"] = request_meta
        return messages.parse_tool_result(
            await self._send_request(
                "tools/call", params, timeout, starts_code=True, progress=progress
            )
        )

    async def aclose(self) -> None:
        """End the MCP session, when there is one, and close the connections."""
        session, self._session = self._session, {}
        self._server = None
        if SESSION_HEADER in session:
            with contextlib.suppress(httpx.HTTPError, TimeoutError), anyio.fail_after(5):
                await self._http.delete(self._url, headers={**self._headers, **session})
        if self._owns_http:
            await self._http.aclose()

    async def _send_request(
        self,
        method: str,
        params: Mapping[str, Any],
        timeout: timedelta,
        *,
        starts_code: bool,
        progress: _ProgressDispatcher | None = None,
    ) -> Mapping[str, Any]:
        await self.initialize()
        session = self._session
        request = partial(
            self._request, method, params, timeout, starts_code=starts_code, progress=progress
        )
        try:
            reply = await request()
        except _SessionTerminated as gone:
            if self._session is session:
                self._server, self._session = None, {}
            await self.initialize()
            try:
                reply = await request()
            except _SessionTerminated:
                raise gone.error from None
        return _unwrap_result(reply, starts_code=starts_code)

    async def _perform_handshake(self) -> Mapping[str, Any]:
        params = messages.build_initialize_params("cci-plugins", _get_package_version())
        reply = await self._request("initialize", params, self._timeout, starts_code=False)
        if reply.error is not None and reply.error.code == messages.METHOD_NOT_FOUND:
            return {}  # a server without a handshake
        server = _unwrap_result(reply, starts_code=False)
        protocol = server.get("protocolVersion")
        if isinstance(protocol, str):
            self._session[VERSION_HEADER] = protocol
        await self._notify("notifications/initialized")
        return server

    async def _notify(self, method: str) -> None:
        """Send a notification; session pools may answer it by 4xx, which means nothing."""
        body = messages.build_notification(method)
        async with self._post(body, self._timeout, starts_code=False) as response:
            if response.status_code >= SERVER_ERROR:
                raise await _read_error(response, starts_code=False)

    async def _request(
        self,
        method: str,
        params: Mapping[str, Any],
        timeout: timedelta,
        *,
        starts_code: bool,
        progress: _ProgressDispatcher | None = None,
    ) -> RpcReply:
        request_id = next(self._ids)
        body = messages.build_request(request_id, method, params)
        async with self._post(body, timeout, starts_code=starts_code) as response:
            if response.is_success:
                with map_protocol_errors(starts_code=starts_code):
                    reply = await _read_reply(response, request_id, progress)
                if method == "initialize" and (given := response.headers.get(SESSION_HEADER)):
                    self._session = {SESSION_HEADER: given}
                return reply
            error = await _read_error(response, starts_code=starts_code)
            if response.status_code == NOT_FOUND and SESSION_HEADER in self._session:
                raise _SessionTerminated(error)
            raise error

    @asynccontextmanager
    async def _post(
        self, body: bytes, timeout: timedelta, *, starts_code: bool
    ) -> AsyncIterator[httpx.Response]:
        """POST, with every failure of the transport as an exception of ours."""
        request = self._http.build_request(
            "POST", self._url, content=body, headers={**self._headers, **self._session}
        )
        try:
            with (
                map_transport_errors(starts_code=starts_code),
                anyio.fail_after(timeout.total_seconds()),
            ):
                response = await self._http.send(request, stream=True)
                async with ensure_closed(response):
                    yield response
        except TimeoutError as error:
            if isinstance(error, CodeInterpreterError):
                raise
            raise _build_timeout_error(timeout, starts_code=starts_code) from None


class _ProgressDispatcher:
    """Hands over the progress of one call."""

    def __init__(self, token: str, handler: ProgressHandler) -> None:
        self.token = token
        self._handler: ProgressHandler | None = handler

    def dispatch(self, message: object) -> None:
        """Hand over a message, when it is a progress notification of this call."""
        params = messages.get_notification_params(message, PROGRESS_METHOD)
        if self._handler is None or params is None or params.get("progressToken") != self.token:
            return
        try:
            self._handler(params)
        except Exception:  # noqa: BLE001 - the host's callback may raise anything
            logger.exception("on_progress failed; the call goes on without it")
            self._handler = None


class _SessionTerminated(Exception):  # noqa: N818 - a signal between two methods
    def __init__(self, error: CodeInterpreterError) -> None:
        super().__init__()
        self.error = error


def parse_endpoint_url(url: str) -> httpx.URL:
    """The URL of an endpoint.

    Raises:
        ConfigurationError: It is no HTTP URL, or carries a password.
    """
    try:
        parsed = httpx.URL(url)
    except (httpx.InvalidURL, TypeError):
        parsed = httpx.URL()
    if parsed.scheme not in {"http", "https"} or not parsed.host or parsed.userinfo:
        raise ConfigurationError(
            "the endpoint of a session pool must be an http or https URL without a password",
            hint="it looks like https://<region>.dynamicsessions.io/subscriptions/.../mcp",
        )
    return parsed


async def _read_reply(
    response: httpx.Response, request_id: int, progress: _ProgressDispatcher | None
) -> RpcReply:
    kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "text/event-stream":
        return messages.parse_body(await response.aread(), request_id)
    reader = EventReader()
    async for chunk in response.aiter_bytes():
        for message in reader.feed(chunk):
            reply = messages.match_reply(message, request_id)
            if reply is not None:
                return reply
            if progress is not None:
                progress.dispatch(message)
    raise ProtocolError("the pool's answer ended before the reply")


async def _read_error(response: httpx.Response, *, starts_code: bool) -> CodeInterpreterError:
    """The exception of a status; a JSON-RPC error in the body has better words than a status."""
    body = await response.aread()
    return build_error_from_status(
        response.status_code, response.headers, body, starts_code=starts_code
    )


def _unwrap_result(reply: RpcReply, *, starts_code: bool) -> Mapping[str, Any]:
    if reply.error is None:
        return reply.result
    raise build_error_from_rpc(reply.error.code, reply.error.message, starts_code=starts_code)


def _build_timeout_error(timeout: timedelta, *, starts_code: bool) -> CodeInterpreterError:
    message = f"the pool did not answer within {_format_duration(timeout)}"
    if starts_code:
        return ExecutionTimeoutError(f"{message}; {MAY_HAVE_RUN}")
    return PoolUnavailableError(message)


def _format_duration(timeout: timedelta) -> str:
    return f"{math.ceil(timeout.total_seconds() * 10) / 10:g} s"


def _get_package_version() -> str:
    try:
        return version("cci-plugins")
    except PackageNotFoundError:
        return "0"

"""The ASGI application of an emulated pool.

A request passes these steps in order, and the first that has an answer ends it:

1. `_check_request` compares key or token, method and path with the kind of pool.
2. A fault may be injected, only into requests that concern a session: handshakes stay intact. Some
   faults answer at once, some break the connection, some change the answer of step 4.
3. A session is allocated. The pool is full when `max_sessions` were used within the cooldown. A
   session whose cooldown is over is deleted. It begins with the end of the last request.
4. The MCP endpoint of the platform answers, or this package's own server in the role of the
   container.

Uploads, downloads and the MCP calls of a custom pool stream through. All others are read whole, so
that a fault can change them.
"""

from __future__ import annotations

import hmac
import json
import time
from collections import defaultdict
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from dataclasses import replace
from secrets import token_urlsafe
from typing import Any
from urllib.parse import parse_qs

import anyio
from starlette.datastructures import Headers
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cci_plugins.common.limits import Limits
from cci_plugins.errors import CodeInterpreterError
from cci_plugins.mcp_client.failures import get_code_and_status
from cci_plugins.pools.base import SessionPool
from cci_plugins.server.app import create_app
from cci_plugins.server.disconnect import EXCHANGE_KEY
from cci_plugins.server.mcp.sdk import BODY_BYTES
from cci_plugins.server.requests import read_body, replay_body
from cci_plugins.server.rest.errors import build_error_response, build_too_large_response

from .faults import FaultInjector, build_refusal, corrupt_answer, cut_bytes
from .image import add_packages, format_old_result
from .options import Emulation
from .platform import PlatformMcp

_RUN_PATHS = ("/executions", "/code/execute", "/python/execute", "/execute")
_SHELL_KEYS = {"shellcommand", "execcommandandargs"}
_OLD_RUN_PATH = "/code/execute"
_STOP_PATH = "/.management/stopSession"
_LIST_PATH = "/.management/listSessions"
_PATHS_NOT_IN_IMAGE = ("/mcp", "/session", "/listSessions", "/metadata")
_BROKEN_LENGTH = 1_000_000


class PoolFullError(Exception):
    """All sessions of the pool are in use."""


class Emulator:
    """An emulated pool of one kind, over a pool that runs the code.

    Attributes:
        key: The current key of the MCP endpoint.
        fault_counts: How often each fault happened.
        refused_requests: How many requests had no valid key or token.

    Args:
        pool: Where code runs. The caller starts and closes it.
        emulation: The pool to emulate.
        key: The first key of the MCP endpoint.
        token: The bearer token that clients must send to REST.
        limits: The longest run and the largest upload.
        hosts: Host names that requests may use. None allows every name.
    """

    def __init__(
        self,
        pool: SessionPool,
        emulation: Emulation,
        *,
        key: str,
        token: str,
        limits: Limits | None = None,
        hosts: Iterable[str] | None = None,
    ) -> None:
        limits = Limits() if limits is None else limits
        self.key = key
        self.refused_requests = 0
        self._pool = pool
        self._emulation = emulation
        self._token = token
        self._fault_injector = FaultInjector(emulation.faults)
        self.fault_counts = self._fault_injector.fault_counts
        self._last_used: dict[str, float] = {}
        self._open_requests: defaultdict[str, int] = defaultdict(int)
        if emulation.kind != "custom" or emulation.container == "executions":
            limits = replace(limits, background_timeout=limits.execution_timeout)
        self._container: ASGIApp = create_app(pool, api_key=None, limits=limits, hosts=hosts)
        self._mcp = PlatformMcp(pool, emulation, self._allocate_session, limits)

    def rotate_key(self) -> str:
        """Create and return a new key. From now on the old one is refused."""
        self.key = token_urlsafe(32)
        return self.key

    async def drop_session(self, identifier: str) -> None:
        """Replace a session by an empty one without notice to its client."""
        await self._pool.delete_session(identifier)
        self._mcp.forget(identifier)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http" or scope["path"] == "/health":
            await self._container(scope, receive, send)
            return
        await anyio.sleep(self._emulation.latency.total_seconds())
        identifier = parse_qs(scope["query_string"].decode(errors="replace")).get(
            "identifier", [""]
        )[0]
        with self._keep_open(identifier):
            await self._answer(scope, receive, send, identifier)

    async def _answer(self, scope: Scope, receive: Receive, send: Send, identifier: str) -> None:
        answer: ASGIApp | None = self._check_request(scope, identifier)
        if answer is None and scope["path"].startswith("/files"):
            answer = await self._open_container(identifier)
        elif answer is None and (body := await read_body(receive, BODY_BYTES)) is not None:
            receive = replay_body(body, receive)
            answer = await self._answer_with_faults(scope, identifier, body)
        await (answer or build_too_large_response(BODY_BYTES))(scope, receive, send)

    def _check_request(self, scope: Scope, identifier: str) -> Response | None:
        """Return the refusal of a request that does not fit this kind of pool, or None."""
        kind, path = self._emulation.kind, scope["path"]
        headers = Headers(scope=scope)
        if path == "/mcp" and kind == "platform":
            given = headers.get("x-ms-apikey", "")
            if not hmac.compare_digest(given.encode(), self.key.encode()):
                self.refused_requests += 1
                return self._build_key_error()
            if scope["method"] != "POST":
                return Response(status_code=405, headers={"allow": "POST"})
            return None
        given = headers.get("authorization", "")
        is_managed_mcp = path == "/mcp" and kind == "managed"
        expected = f"Bearer {self._token}"
        if is_managed_mcp or not hmac.compare_digest(given.encode(), expected.encode()):
            self.refused_requests += 1
            return build_error_response(401, "Unauthorized", "The token is missing or invalid.")
        return self._check_route(kind, path, identifier)

    def _check_route(self, kind: str, path: str, identifier: str) -> Response | None:
        management = path.startswith("/.management/")
        executions_only = kind == "custom" and self._emulation.container == "executions"
        if (
            (management and kind != "custom")
            or (executions_only and path in _PATHS_NOT_IN_IMAGE)
            or (self._emulation.old_form_only and path in _RUN_PATHS and path != _OLD_RUN_PATH)
        ):
            return build_error_response(404, "NotFound", "The path does not exist.")
        if kind == "custom" and not identifier and path != _LIST_PATH:
            return build_error_response(400, "IdentifierMissing", "The query has no identifier.")
        return None

    def _build_key_error(self) -> Response:
        if self._emulation.errors == "http":
            return build_error_response(
                401, "Unauthorized", "Access denied due to invalid API key."
            )
        error = {"code": -32001, "message": "Unauthorized: invalid API key"}
        return JSONResponse({"jsonrpc": "2.0", "id": None, "error": error})

    async def _answer_with_faults(self, scope: Scope, identifier: str, body: bytes) -> ASGIApp:
        """Return what answers a request, with or without a fault."""
        fault = self._fault_injector.pick_fault() if _is_session_request(scope, body) else None
        if fault == "rotate" and self._emulation.kind != "platform":
            fault = None
        if fault is None and scope["path"] == "/mcp" and self._emulation.kind == "custom":
            return await self._open_container(identifier)
        if fault is not None:
            self.fault_counts[fault] += 1
            early = await self._apply_fault(fault, identifier or _parse_environment_id(body))
            if early is not None:
                return early
        answer = await self._handle(scope, identifier, body)
        changes_answer = fault is not None and fault.endswith(("-after", "-lost"))
        if fault is not None and changes_answer and answer.status_code < 300:  # noqa: PLR2004
            return corrupt_answer(fault, bytes(answer.body)) or _break_connection
        as_events = fault == "sse" or self._emulation.replies == "sse"
        return _to_events(answer) if as_events and scope["path"] == "/mcp" else answer

    async def _apply_fault(self, fault: str, identifier: str) -> ASGIApp | None:
        """Inject what comes before a request. Return an answer if the request ends with it."""
        if fault == "hang-before":
            return self._hang
        if fault == "reset-before":
            return _break_connection
        if fault == "lost" and identifier:
            await self.drop_session(identifier)
        elif fault == "rotate":
            self.rotate_key()
            return self._build_key_error()
        return build_refusal(fault)

    async def _handle(self, scope: Scope, identifier: str, body: bytes) -> Response:
        """Return the answer without a fault."""
        try:
            if scope["path"] == "/mcp" and self._emulation.kind == "platform":
                with self._keep_open(_parse_environment_id(body)):
                    return await self._mcp.answer(body)
            if scope["path"] == _STOP_PATH:
                return await self._stop(identifier)
            if identifier and scope["path"] != "/session":
                await self._allocate_session(identifier)
            elif scope["method"] == "DELETE" and self._emulation.kind != "custom":
                self._last_used.pop(identifier, None)
        except PoolFullError:
            most = self._emulation.max_sessions
            message = (
                f"The request sessions count is '1'. There are already '{most}' active sessions "
                f"and the maximum active sessions count is '{most}'."
            )
            return JSONResponse({"code": "SessionsCountExceedsLimit", "message": message}, 429)
        except CodeInterpreterError as error:
            code, status = get_code_and_status(error)
            return build_error_response(status, code, str(error))
        return await self._call_container(scope, body)

    async def _call_container(self, scope: Scope, body: bytes) -> Response:
        """Return the container's answer, with output cut as the data plane cuts it."""
        if scope["path"] not in _RUN_PATHS:
            return await _collect(self._container, scope, body)
        try:
            request = json.loads(body)
        except ValueError:
            request = None
        limit, is_shell = self._emulation.output_characters, False
        if isinstance(request, dict):
            is_shell = not _SHELL_KEYS.isdisjoint(map(str.lower, request))
            limit = request.get("outputStreamsMaxLength", limit)
            request = add_packages({**request, "outputStreamsMaxLength": 10**8})
            body = json.dumps(request).encode()
        answer = await _collect(self._container, scope, body)
        if answer.status_code != 200 or not isinstance(limit, int):  # noqa: PLR2004
            return answer
        payload = json.loads(bytes(answer.body))
        fields = payload.get("result", payload.get("properties", payload))
        for name in ("stdout", "stderr"):
            fields[name] = cut_bytes(fields[name], limit) if is_shell else fields[name][:limit]
        if "properties" in payload:
            fields["result"] = format_old_result(fields.get("result"))
        is_image = self._emulation.kind == "custom"
        return JSONResponse(payload, 202 if is_image else 200)

    async def _stop(self, identifier: str) -> Response:
        self._last_used.pop(identifier, None)
        await self._pool.delete_session(identifier)
        return PlainTextResponse(f"Session {identifier} in session pool emulated stopped.")

    async def _open_container(self, identifier: str) -> ASGIApp:
        """Return the container, which streams, or a refusal when the pool is full."""
        try:
            await self._allocate_session(identifier)
        except PoolFullError:
            flat = {"code": "SessionsCountExceedsLimit", "message": "The pool is full."}
            return JSONResponse(flat, 429)
        return self._container

    async def _allocate_session(self, identifier: str) -> None:
        """Allocate a session or prolong it, and delete the sessions whose cooldown is over."""
        now = time.monotonic()
        cooldown = self._emulation.cooldown.total_seconds()
        for other, used in list(self._last_used.items()):
            if now - used > cooldown and not self._open_requests[other]:
                del self._last_used[other]
                await self._pool.delete_session(other)
        if (
            identifier not in self._last_used
            and len(self._last_used) >= self._emulation.max_sessions
        ):
            raise PoolFullError
        self._last_used[identifier] = now

    @contextmanager
    def _keep_open(self, identifier: str) -> Generator[None]:
        """Keep a session while a request about it is open. No request of Azure's is longer."""
        self._open_requests[identifier] += 1
        try:
            yield
        finally:
            self._open_requests[identifier] -= 1
            if identifier in self._last_used:
                self._last_used[identifier] = time.monotonic()

    async def _hang(self, _scope: Scope, receive: Receive, _send: Send) -> None:
        """Send no answer until the client disconnects or the time of a hang is over."""
        with anyio.move_on_after(self._emulation.hang.total_seconds()):
            while (await receive())["type"] != "http.disconnect":
                pass


def _is_session_request(scope: Scope, body: bytes) -> bool:
    """Return whether a request concerns a session. Handshakes get no faults."""
    return scope["path"] in _RUN_PATHS or (scope["path"] == "/mcp" and b'"tools/call"' in body)


def _parse_environment_id(body: bytes) -> str:
    try:
        arguments = json.loads(body)["params"]["arguments"]
        return str(arguments["environmentId"])
    except (KeyError, TypeError, ValueError):
        return ""


async def _collect(app: ASGIApp, scope: Scope, body: bytes) -> Response:
    """Return the whole answer of another application."""
    start: dict[str, Any] = {}
    chunks: list[bytes] = []

    async def wait() -> Message:
        await anyio.sleep_forever()
        raise AssertionError

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            start.update(message)
        else:
            chunks.append(message.get("body", b""))

    headers = [pair for pair in scope["headers"] if pair[0] != b"content-length"]
    inner = {**scope, "headers": headers, EXCHANGE_KEY: None}  # the run outlives its client
    await app(inner, replay_body(body, wait), send)
    response = Response(b"".join(chunks), start["status"])
    given = [pair for pair in start["headers"] if pair[0] != b"content-length"]
    response.raw_headers = [*given, (b"content-length", str(len(response.body)).encode())]
    return response


def _to_events(answer: Response) -> Response:
    """Return an answer as server-sent events, with a comment first and its data in two lines."""
    if answer.status_code != 200:  # noqa: PLR2004
        return answer
    text = bytes(answer.body).decode().replace(', "', ',\n"', 1).replace(',"', ',\n"', 1)
    data = "".join(f"data: {line}\n" for line in text.split("\n"))
    return Response(f": ping\n\nevent: message\n{data}\n", media_type="text/event-stream")


async def _break_connection(_scope: Scope, _receive: Receive, send: Send) -> None:
    """Start an answer that does not end, so that the server closes the connection."""
    length = str(_BROKEN_LENGTH).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", length)]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b'{"jsonrpc"', "more_body": True})

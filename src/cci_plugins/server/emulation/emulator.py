"""The ASGI application: who may come in, places and their cooldown, routes, and faults."""

from __future__ import annotations

import hmac
import json
import time
from collections.abc import Iterable
from secrets import token_urlsafe
from typing import Any
from urllib.parse import parse_qs

import anyio
from starlette.datastructures import Headers
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cci_plugins.common.limits import Limits
from cci_plugins.errors import CodeInterpreterError
from cci_plugins.mcp_client.failures import code_of
from cci_plugins.pools.base import SessionPool
from cci_plugins.server.app import create_app
from cci_plugins.server.mcp.sdk import BODY_BYTES
from cci_plugins.server.rest.errors import error_response

from .faults import Dice, refusal, spoil
from .options import Emulation
from .platform import PlatformMcp

_RUNS = ("/executions", "/code/execute", "/python/execute", "/execute")
_OLD = "/code/execute"
_STOP = "/.management/stopSession"
_NOT_IN_IMAGE = ("/mcp", "/session", "/listSessions", "/metadata")
_BROKEN_LENGTH = 1_000_000


class PoolFullError(Exception):
    """No place is free."""


class Emulator:
    """A pool of one kind, over a pool that runs the code.

    Attributes:
        key: The key of the MCP endpoint; changes when it is rotated.
        told: How often each fault happened.
        refused: How many requests had no valid key or token.
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
        """Make the application.

        Args:
            pool: Where code runs; started and closed by the caller.
            emulation: What to be like.
            key: The key to begin with.
            token: The bearer token that is let in.
            limits: The longest run and the largest upload.
            hosts: Names by which a request may call this server; None allows every name.
        """
        limits = Limits() if limits is None else limits
        self.key = key
        self.refused = 0
        self._pool = pool
        self._emulation = emulation
        self._token = token
        self._dice = Dice(emulation.faults)
        self.told = self._dice.told
        self._places: dict[str, float] = {}
        self._container: ASGIApp = create_app(pool, api_key=None, limits=limits, hosts=hosts)
        self._mcp = PlatformMcp(pool, emulation, self._take, limits)

    def rotate_key(self) -> str:
        """Make a new key; the old one is refused from now on."""
        self.key = token_urlsafe(32)
        return self.key

    async def lose(self, identifier: str) -> None:
        """Replace a session by an empty one, without a word."""
        await self._pool.delete_session(identifier)
        self._mcp.forget(identifier)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http" or scope["path"] == "/health":
            await self._container(scope, receive, send)
            return
        await anyio.sleep(self._emulation.latency.total_seconds())
        identifier = parse_qs(scope["query_string"].decode()).get("identifier", [""])[0]
        answer = self._turned_away(scope, identifier)
        if answer is None:
            body = None if scope["path"].startswith("/files") else await _read(receive)
            answer = await self._faulty(scope, identifier, body, receive, send)
        if answer is not None:
            await answer(scope, receive, send)

    def _turned_away(self, scope: Scope, identifier: str) -> Response | None:
        """The answer to a request that does not fit this kind of pool."""
        kind, path = self._emulation.kind, scope["path"]
        headers = Headers(scope=scope)
        if path == "/mcp" and kind == "platform":
            given = headers.get("x-ms-apikey", "")
            if not hmac.compare_digest(given.encode(), self.key.encode()):
                self.refused += 1
                return self._no_key()
            if scope["method"] != "POST":
                return Response(status_code=405, headers={"allow": "POST"})
            return None
        given = headers.get("authorization", "")
        is_managed_mcp = path == "/mcp" and kind == "managed"
        wanted = f"Bearer {self._token}"
        if is_managed_mcp or not hmac.compare_digest(given.encode(), wanted.encode()):
            self.refused += 1
            return error_response(401, "Unauthorized", "The token is missing or not valid.")
        return self._no_such_route(kind, path, identifier)

    def _no_such_route(self, kind: str, path: str, identifier: str) -> Response | None:
        management = path.startswith("/.management/")
        executions_only = kind == "custom" and self._emulation.container == "executions"
        if (
            (management and kind != "custom")
            or (executions_only and path in _NOT_IN_IMAGE)
            or (self._emulation.old_form_only and path in _RUNS and path != _OLD)
        ):
            return error_response(404, "NotFound", "There is nothing here.")
        if kind == "custom" and not identifier:
            return error_response(400, "IdentifierMissing", "The query has no identifier.")
        return None

    def _no_key(self) -> Response:
        if self._emulation.errors == "http":
            return error_response(401, "Unauthorized", "Access denied due to invalid API key.")
        error = {"code": -32001, "message": "Unauthorized: invalid API key"}
        return JSONResponse({"jsonrpc": "2.0", "id": None, "error": error})

    async def _faulty(
        self, scope: Scope, identifier: str, body: bytes | None, receive: Receive, send: Send
    ) -> Response | None:
        """Answer with or without a fault; None when the connection breaks off."""
        fault = self._dice.draw() if body is not None and _does_something(scope, body) else None
        if fault == "rotate" and self._emulation.kind != "platform":
            fault = None
        if body is None:
            await self._stream(scope, identifier, receive, send)
            return None
        if fault is None and scope["path"] == "/mcp" and self._emulation.kind == "custom":
            await self._stream(scope, identifier, _again(body, receive), send)
            return None
        if fault is not None:
            self.told[fault] += 1
            if fault in {"hang-before", "reset-before"}:
                await (self._hang(receive) if fault == "hang-before" else _break_off(send))
                return None
            early = await self._befall(fault, identifier or _environment(body))
            if early is not None:
                return early
        answer = await self._good(scope, identifier, body)
        if fault is not None and fault.endswith("-after") and answer.status_code < 300:  # noqa: PLR2004
            spoilt = spoil(fault, bytes(answer.body))
            if spoilt is None:
                await _break_off(send)
            return spoilt
        as_events = fault == "sse" or self._emulation.replies == "sse"
        return _as_events(answer) if as_events and scope["path"] == "/mcp" else answer

    async def _befall(self, fault: str, identifier: str) -> Response | None:
        """What happens before a request; the answer, when it is not handled any more."""
        if fault == "lost" and identifier:
            await self.lose(identifier)
        elif fault == "rotate":
            self.rotate_key()
            return self._no_key()
        return refusal(fault)

    async def _good(self, scope: Scope, identifier: str, body: bytes) -> Response:
        """The answer without a fault."""
        try:
            if scope["path"] == "/mcp" and self._emulation.kind == "platform":
                return await self._mcp.answer(body)
            if scope["path"] == _STOP:
                return await self._stop(identifier)
            if identifier and scope["path"] != "/session":
                await self._take(identifier)
            elif scope["method"] == "DELETE" and self._emulation.kind != "custom":
                self._places.pop(identifier, None)
        except PoolFullError:
            most = self._emulation.max_sessions
            message = (
                f"The request sessions count is '1'. There are already '{most}' active sessions "
                f"and the maximum active sessions count is '{most}'."
            )
            return JSONResponse({"code": "SessionsCountExceedsLimit", "message": message}, 429)
        except CodeInterpreterError as error:
            code, status = code_of(error)
            return error_response(status, code, str(error))
        return await self._in_container(scope, body)

    async def _in_container(self, scope: Scope, body: bytes) -> Response:
        """Have the container answer, with output cut as the data plane cuts it."""
        if scope["path"] not in _RUNS:
            return await _collect(self._container, scope, body)
        try:
            request = json.loads(body)
        except ValueError:
            request = None
        limit = self._emulation.output_characters
        if isinstance(request, dict):
            limit = request.get("outputStreamsMaxLength", limit)
            body = json.dumps({**request, "outputStreamsMaxLength": 10**8}).encode()
        answer = await _collect(self._container, scope, body)
        if answer.status_code != 200 or not isinstance(limit, int):  # noqa: PLR2004
            return answer
        told = json.loads(bytes(answer.body))
        fields = told.get("result", told.get("properties", told))
        for name in ("stdout", "stderr"):
            fields[name] = fields[name][:limit]
        is_image = self._emulation.kind == "custom"
        return JSONResponse(told, 202 if is_image else 200)

    async def _stop(self, identifier: str) -> Response:
        self._places.pop(identifier, None)
        await self._pool.delete_session(identifier)
        return PlainTextResponse(f"Session {identifier} in session pool emulated stopped.")

    async def _stream(self, scope: Scope, identifier: str, receive: Receive, send: Send) -> None:
        """Files, and runs of our container, pass through in pieces."""
        try:
            await self._take(identifier)
        except PoolFullError:
            flat = {"code": "SessionsCountExceedsLimit", "message": "The pool is full."}
            await JSONResponse(flat, 429)(scope, receive, send)
        else:
            await self._container(scope, receive, send)

    async def _take(self, identifier: str) -> None:
        """Take or keep a session's place; after the cooldown it is free, and its state gone."""
        now = time.monotonic()
        cooldown = self._emulation.cooldown.total_seconds()
        for other, used in list(self._places.items()):
            if now - used > cooldown:
                del self._places[other]
                await self._pool.delete_session(other)
        if identifier not in self._places and len(self._places) >= self._emulation.max_sessions:
            raise PoolFullError
        self._places[identifier] = now

    async def _hang(self, receive: Receive) -> None:
        """Say nothing until the client leaves."""
        with anyio.move_on_after(self._emulation.hang.total_seconds()):
            while (await receive())["type"] != "http.disconnect":
                pass


def _does_something(scope: Scope, body: bytes) -> bool:
    """Whether a request is for a session: faults leave handshakes alone."""
    return scope["path"] in _RUNS or (scope["path"] == "/mcp" and b'"tools/call"' in body)


def _environment(body: bytes | None) -> str:
    try:
        arguments = json.loads(body or b"{}")["params"]["arguments"]
        return str(arguments["environmentId"])
    except (KeyError, TypeError, ValueError):
        return ""


async def _read(receive: Receive) -> bytes:
    pieces = bytearray()
    while len(pieces) <= BODY_BYTES:
        message = await receive()
        pieces += message.get("body", b"")
        if not message.get("more_body", False):
            break
    return bytes(pieces)


def _again(body: bytes, receive: Receive) -> Receive:
    """A request whose body was read already."""
    pending: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return pending.pop() if pending else await receive()

    return replay


async def _collect(app: ASGIApp, scope: Scope, body: bytes) -> Response:
    """What another application answers, in one piece."""
    start: dict[str, Any] = {}
    pieces: list[bytes] = []

    async def wait() -> Message:
        await anyio.sleep_forever()
        raise AssertionError

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            start.update(message)
        else:
            pieces.append(message.get("body", b""))

    headers = [pair for pair in scope["headers"] if pair[0] != b"content-length"]
    await app({**scope, "headers": headers}, _again(body, wait), send)
    response = Response(b"".join(pieces), start["status"])
    given = [pair for pair in start["headers"] if pair[0] != b"content-length"]
    response.raw_headers = [*given, (b"content-length", str(len(response.body)).encode())]
    return response


def _as_events(answer: Response) -> Response:
    """The same answer as server-sent events, with a comment before and its data in two lines."""
    if answer.status_code != 200:  # noqa: PLR2004
        return answer
    text = bytes(answer.body).decode().replace(', "', ',\n"', 1).replace(',"', ',\n"', 1)
    data = "".join(f"data: {line}\n" for line in text.split("\n"))
    return Response(f": ping\n\nevent: message\n{data}\n", media_type="text/event-stream")


async def _break_off(send: Send) -> None:
    """Begin an answer that does not end: the server closes the connection under it."""
    length = str(_BROKEN_LENGTH).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", length)]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b'{"jsonrpc"', "more_body": True})

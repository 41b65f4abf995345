"""Cancellation of a run when its client disconnects.

Two parts work together:

1. `CancelOnDisconnect` watches the connection of each request. When the client disconnects before
   the answer is complete, it cancels the request's task. Our own server reports the end of a
   connection to a `WatchedExchange`. Behind any other ASGI server, a task waits for it.
2. The code of an MCP request runs in another task, one of the SDK. Until mcp 1.30 that task
   outlives a cancelled request. So `run_with_cancel_scope` puts a cancel scope into a context
   variable, and the SDK's task enters it by `get_run_scope`.

Only the run is cancelled at once. The answer is shielded and has a grace period to end by itself.
An exception of the application leaves the task groups as itself, not in an exception group.
Otherwise the exception handlers would not recognise it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from contextvars import ContextVar
from typing import Protocol

import anyio
from starlette.types import ASGIApp, Message, Receive, Scope, Send

EXCHANGE_KEY = "cci.exchange"
"""Where an ASGI scope holds its `WatchedExchange`, if the server has one."""
_GRACE_SECONDS = 5
_run_scope: ContextVar[anyio.CancelScope | None] = ContextVar("run_scope", default=None)


def get_run_scope() -> anyio.CancelScope:
    """Return the scope to run code in. It is cancelled together with the request."""
    return _run_scope.get() or anyio.CancelScope()


async def run_with_cancel_scope(answer: Callable[[], Awaitable[None]]) -> None:
    """Answer a request. When that is cancelled, cancel its run and let the answer end by itself."""
    run_scope, shield_scope, done = (
        anyio.CancelScope(),
        anyio.CancelScope(shield=True),
        anyio.Event(),
    )
    failure: Exception | None = None

    async def run_shielded() -> None:
        nonlocal failure
        with shield_scope:
            try:
                await answer()
            except Exception as error:  # noqa: BLE001 - raised again outside the task group
                failure = error
        done.set()

    token = _run_scope.set(run_scope)
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run_shielded)
            try:
                await done.wait()
            finally:
                run_scope.cancel()
                shield_scope.deadline = anyio.current_time() + _GRACE_SECONDS
    finally:
        _run_scope.reset(token)
    if failure is not None:
        raise failure


class WatchedExchange(Protocol):
    """A request and its answer on a connection that reports its end."""

    def watch(self, scope: anyio.CancelScope) -> AbstractContextManager[None]:
        """Cancel a scope when the connection ends inside this block, before the answer."""
        ...


class CancelOnDisconnect:
    """ASGI middleware that cancels a request when its client disconnects before the answer."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the application, and watch the connection after the body is read."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        watched: WatchedExchange | None = scope.get(EXCHANGE_KEY)
        if watched is None:
            await self._watch_by_task(scope, receive, send)
            return
        with anyio.CancelScope() as cancel_scope, watched.watch(cancel_scope):
            await self._app(scope, receive, send)

    async def _watch_by_task(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = _Exchange(receive, send)
        failure: Exception | None = None
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(exchange.watch, tasks.cancel_scope)
            try:
                await self._app(scope, exchange.receive, exchange.send)
            except Exception as error:  # noqa: BLE001 - raised again outside the task group
                failure = error
            tasks.cancel_scope.cancel()
        if failure is not None:
            raise failure


class _Exchange:
    """One request and its answer.

    It has only one reader of the connection at a time: the application until the body is read,
    `watch` afterwards. From then on the application's `receive` waits for what `watch` finds.
    """

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive, self._send = receive, send
        self._body_read, self._disconnected = anyio.Event(), anyio.Event()
        self._is_answered = False

    async def receive(self) -> Message:
        if self._body_read.is_set():
            await self._disconnected.wait()
            return {"type": "http.disconnect"}
        message = await self._receive()
        if message["type"] == "http.disconnect":
            self._disconnected.set()
        if not message.get("more_body", False):
            self._body_read.set()
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.body" and not message.get("more_body", False):
            self._is_answered = True
        await self._send(message)

    async def watch(self, scope: anyio.CancelScope) -> None:
        await self._body_read.wait()
        while not self._disconnected.is_set():
            if (await self._receive())["type"] == "http.disconnect":
                self._disconnected.set()
        if not self._is_answered:
            scope.cancel()

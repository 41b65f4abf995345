"""A client that leaves takes its run with it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextvars import ContextVar

import anyio
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_GRACE_SECONDS = 5
_run_scope: ContextVar[anyio.CancelScope | None] = ContextVar("run_scope", default=None)


def get_run_scope() -> anyio.CancelScope:
    """What to run the code in: it is cancelled once the request's answer is."""
    return _run_scope.get() or anyio.CancelScope()


async def run_with_cancel_scope(answer: Callable[[], Awaitable[None]]) -> None:
    """Answer a request; when that is cancelled, cancel its run, and let the answer end by itself.

    The run is in a task of the SDK, which until 1.30 outlives an answer that was cancelled.
    """
    run, shield_scope, done = anyio.CancelScope(), anyio.CancelScope(shield=True), anyio.Event()
    failure: Exception | None = None

    async def run_shielded() -> None:
        nonlocal failure
        with shield_scope:
            try:
                await answer()
            except Exception as error:  # noqa: BLE001 - raised again outside the group
                failure = error
        done.set()

    token = _run_scope.set(run)
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run_shielded)
            try:
                await done.wait()
            finally:
                run.cancel()
                shield_scope.deadline = anyio.current_time() + _GRACE_SECONDS
    finally:
        _run_scope.reset(token)
    if failure is not None:
        raise failure


class CancelOnDisconnect:
    """ASGI middleware that cancels a request whose client went away before the answer."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the application, and watch the connection once the body is read."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = _Exchange(receive, send)
        failure: Exception | None = None
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(exchange.watch, tasks.cancel_scope)
            try:
                await self._app(scope, exchange.receive, exchange.send)
            except Exception as error:  # noqa: BLE001 - raised again outside the group
                failure = error
            tasks.cancel_scope.cancel()
        if failure is not None:
            raise failure


class _Exchange:
    """One request and its answer, with the end of each seen."""

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

"""The calls in progress of each MCP session, so that `notifications/cancelled` can end them.

Over HTTP a notification comes in a request of its own, and request ids repeat between clients. So a
call is found by its MCP session and its id. A client without an MCP session cancels by closing its
connection, since anybody could name its ids.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import anyio

CANCELLED = "notifications/cancelled"
_Key = tuple[str, type, object]


class RunningCalls:
    """The scopes of calls in progress, by MCP session and request id."""

    def __init__(self) -> None:
        self._scopes: defaultdict[_Key, set[anyio.CancelScope]] = defaultdict(set)

    @contextmanager
    def track(
        self, mcp_session: str | None, request_id: object, scope: anyio.CancelScope
    ) -> Generator[None]:
        """Let the call be cancelled inside this block.

        Args:
            mcp_session: Its MCP session. None means that it cannot be cancelled.
            request_id: Its id.
            scope: What to cancel.
        """
        if mcp_session is None:
            yield
            return
        key = _build_key(mcp_session, request_id)
        self._scopes[key].add(scope)
        try:
            yield
        finally:
            self._scopes[key].discard(scope)
            if not self._scopes[key]:
                del self._scopes[key]

    def cancel(self, mcp_session: str, request_id: object) -> None:
        """Cancel a call of this MCP session. An unknown id is ignored, as the protocol demands."""
        for scope in self._scopes.get(_build_key(mcp_session, request_id), ()):
            scope.cancel()


def parse_cancelled_ids(body: bytes) -> list[object]:
    """Return the ids of the requests that a body cancels."""
    if CANCELLED.encode() not in body and b"\\" not in body:  # JSON may escape the name
        return []
    try:
        message = json.loads(body)
    except (ValueError, RecursionError):
        return []
    messages: list[Any] = message if isinstance(message, list) else [message]
    return [
        params["requestId"]
        for one in messages
        if isinstance(one, dict)
        and one.get("method") == CANCELLED
        and "id" not in one
        and isinstance(params := one.get("params"), dict)
        and isinstance(params.get("requestId"), (str, int))
    ]


def _build_key(mcp_session: str, request_id: object) -> _Key:
    return mcp_session, type(request_id), request_id

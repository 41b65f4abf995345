"""The calls of host tools of a held run, which its client answers: `ToolRelay`.

The client checks what a call means, and sends the bounds of its run. They are used here up to
bounds of the server's own, because every answer is kept in memory until the code has it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from datetime import timedelta
from itertools import count

import anyio
from typing_extensions import override

from cci_plugins.common.limits import MIB
from cci_plugins.errors import ToolCallError, ToolErrorKind
from cci_plugins.pools.run_exchange import PendingCall, ToolAnswer
from cci_plugins.pools.tool_host import ToolBounds, ToolHost, ToolSpec

from .answers import sanitize_json

MAX_CALLS = 100_000
MAX_AT_ONCE = 64
MAX_CALL_BYTES = 16 * MIB
MAX_TOTAL_BYTES = 1024 * MIB
MAX_WAIT = timedelta(hours=6)
REPORT_CHARACTERS = 8 * MIB  # of arguments in one report, beyond its first call
_MAX_ERROR = 4_000  # characters


class ToolRelay(ToolHost):
    """Keeps each call until its client has answered it.

    Args:
        specs: The tools, as the client described them.
        bounds: Bounds of the client.
        on_change: Called when a call begins or ends.
    """

    def __init__(
        self, specs: tuple[ToolSpec, ...], bounds: ToolBounds, on_change: Callable[[], object]
    ) -> None:
        self.specs, self.bounds = specs, _limit_bounds(bounds)
        self._on_change = on_change
        self._numbers = count(1)
        self._waiting: dict[int, _WaitingCall] = {}
        self._answered: set[int] = set()

    @override
    async def call(self, name: str, arguments: str) -> str:
        """Wait for the client's answer to a call."""
        call = _WaitingCall(PendingCall(next(self._numbers), sanitize_json(name), arguments))
        self._waiting[call.pending.number] = call
        self._on_change()
        try:
            await call.done.wait()
        finally:
            self._waiting.pop(call.pending.number, None)
            self._on_change()
        text = "".join(call.parts)
        if call.error is not None:
            raise ToolCallError(text[:_MAX_ERROR], kind=call.error)
        return text

    @property
    def is_waiting(self) -> bool:
        """Whether a call waits for its answer."""
        return bool(self._waiting)

    def answer(self, answer: ToolAnswer) -> None:
        """Take a part of an answer. One of an unknown call, or that came before, is dropped."""
        call = self._waiting.get(answer.call)
        if call is None or answer.at != call.length:
            return
        text = sanitize_json(answer.text)
        call.size += len(text.encode())
        call.length += len(answer.text)
        call.parts.append(text)
        call.error = answer.error
        is_large = call.size > self.bounds.call_bytes
        if is_large:
            call.error = "limit"
            call.parts = [f"the result has more than {self.bounds.call_bytes:,} bytes"]
        if answer.is_last or is_large:
            del self._waiting[answer.call]
            self._answered.add(answer.call)
            call.done.set()

    def list_new(self, known: Collection[int]) -> tuple[PendingCall, ...]:
        """Return calls that a client does not know, the oldest first, perhaps not all."""
        return tuple(self._take_new(known))

    def list_gone(self, known: Collection[int]) -> tuple[int, ...]:
        """Return the calls of a client that ended without its answer."""
        return tuple(one for one in known if one not in self._waiting and one not in self._answered)

    def has_news(self, known: Collection[int]) -> bool:
        """Return whether there are new calls, or calls that are gone."""
        return not self._waiting.keys() <= set(known) or bool(self.list_gone(known))

    def _take_new(self, known: Collection[int]) -> Iterator[PendingCall]:
        size = 0
        for number, call in self._waiting.items():
            if number not in known:
                size += len(call.pending.arguments)
                if size > REPORT_CHARACTERS and size > len(call.pending.arguments):
                    return
                yield call.pending


class _WaitingCall:
    """A call without its whole answer."""

    def __init__(self, pending: PendingCall) -> None:
        self.pending = pending
        self.done = anyio.Event()
        self.parts: list[str] = []
        self.length = 0  # characters as they were sent
        self.size = 0  # bytes
        self.error: ToolErrorKind | None = None


def _limit_bounds(bounds: ToolBounds) -> ToolBounds:
    """Return the client's bounds, up to the server's own."""
    return replace(
        bounds,
        calls=min(bounds.calls, MAX_CALLS),
        at_once=min(bounds.at_once, MAX_AT_ONCE),
        call_bytes=min(bounds.call_bytes, MAX_CALL_BYTES),
        total_bytes=min(bounds.total_bytes, MAX_TOTAL_BYTES),
        call_timeout=min(bounds.call_timeout, MAX_WAIT),
        wait=min(bounds.wait, MAX_WAIT),
    )

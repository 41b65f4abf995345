"""Which session belongs to which conversation."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from threading import Lock
from typing import Generic, Protocol, TypeVar

from cci_plugins.common.limits import Limits

DEFAULT_KEY = "default"
_MAX_EVICTED_KEYS = 10_000

current_key: ContextVar[str | None] = ContextVar("cci_session_key", default=None)


class RunBudget:
    """What a model may still run in one turn of a conversation; any thread may ask.

    Args:
        most: Runs.
        around: The turn that this one is part of, whose runs these are too.
    """

    def __init__(self, max_runs: int, parent: RunBudget | None = None) -> None:
        self.max_runs: int = max_runs if parent is None else min(max_runs, parent.max_runs)
        self._parent = parent
        self._runs = 0
        self._guard = Lock()

    def try_spend(self) -> bool:
        """Whether one more run is allowed; then it counts."""
        with self._guard:
            if self._runs >= self.max_runs or (
                self._parent is not None and not self._parent.try_spend()
            ):
                return False
            self._runs += 1
            return True


current_budget: ContextVar[RunBudget | None] = ContextVar("cci_turn", default=None)


class Entry(Protocol):
    """What the directory keeps: anything that can say whether it is in use."""

    @property
    def busy(self) -> bool:
        """Whether a run or a transfer is under way."""
        ...


E = TypeVar("E", bound=Entry)


def derive_identifier(secret: bytes, key: str) -> str:
    """A session identifier that no one can guess from the key, nor the key from it.

    Returns:
        68 characters of `[a-z0-9-]`: inside Azure's rule of 4 to 128 safe characters
        (learn.microsoft.com, Container Apps sessions usage).
    """
    return "cci-" + hmac.new(secret, key.encode(), hashlib.sha256).hexdigest()


class SessionDirectory(Generic[E]):
    """Maps conversation keys to sessions; bounded, least recently used and idle ones leave.

    Any thread may call it.
    """

    def __init__(self, limits: Limits, *, secret: bytes | None = None) -> None:
        self._limits = limits
        self._secret = secret or secrets.token_bytes(32)
        self._entries: OrderedDict[str, tuple[E, float]] = OrderedDict()
        self._evicted: OrderedDict[str, None] = OrderedDict()
        self._guard = Lock()

    def derive_id(self, key: str) -> str:
        """The pool identifier of a conversation."""
        return derive_identifier(self._secret, key)

    def get_or_create(self, key: str, create: Callable[[bool], E]) -> tuple[E, list[E]]:
        """The entry of a key, made if need be, and the entries that had to leave for it.

        Args:
            key: The conversation.
            make: Makes an entry; told whether an earlier one of this key had to leave.
        """
        with self._guard:
            if key in self._entries:
                entry = self._entries[key][0]
            else:
                was_evicted = key in self._evicted
                self._evicted.pop(key, None)
                entry = create(was_evicted)
            self._entries[key] = (entry, time.monotonic())
            self._entries.move_to_end(key)
            return entry, list(self._evict_surplus())

    def remove(self, key: str) -> None:
        """Forget a key."""
        with self._guard:
            self._entries.pop(key, None)

    def clear(self) -> list[E]:
        """Forget every key, and return the entries."""
        with self._guard:
            entries = [entry for entry, _ in self._entries.values()]
            self._entries.clear()
            return entries

    def __contains__(self, key: str) -> bool:
        return key in self._entries

    def _evict_surplus(self) -> Iterator[E]:
        """Idle entries, and the oldest beyond the bound; busy ones and the newest stay."""
        idle_since = time.monotonic() - self._limits.idle_session.total_seconds()
        for key in list(self._entries)[:-1]:
            entry, last_used = self._entries[key]
            if entry.busy:
                continue
            if last_used >= idle_since and len(self._entries) <= self._limits.live_sessions:
                break
            del self._entries[key]
            self._evicted[key] = None
            if len(self._evicted) > _MAX_EVICTED_KEYS:
                self._evicted.popitem(last=False)
            yield entry

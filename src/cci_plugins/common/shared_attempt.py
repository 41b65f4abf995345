"""Attempts that tasks share, such as a handshake: one makes it, and the others wait for it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio

from cci_plugins.errors import CodeInterpreterError


class SharedAttempt:
    """A lock whose waiters share a failure, so that they do not each fail after the other.

    A task that comes after the failure makes an attempt of its own.
    """

    def __init__(self) -> None:
        self._lock = anyio.Lock()
        self._failures = 0
        self._failure: CodeInterpreterError | None = None

    @asynccontextmanager
    async def hold(self) -> AsyncIterator[None]:
        """Hold the lock. Check first whether the attempt is still needed.

        Raises:
            CodeInterpreterError: An attempt failed while this task waited for the lock.
        """
        before = self._failures
        async with self._lock:
            if self._failure is not None and self._failures != before:
                raise self._failure.with_traceback(None)
            try:
                yield
            except CodeInterpreterError as error:
                self._failures, self._failure = self._failures + 1, error
                raise

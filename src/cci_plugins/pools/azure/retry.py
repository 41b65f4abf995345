"""When a call is made again: only when it surely did not start, and not for ever."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import TypeVar

import stamina

from cci_plugins.azure.credentials import AuthProvider
from cci_plugins.common.log import logger
from cci_plugins.errors import (
    AuthenticationError,
    ExecutionTimeoutError,
    PoolError,
    PoolExhaustedError,
    PoolUnavailableError,
)

T = TypeVar("T")

logging.getLogger("stamina").addHandler(logging.NullHandler())  # we say it in our own words

FIRST_WAIT = timedelta(milliseconds=200)
MAX_RENEWALS = 2  # in one call: a key may be rotated just after it was fetched
LONGEST_WAIT = timedelta(seconds=5)


class NoRouteError(PoolError):
    """The pool does not serve this route; nothing was done, and asking again changes nothing."""


class RetryPolicy:
    """Tries again, with growing and jittered waits, for a while.

    Args:
        access: Gets a new key or token when the old one is refused.
        lasting: How long after the first try a call may be made again.
    """

    def __init__(self, auth: AuthProvider, max_duration: timedelta = timedelta(seconds=30)) -> None:
        self._auth = auth
        self._max_seconds = max_duration.total_seconds()

    async def call_with_retry(
        self, call: Callable[[], Awaitable[T]], *, idempotent: bool = False
    ) -> T:
        """Make a call until it succeeds, fails for good, or time is up.

        Args:
            call: What to do.
            harmless: Doing it twice does no harm, so that a reply that was lost on the way is a
                reason to ask again.
        """
        deadline = time.monotonic() + self._max_seconds

        def wait(error: Exception) -> bool | float:
            left = deadline - time.monotonic()
            if not (_is_not_started(error) or (idempotent and _is_unclear(error))):
                return False
            retry_after = error.retry_after if isinstance(error, PoolExhaustedError) else None
            if left <= (retry_after or 0):
                return False
            logger.info("trying again: %s", error)
            return True if retry_after is None else retry_after

        async for attempt in stamina.retry_context(
            on=wait,
            attempts=None,
            timeout=None,  # `wait` knows it
            wait_initial=FIRST_WAIT,
            wait_max=LONGEST_WAIT,
            wait_jitter=FIRST_WAIT,
        ):
            with attempt:
                return await self.call_with_renewal(call)
        raise AssertionError("the loop above returns or raises")

    async def call_with_renewal(self, call: Callable[[], Awaitable[T]]) -> T:
        """Make a call, and again with a new key or token when the one it had was refused."""
        for _ in range(MAX_RENEWALS):
            await self._auth.headers()  # who cannot sign in is told at once
            version = self._auth.version
            try:
                return await call()
            except AuthenticationError:
                if not await self._auth.renew(version):
                    raise
        return await call()


def _is_not_started(error: Exception) -> bool:
    return isinstance(error, PoolUnavailableError) and error.retryable


def _is_unclear(error: Exception) -> bool:
    lost = isinstance(error, (PoolError, ExecutionTimeoutError))
    return lost and not isinstance(error, NoRouteError)

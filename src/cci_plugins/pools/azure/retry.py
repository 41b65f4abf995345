"""Retries of calls to a pool, such that no code runs twice.

A call is repeated in three cases only:

* **No code was started.** The error states this: it is a `PoolExhaustedError`, or a
  `PoolUnavailableError` that is `retryable`. `mcp_client.http` and `mcp_client.failures` choose
  the error. For a request that starts code, they do so only if the request cannot have arrived or
  the pool refused it. For any other request a broken connection is enough. The request is the same
  each time, with the same name of its run, which starts once.
* **The call is idempotent.** The caller states this, for example for a list of files or a chunk of
  a report. Any lost or malformed reply is then a reason to ask again.
* **The key or token was refused.** A pool checks it before it does anything else. The policy
  renews it and repeats the call at once, at most `MAX_RENEWALS` times.

Every other error goes to the caller, because the code may have run. `SessionLostError` is never
retried here although it is `retryable`: only the caller can restore what the session had.
`NoRouteError` and redirects are never retried, because the answer would be the same.

A server that has never given a valid answer, and gives `MAX_NONSENSE` malformed ones in a row, is
not a pool. A pool that has answered before may be restarting, so it gets all of the time.

Retries end when `max_duration` has passed since the first try. A pool that names a longer wait
(`Retry-After`) ends them at once. An idempotent call waits up to a minute longer if the pool names
a wait, because a rate of requests in a minute must not break a file that moves in pieces. Waits
grow from 0.2 s to 5 s, with jitter, so that clients of a full pool do not all return at the same
moment. A pool that names a shorter wait, such as 0, does not shorten them.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import TypeVar

import stamina

from cci_plugins.azure.credentials import AuthProvider
from cci_plugins.common.log import logger
from cci_plugins.common.metrics import count_retry
from cci_plugins.errors import (
    AuthenticationError,
    ExecutionTimeoutError,
    PoolError,
    PoolExhaustedError,
    PoolUnavailableError,
    ProtocolError,
)
from cci_plugins.mcp_client.failures import is_redirect

T = TypeVar("T")

# Silences stamina's own log, because `call_with_retry` logs each retry itself.
logging.getLogger("stamina").addHandler(logging.NullHandler())

FIRST_WAIT = timedelta(milliseconds=200)
LONGEST_WAIT = timedelta(seconds=5)
RATE_WINDOW = timedelta(minutes=1)
MAX_NONSENSE = 4  # malformed answers in a row, of a server that has never given another
MAX_RENEWALS = 2  # in one call, because a key may be rotated just after it was fetched


class NoRouteError(PoolError):
    """The pool does not serve this route. Nothing was done, and a retry changes nothing.

    Attributes:
        is_bare: The answer gives no reason, as a server that is not a pool answers.
    """

    is_bare = False


class Contact:
    """What is known about the server of a pool, for all of its retry policies.

    Attributes:
        has_answered: It has given a valid answer, so it is a pool.
    """

    has_answered = False


class RetryPolicy:
    """Policy that repeats a call, with growing and jittered waits, for a limited time.

    Args:
        auth: Provider that renews the key or token when the pool refuses it.
        max_duration: Time after the first try in which a call may be repeated.
        contact: What the policies of one pool share. None for a policy of its own.
    """

    def __init__(
        self,
        auth: AuthProvider,
        max_duration: timedelta = timedelta(seconds=30),
        *,
        contact: Contact | None = None,
    ) -> None:
        self._auth = auth
        self._contact = Contact() if contact is None else contact
        self._max_seconds = max_duration.total_seconds()

    async def call_with_retry(
        self, call: Callable[[], Awaitable[T]], *, idempotent: bool = False, is_proof: bool = True
    ) -> T:
        """Make a call until it succeeds, fails for good, or the time is over.

        Args:
            call: The call to make.
            idempotent: Whether the call may run twice, so that a lost reply is a reason to
                repeat it.
            is_proof: Whether its success proves that the server is a pool.

        Raises:
            CodeInterpreterError: The last error of the call.
        """
        deadline, grown = time.monotonic() + self._max_seconds, FIRST_WAIT.total_seconds()
        nonsense = 0

        def decide(error: Exception) -> bool | float:
            left = deadline - time.monotonic()
            nonlocal nonsense
            is_nonsense = isinstance(error, ProtocolError) and not self._contact.has_answered
            nonsense = nonsense + 1 if is_nonsense else 0
            if nonsense == MAX_NONSENSE:
                return False
            if not (_is_not_started(error) or (idempotent and _is_unclear(error))):
                return False
            retry_after = error.retry_after if isinstance(error, PoolExhaustedError) else None
            if idempotent and retry_after:
                left += RATE_WINDOW.total_seconds()
            if left <= (retry_after or 0):
                return False
            logger.info("trying again: %s", error)
            count_retry(type(error).__name__)
            nonlocal grown
            shortest, grown = grown, min(2 * grown, LONGEST_WAIT.total_seconds())
            return True if retry_after is None or retry_after < shortest else retry_after

        async for attempt in stamina.retry_context(
            on=decide,
            attempts=None,
            timeout=None,  # `decide` keeps the deadline
            wait_initial=FIRST_WAIT,
            wait_max=LONGEST_WAIT,
            wait_jitter=FIRST_WAIT,
        ):
            with attempt:
                answer = await self.call_with_renewal(call)
                self._contact.has_answered |= is_proof
                return answer
        raise AssertionError("the loop above returns or raises")

    async def call_with_renewal(self, call: Callable[[], Awaitable[T]]) -> T:
        """Make a call, and repeat it with a new key or token if the pool refuses the old one.

        Raises:
            AuthenticationError: The pool also refused the new key, or no other key exists.
        """
        for _ in range(MAX_RENEWALS):
            await self._auth.headers()  # reports a failed sign-in before anything is sent
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
    is_fault = isinstance(error, (PoolError, ExecutionTimeoutError))
    return is_fault and not isinstance(error, NoRouteError) and not is_redirect(error)

"""Errors of the embedded pool for calls that it cannot take."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from cci_plugins.common.shortages import find_hint, is_thread_refused
from cci_plugins.errors import CodeInterpreterError, PoolExhaustedError, PoolUnavailableError


@asynccontextmanager
async def translate_refusals(what: str) -> AsyncIterator[None]:
    """Raise a refusal of the operating system as an error of this package.

    Args:
        what: What failed. No code of the user may have started.

    Raises:
        PoolUnavailableError: The system refused a call.
    """
    try:
        yield
    except CodeInterpreterError:
        raise
    except (OSError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not is_thread_refused(error):
            raise
        raise PoolUnavailableError(f"{what}: {error}", hint=find_hint(error)) from error


def build_forked_error() -> PoolUnavailableError:
    """Build the error for a call in a process that was forked from the pool's."""
    return PoolUnavailableError(
        "this pool belongs to the process that this one was forked from",
        hint="make a new LocalSessionPool in this process",
        retryable=False,
    )


def build_exhausted_error(sessions: int, wait: float) -> PoolExhaustedError:
    """Build the error for a new session of a full pool, which may have room after a wait."""
    return PoolExhaustedError(
        f"all {sessions} sessions of the embedded pool are in use",
        hint="delete a session that you no longer need, or raise CCI_SESSIONS",
        retry_after=wait,
    )


def build_closed_error() -> PoolUnavailableError:
    """Build the error for a call of a closed pool."""
    return PoolUnavailableError("this pool is closed", retryable=False)

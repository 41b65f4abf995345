"""Retries: only of calls that did not start, for a limited time, and once for a new key."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import timedelta

import pytest
from typing_extensions import override

from cci_plugins.azure.credentials import AuthProvider, StaticKey
from cci_plugins.errors import (
    AuthenticationError,
    ExecutionTimeoutError,
    PoolError,
    PoolExhaustedError,
    PoolUnavailableError,
    ProtocolError,
    SessionLostError,
)
from cci_plugins.pools.azure.retry import NoRouteError, RetryPolicy

pytestmark = pytest.mark.anyio


class Failing:
    """Call that raises the given errors one after the other, and then succeeds."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.calls = 0

    async def __call__(self) -> str:
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        return "done"


def make_policy(seconds: float = 20, auth: AuthProvider | None = None) -> RetryPolicy:
    return RetryPolicy(auth or StaticKey("key"), timedelta(seconds=seconds))


@pytest.mark.parametrize(
    "error",
    [PoolUnavailableError("x"), PoolExhaustedError("x"), PoolExhaustedError("x", retry_after=0.1)],
)
async def test_a_call_that_did_not_start_is_repeated(error: Exception) -> None:
    call = Failing(error, error)
    assert await make_policy().call_with_retry(call) == "done"
    assert call.calls == 3


@pytest.mark.parametrize(
    "error",
    [
        PoolError("it may have run"),
        ProtocolError("cut"),
        ExecutionTimeoutError("no answer"),
        SessionLostError("replaced", retryable=True),
        PoolUnavailableError("closed", retryable=False),
        PoolExhaustedError("full", retry_after=600),
        AuthenticationError("no"),
    ],
)
async def test_no_other_call_is_repeated(error: Exception) -> None:
    call = Failing(error)
    with pytest.raises(type(error)):
        await make_policy().call_with_retry(call)
    assert call.calls == 1


@pytest.mark.parametrize("error", [PoolError("x"), ProtocolError("x"), ExecutionTimeoutError("x")])
async def test_an_idempotent_call_is_repeated_after_any_fault(error: Exception) -> None:
    assert await make_policy().call_with_retry(Failing(error), idempotent=True) == "done"


async def test_only_a_part_of_a_file_waits_for_a_rate_of_requests_in_a_minute() -> None:
    """A run waits no longer than the policy, so that its caller can decide."""
    error = PoolExhaustedError("too many in a minute", retry_after=0.5)
    assert await make_policy(0.1).call_with_retry(Failing(error), idempotent=True) == "done"
    run = Failing(error)
    with pytest.raises(PoolExhaustedError):
        await make_policy(0.1).call_with_retry(run)
    full = Failing(PoolExhaustedError("full", retry_after=600))
    with pytest.raises(PoolExhaustedError):
        await make_policy().call_with_retry(full, idempotent=True)
    assert (run.calls, full.calls) == (1, 1)


async def test_retries_end_with_the_last_error_when_the_time_is_over() -> None:
    call = Failing(*[PoolUnavailableError(str(number)) for number in range(99)])
    begun = time.monotonic()
    with pytest.raises(PoolUnavailableError):
        await make_policy(1).call_with_retry(call)
    assert 1 < call.calls < 20
    assert time.monotonic() - begun < 20


async def test_a_duration_of_zero_allows_one_try() -> None:
    call = Failing(PoolUnavailableError("x"))
    with pytest.raises(PoolUnavailableError):
        await make_policy(0).call_with_retry(call)
    assert call.calls == 1


class Rotating(AuthProvider):
    """Provider that has a second key."""

    def __init__(self) -> None:
        self.renewals = 0

    @override
    async def headers(self) -> Mapping[str, str]:
        return {}

    @override
    async def renew(self, version: int) -> bool:
        self.renewals += 1
        return self.renewals == 1


async def test_a_refused_key_costs_one_failed_request() -> None:
    call = Failing(AuthenticationError("old key"))
    assert await make_policy(auth=Rotating()).call_with_retry(call) == "done"
    assert call.calls == 2


async def test_a_key_that_is_refused_again_is_an_error() -> None:
    call = Failing(AuthenticationError("old"), AuthenticationError("new"))
    with pytest.raises(AuthenticationError, match="new"):
        await make_policy(auth=Rotating()).call_with_retry(call)
    assert call.calls == 2


async def test_a_missing_route_is_requested_once() -> None:
    call = Failing(NoRouteError("not found"))
    with pytest.raises(NoRouteError):
        await make_policy().call_with_retry(call, idempotent=True)
    assert call.calls == 1

"""Tests of errors that come before any code was sent."""

from __future__ import annotations

import pytest

from cci_plugins.errors import AuthenticationError, PoolError, PoolUnavailableError
from cci_plugins.mcp_client.failures import MAY_HAVE_RUN
from cci_plugins.pools.azure.cci_server import raise_unsent_error


def test_an_error_is_never_its_own_cause() -> None:
    refused = AuthenticationError("the key is wrong")

    def call() -> None:
        try:
            raise refused
        except AuthenticationError as error:
            raise_unsent_error(error)

    with pytest.raises(AuthenticationError) as raised:
        call()
    assert raised.value is refused
    assert raised.value.__cause__ is raised.value.__context__ is None


def test_a_fault_before_the_code_does_not_say_that_it_may_have_run() -> None:
    fault = PoolError(f"the connection broke; {MAY_HAVE_RUN}")
    with pytest.raises(PoolUnavailableError, match="broke; the code was not sent") as raised:
        raise_unsent_error(fault)
    assert raised.value.retryable
    assert raised.value.__cause__ is fault

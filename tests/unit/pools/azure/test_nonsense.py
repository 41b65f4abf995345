"""How long a malformed answer is a reason to ask again."""

from __future__ import annotations

from datetime import timedelta

import pytest
from tests.unit.pools.azure.test_retry import Failing

from cci_plugins.azure.credentials import StaticKey
from cci_plugins.errors import PoolUnavailableError, ProtocolError
from cci_plugins.pools.azure.retry import MAX_NONSENSE, Contact, RetryPolicy

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FIRST_WAIT", "LONGEST_WAIT"):
        monkeypatch.setattr(f"cci_plugins.pools.azure.retry.{name}", timedelta(milliseconds=1))


def make_policies() -> tuple[RetryPolicy, RetryPolicy]:
    contact = Contact()
    one, two = (RetryPolicy(StaticKey("key"), contact=contact) for _ in range(2))
    return one, two


async def test_a_server_that_only_gives_malformed_answers_is_not_asked_for_long() -> None:
    policy, _ = make_policies()
    call = Failing(*[ProtocolError("HTML")] * 20)
    with pytest.raises(ProtocolError):
        await policy.call_with_retry(call, idempotent=True)
    assert call.calls == MAX_NONSENSE


async def test_a_pool_that_has_answered_may_restart() -> None:
    policy, other = make_policies()
    await other.call_with_retry(Failing())
    call = Failing(*[ProtocolError("HTML")] * 20)
    assert await policy.call_with_retry(call, idempotent=True) == "done"
    assert call.calls == 21


async def test_other_faults_and_calls_without_proof_leave_a_server_unknown() -> None:
    policy, other = make_policies()
    await other.call_with_retry(Failing(), is_proof=False)
    with pytest.raises(ProtocolError):
        await policy.call_with_retry(Failing(*[ProtocolError("HTML")] * 20), idempotent=True)
    few = [ProtocolError("HTML")] * (MAX_NONSENSE - 1)
    call = Failing(*few, PoolUnavailableError("restarting"), *few)
    assert await policy.call_with_retry(call, idempotent=True) == "done"

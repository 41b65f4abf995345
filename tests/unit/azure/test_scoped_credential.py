"""A credential of one scope, and the tenants that a user allows."""

from __future__ import annotations

import pytest
from tests.sign_ins import Recorder

from cci_plugins.azure.credentials import CachedCredential
from cci_plugins.azure.scoped_credential import ScopedCredential

identity = pytest.importorskip("azure.identity")

pytestmark = pytest.mark.anyio
OTHER = "11111111-1111-1111-1111-111111111111"


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


async def test_claims_reach_the_sign_in_through_a_credential_of_one_scope() -> None:
    recorder = Recorder()
    credential = ScopedCredential(CachedCredential(recorder), "own/.default")
    async with credential:
        await credential.get_token("own/.default")
        await credential.get_token("own/.default", claims="{}", tenant_id=OTHER)
    assert recorder.asked == [("own/.default",), ("own/.default", ("claims", "{}"))]


@pytest.mark.parametrize("kind", ["AzureCliCredential", "ClientSecretCredential"])
def test_only_a_list_of_the_user_allows_another_tenant(kind: str) -> None:
    given = () if kind == "AzureCliCredential" else ("own", "client", "secret")
    for allowed, expected in (([], False), ([OTHER], True), (["*"], True), (["other"], False)):
        one = getattr(identity, kind)(*given, additionally_allowed_tenants=allowed)
        chain = identity.ChainedTokenCredential(identity.ManagedIdentityCredential(), one)
        assert CachedCredential(one).allows_tenant(OTHER) is expected
        assert CachedCredential(chain).allows_tenant(OTHER) is expected
    assert not CachedCredential("a-token").allows_tenant(OTHER)

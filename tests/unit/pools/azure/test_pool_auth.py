"""A pool whose key is switched off is tried once with a token."""

from __future__ import annotations

from typing import Any

import pytest

from cci_plugins.errors import AuthenticationError, ProtocolError
from cci_plugins.pools.azure.pool_auth import PoolAuth

pytestmark = pytest.mark.anyio


class Resource:
    """A pool in Resource Manager."""

    def __init__(self, *, disabled: bool, key: str | None = "a-key") -> None:
        self.disabled, self.key = disabled, key

    async def is_key_disabled(self) -> bool:
        return self.disabled

    async def fetch_key(self) -> str:
        if self.key is None:
            raise ProtocolError("no key")
        return self.key


def build(resource: Any) -> PoolAuth:
    return PoolAuth(resource, "a-token")


async def test_a_key_that_works_is_used() -> None:
    auth = build(Resource(disabled=False))
    assert await auth.headers() == {"x-ms-apikey": "a-key"}
    assert await auth.renew(auth.version) is False


@pytest.mark.parametrize("key", ["a-key", None])
async def test_a_token_is_tried_once_where_the_key_is_switched_off(key: str | None) -> None:
    auth = build(Resource(disabled=True, key=key))
    if key is not None:
        await auth.headers()
        assert await auth.renew(auth.version) is True
    assert await auth.headers() == {"authorization": "Bearer a-token"}
    with pytest.raises(AuthenticationError, match="isMcpServerApiKeyDisabled") as caught:
        await auth.renew(auth.version)
    assert "only an assumption" in str(caught.value)
    assert "AZURE_SESSION_POOL_ENDPOINT" in str(caught.value.hint)

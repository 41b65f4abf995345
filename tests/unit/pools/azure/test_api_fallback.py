"""A version of the REST API that a pool refuses is replaced by another one."""

from __future__ import annotations

from datetime import timedelta

import httpx
import pytest

from cci_plugins.azure import api_versions
from cci_plugins.azure.api_versions import choose_other_version
from cci_plugins.errors import ProtocolError
from cci_plugins.pools.azure.rest_client import RestClient

pytestmark = pytest.mark.anyio

LIMIT = timedelta(seconds=5)


class Pool:
    """Pool that accepts some versions of its API."""

    def __init__(
        self, *accepted: str, lists: bool = False, code: str = "InvalidApiVersion"
    ) -> None:
        self.accepted, self.lists, self.code, self.seen = accepted, lists, code, list[str]()

    def __call__(self, request: httpx.Request) -> httpx.Response:
        version = request.url.params["api-version"]
        self.seen.append(version)
        if version not in self.accepted:
            supported = {"api-supported-versions": ", ".join(self.accepted)} if self.lists else {}
            error = {"error": {"code": self.code, "message": "not supported"}}
            return httpx.Response(400, json=error, headers=supported)
        if request.url.path == "/files":
            return httpx.Response(200, json={"value": []})
        return httpx.Response(200, json={"status": "Succeeded", "result": {"stdout": "hi"}})

    def client(self) -> RestClient:
        http = httpx.AsyncClient(transport=httpx.MockTransport(self))
        return RestClient("https://pool.example", http=http)


@pytest.mark.parametrize("code", sorted(api_versions.REFUSALS))
async def test_the_next_version_is_used_from_then_on(code: str) -> None:
    pool = Pool("2024-10-02-preview", code=code)
    client = pool.client()
    assert await client.list_files("s") == []
    assert pool.seen == [
        api_versions.DATA_PLANE,
        *api_versions.DATA_PLANE_FALLBACKS[api_versions.DATA_PLANE],
    ]
    execution = await client.execute("s", "1", timeout=LIMIT)
    assert execution.stdout == "hi"
    assert pool.seen[-1] == "2024-10-02-preview"
    assert len(pool.seen) == 4


async def test_a_version_that_the_pool_lists_is_preferred() -> None:
    pool = Pool("2027-01-01-preview", "2027-05-05", lists=True)
    await pool.client().list_files("s")
    assert pool.seen == [api_versions.DATA_PLANE, "2027-01-01-preview"]


async def test_a_pool_without_any_known_version_is_an_error() -> None:
    pool = Pool()
    with pytest.raises(ProtocolError, match="InvalidApiVersion"):
        await pool.client().list_files("s")
    other = Pool(code="Odd")
    with pytest.raises(ProtocolError, match="Odd"):
        await other.client().list_files("s")
    assert len(other.seen) == 1


def test_a_version_is_never_chosen_twice() -> None:
    assert choose_other_version("a", ("b", "c"), "", ["a"]) == "b"
    assert choose_other_version("a", ("b",), "2026-01-01", ["a", "b", "2026-01-01"]) is None

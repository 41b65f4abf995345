"""What a custom pool answers first does not decide about it for the client's life."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import httpx
import pytest

from cci_plugins.errors import PoolError, PoolUnavailableError
from cci_plugins.pools.azure.rest_pool import CustomSessionPool

pytestmark = pytest.mark.anyio

ENDPOINT = "https://pool.example"
SERVER = {"protocolVersion": "2025-03-26", "serverInfo": {"name": "cci-plugins", "version": "1"}}


def build_pool(answer: Callable[[httpx.Request], httpx.Response]) -> CustomSessionPool:
    pool = CustomSessionPool(ENDPOINT, credential="a-token", patience=timedelta(0))
    auth = pool._http.auth
    pool._http = pool._rest_client._http = httpx.AsyncClient(
        transport=httpx.MockTransport(answer), auth=auth
    )
    return pool


def answer_mcp(request: httpx.Request) -> httpx.Response:
    sent = json.loads(request.content)
    if "id" not in sent:
        return httpx.Response(202)
    result = {**SERVER, "capabilities": {}}
    return httpx.Response(200, json={"jsonrpc": "2.0", "id": sent["id"], "result": result})


@pytest.mark.parametrize("status", [401, 403, 404])
async def test_our_image_is_found_after_a_refusal_on_first_contact(status: int) -> None:
    refusals = {"left": 2}

    def answer(request: httpx.Request) -> httpx.Response:
        if refusals["left"] > 0:
            refusals["left"] -= 1
            return httpx.Response(status)
        return answer_mcp(request)

    pool = build_pool(answer)
    assert await pool._returns_full_results("session-1") is False
    assert await pool._returns_full_results("session-1") is True
    await pool.aclose()


async def test_a_route_of_the_image_that_is_missing_is_remembered() -> None:
    asked: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.path)
        if request.url.path == "/files":
            return httpx.Response(200, json={"value": []})
        return httpx.Response(404)

    pool = build_pool(answer)
    assert await pool._returns_full_results("session-1") is False
    seen = len(asked)
    assert await pool._returns_full_results("session-2") is False
    assert len(asked) == seen
    await pool.aclose()


async def test_a_full_pool_is_reported_with_its_status() -> None:
    def fail(status: int) -> Callable[[Any], httpx.Response]:
        return lambda _: httpx.Response(status)

    pool = build_pool(fail(500))
    with pytest.raises(PoolUnavailableError, match=r"no free session, or .*HTTP 500") as caught:
        await pool.execute("session-1", "1", timeout=timedelta(seconds=5))
    assert caught.value.retryable
    pool = build_pool(fail(404))
    with pytest.raises(PoolError, match=r"no free session, or .*HTTP 404"):
        await pool.execute("session-1", "1", timeout=timedelta(seconds=5))

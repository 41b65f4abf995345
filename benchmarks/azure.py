"""Pools in the manner of Azure: the gateway, the helper in sessions, many conversations."""

from __future__ import annotations

import asyncio
import itertools

import httpx

from cci_plugins import CodeInterpreter, PlatformSessionPool
from cci_plugins.pools.azure.rest_pool import CustomSessionPool
from cci_plugins.pools.base import SessionPool

from .measure import Ratio, in_turns
from .processes import serving
from .served import RUN

CONVERSATIONS = 64
CALLS = 4


async def ratios() -> list[Ratio]:
    return [await gateway(), await helper(), await many_conversations()]


async def gateway() -> Ratio:
    """`1+1` through the gateway against the custom-container pool behind it."""
    with serving("--emulate", "custom") as (url, token):
        endpoint = url.removesuffix("/mcp")
        variables = {"AZURE_SESSION_POOL_ENDPOINT": endpoint, "CCI_ACCESS_TOKEN": token}
        key = "the-key-of-the-gateway"
        with serving("--pool", "custom", CCI_SERVE_KEY=key, **variables) as (front, _):
            through = PlatformSessionPool(front, key=key)
            direct = CustomSessionPool(endpoint, credential=token)
            ours, theirs = await _compared(through, direct)
    return Ratio("1+1 through the gateway", ours, theirs, "the custom pool itself", 1.5)


async def helper() -> Ratio:
    """`1+1` on a pool that answers in text only against a container of ours."""
    with serving("--emulate", "custom") as (url, token):
        whole = CustomSessionPool(url.removesuffix("/mcp"), credential=token)
        with serving("--emulate", "platform") as (text_url, key):
            text = PlatformSessionPool(text_url, key=key)
            ours, theirs = await _compared(text, whole)
    return Ratio("1+1 by the helper in a text-only session", ours, theirs, "our container", 1.5)


async def _compared(ours: SessionPool, theirs: SessionPool) -> tuple[float, float]:
    async with CodeInterpreter(ours) as mine, CodeInterpreter(theirs) as other:

        async def run(interpreter: CodeInterpreter) -> None:
            assert (await interpreter.run_code("1+1")).text == "2"

        return await in_turns(lambda: run(mine), lambda: run(other), rounds=100)


async def many_conversations() -> Ratio:
    """Milliseconds per call with 64 conversations at once, against raw requests to the same."""
    with serving(CCI_SESSIONS="200", CCI_READY_SESSIONS="0") as (url, key):
        async with CodeInterpreter(PlatformSessionPool(url, key=key)) as interpreter:

            async def converse(number: int) -> None:
                session = interpreter.session(f"user-{number}")
                for _ in range(CALLS):
                    assert (await session.run_code("1+1")).text == "2"

            await asyncio.gather(*map(converse, range(CONVERSATIONS)))  # starts the sessions
            async with httpx.AsyncClient(headers={"x-ms-apikey": key}, timeout=60) as client:
                numbers = itertools.count(1)

                async def post(number: int) -> None:
                    arguments = {"environmentId": f"raw-session-{number}", "pythonCode": "1+1"}
                    for _ in range(CALLS):
                        call = {"name": RUN, "arguments": arguments}
                        body = {"jsonrpc": "2.0", "id": next(numbers), "method": "tools/call"}
                        answer = await client.post(url, json=body | {"params": call})
                        assert answer.json()["result"]["isError"] is False

                await asyncio.gather(*map(post, range(CONVERSATIONS)))

                async def all_of(one: object) -> None:
                    await asyncio.gather(*map(one, range(CONVERSATIONS)))  # type: ignore[arg-type]

                ours, theirs = await in_turns(
                    lambda: all_of(converse), lambda: all_of(post), rounds=5, warm=1
                )
    calls = CONVERSATIONS * CALLS
    name = f"a call, {CONVERSATIONS} conversations at once ({1000 * calls / ours:.0f} a second)"
    return Ratio(name, ours / calls, theirs / calls, "raw POSTs to the same server", 1.5)

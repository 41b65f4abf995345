"""Benchmarks of emulated Azure pools: gateway, text-only sessions, many conversations."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable

import httpx

from cci_plugins import CodeInterpreter, PlatformSessionPool
from cci_plugins.pools.azure.rest_pool import CustomSessionPool
from cci_plugins.pools.base import SessionPool

from .measure import Ratio, in_turns
from .processes import serving
from .served import RUN

CONVERSATIONS = 64
CALLS = 4


async def measure() -> list[Ratio]:
    return [await measure_gateway(), await measure_agent(), await measure_many_conversations()]


async def measure_gateway() -> Ratio:
    """Compare `1+1` through the gateway with the custom-container pool behind it."""
    with serving("--emulate", "custom") as (url, token):
        endpoint = url.removesuffix("/mcp")
        variables = {"AZURE_SESSION_POOL_ENDPOINT": endpoint, "CCI_ACCESS_TOKEN": token}
        key = "the-key-of-the-gateway"
        rate = ("--runs-per-minute", "100000")  # more than one conversation may make
        with serving("--pool", "custom", *rate, CCI_SERVE_KEY=key, **variables) as (gateway_url, _):
            gateway = PlatformSessionPool(gateway_url, key=key)
            direct = CustomSessionPool(endpoint, credential=token)
            ours, theirs = await _measure_pools(gateway, direct)
    return Ratio("1+1 through the gateway", ours, theirs, "the custom pool itself", 1.3)


async def measure_agent() -> Ratio:
    """Compare `1+1` by the session agent in a text-only pool with the cci-plugins container."""
    with serving("--emulate", "custom") as (url, token):
        container = CustomSessionPool(url.removesuffix("/mcp"), credential=token)
        with serving("--emulate", "platform") as (text_url, key):
            text_only = PlatformSessionPool(text_url, key=key)
            ours, theirs = await _measure_pools(text_only, container)
    return Ratio(
        "1+1 by the agent in a text-only session", ours, theirs, "the cci-plugins container", 1.3
    )


async def _measure_pools(ours: SessionPool, theirs: SessionPool) -> tuple[float, float]:
    async with CodeInterpreter(ours) as ours_open, CodeInterpreter(theirs) as theirs_open:

        async def run(interpreter: CodeInterpreter) -> None:
            assert (await interpreter.run_code("1+1")).text == "2"

        return await in_turns(lambda: run(ours_open), lambda: run(theirs_open), rounds=100)


async def measure_many_conversations() -> Ratio:
    """Compare the time of a call, with 64 conversations at once, with raw POST requests."""
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

                async def run_all(talk: Callable[[int], Awaitable[None]]) -> None:
                    await asyncio.gather(*map(talk, range(CONVERSATIONS)))

                ours, theirs = await in_turns(
                    lambda: run_all(converse), lambda: run_all(post), rounds=5, warm=1
                )
    calls = CONVERSATIONS * CALLS
    name = f"a call, {CONVERSATIONS} conversations at once ({1000 * calls / ours:.0f} a second)"
    return Ratio(name, ours / calls, theirs / calls, "raw POSTs to the same server", 1.2)

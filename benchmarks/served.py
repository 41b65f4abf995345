"""A served pool: our client against a raw POST and against the frameworks' MCP clients."""

from __future__ import annotations

import httpx
from langchain_mcp_adapters.client import MultiServerMCPClient
from semantic_kernel import Kernel
from semantic_kernel.connectors.mcp import MCPStreamableHttpPlugin
from semantic_kernel.functions import KernelArguments

from cci_plugins import CodeInterpreter, PlatformSessionPool
from cci_plugins.langchain import CodeInterpreterTool

from .measure import Call, Ratio, in_turns
from .processes import serving

RUN = "runPythonCodeInRemoteEnvironment"
ARGUMENTS = {"environmentId": "bench-session", "pythonCode": "1+1"}


async def against_all(rounds: int = 100) -> list[Ratio]:
    with serving() as (url, key):
        pool = PlatformSessionPool(url, key=key)
        async with CodeInterpreter(pool) as interpreter:
            tool = CodeInterpreterTool(interpreter=interpreter)

            async def ours() -> None:
                assert await tool.ainvoke({"code": "1+1"}) == "2"

            return [
                await against_post(ours, url, key, rounds),
                await against_adapters(ours, url, key, rounds // 3),
                await against_semantic_kernel(ours, url, key, rounds),
            ]


async def against_post(ours: Call, url: str, key: str, rounds: int) -> Ratio:
    call = {"name": RUN, "arguments": ARGUMENTS}
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": call}
    headers = {"x-ms-apikey": key, "Accept": "application/json, text/event-stream"}
    async with httpx.AsyncClient(headers=headers, timeout=60) as client:

        async def post() -> None:
            (await client.post(url, json=body)).raise_for_status().json()

        mine, theirs = await in_turns(ours, post, rounds=rounds)
    return Ratio("1+1 on a served pool", mine, theirs, "raw JSON-RPC POST", 1.2)


async def against_adapters(ours: Call, url: str, key: str, rounds: int) -> Ratio:
    connection = {"transport": "streamable_http", "url": url, "headers": {"x-ms-apikey": key}}
    tools = await MultiServerMCPClient({"cci": connection}).get_tools()  # type: ignore[dict-item]
    run = next(tool for tool in tools if tool.name == RUN)
    mine, theirs = await in_turns(ours, lambda: run.ainvoke(ARGUMENTS), rounds=rounds)
    return Ratio("1+1 on a served pool", mine, theirs, "langchain-mcp-adapters default", 0.25)


async def against_semantic_kernel(ours: Call, url: str, key: str, rounds: int) -> Ratio:
    plugin = MCPStreamableHttpPlugin(name="cci", url=url, headers={"x-ms-apikey": key})
    async with plugin:
        kernel = Kernel()
        run = kernel.add_plugin(plugin)[RUN]
        given = KernelArguments(**ARGUMENTS)  # type: ignore[arg-type] # plain strings
        mine, theirs = await in_turns(ours, lambda: kernel.invoke(run, given), rounds=rounds)
    return Ratio("1+1 on a served pool", mine, theirs, "Semantic Kernel MCP plugin", 1.0)

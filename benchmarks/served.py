"""Comparison of this package's client with raw requests and with the frameworks' MCP clients."""

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


async def measure(rounds: int = 100) -> list[Ratio]:
    with serving() as (url, key):
        pool = PlatformSessionPool(url, key=key)
        async with CodeInterpreter(pool) as interpreter:
            tool = CodeInterpreterTool(interpreter=interpreter)

            async def call_tool() -> None:
                assert await tool.ainvoke({"code": "1+1"}) == "2"

            return [
                await compare_with_post(call_tool, url, key, rounds),
                await compare_with_langchain_adapters(call_tool, url, key, rounds // 3),
                await compare_with_semantic_kernel(call_tool, url, key, rounds),
            ]


async def compare_with_post(call_tool: Call, url: str, key: str, rounds: int) -> Ratio:
    call = {"name": RUN, "arguments": ARGUMENTS}
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": call}
    headers = {"x-ms-apikey": key, "Accept": "application/json, text/event-stream"}
    async with httpx.AsyncClient(headers=headers, timeout=60) as client:

        async def post() -> None:
            (await client.post(url, json=body)).raise_for_status().json()

        ours, theirs = await in_turns(call_tool, post, rounds=rounds)
    return Ratio("1+1 on a served pool", ours, theirs, "raw JSON-RPC POST", 1.08)


async def compare_with_langchain_adapters(
    call_tool: Call, url: str, key: str, rounds: int
) -> Ratio:
    connection = {"transport": "streamable_http", "url": url, "headers": {"x-ms-apikey": key}}
    tools = await MultiServerMCPClient({"cci": connection}).get_tools()  # type: ignore[dict-item]
    run = next(tool for tool in tools if tool.name == RUN)
    ours, theirs = await in_turns(call_tool, lambda: run.ainvoke(ARGUMENTS), rounds=rounds)
    return Ratio("1+1 on a served pool", ours, theirs, "langchain-mcp-adapters default", 0.25)


async def compare_with_semantic_kernel(call_tool: Call, url: str, key: str, rounds: int) -> Ratio:
    plugin = MCPStreamableHttpPlugin(name="cci", url=url, headers={"x-ms-apikey": key})
    async with plugin:
        kernel = Kernel()
        run = kernel.add_plugin(plugin)[RUN]
        arguments = KernelArguments(**ARGUMENTS)  # type: ignore[arg-type] # plain strings
        ours, theirs = await in_turns(
            call_tool, lambda: kernel.invoke(run, arguments), rounds=rounds
        )
    return Ratio("1+1 on a served pool", ours, theirs, "Semantic Kernel MCP plugin", 1.0)

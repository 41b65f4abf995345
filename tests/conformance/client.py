"""The client that the conformance suite starts. The server's URL is the last argument."""

import os
import sys
from datetime import timedelta

import anyio

from cci_plugins.mcp_client.client import McpClient


async def main(url: str) -> None:
    client = McpClient(url)
    try:
        await client.initialize()
        tools = await client.list_tools()
        if os.environ.get("MCP_CONFORMANCE_SCENARIO", "tools_call") == "tools_call":
            for tool in tools:
                if tool["name"] == "add_numbers":
                    arguments = {"a": 2, "b": 3}
                    await client.call_tool(tool["name"], arguments, timeout=timedelta(seconds=10))
    finally:
        await client.aclose()


if __name__ == "__main__":
    anyio.run(main, sys.argv[-1])

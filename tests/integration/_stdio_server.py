"""A server on standard input and output, for environments without the command `cci mcp`."""

import anyio

from cci_plugins.pools.local.pool import LocalSessionPool
from cci_plugins.server import serve_stdio


async def main() -> None:
    async with LocalSessionPool(ready_sessions=0) as pool:
        await serve_stdio(pool, file_links=True, all_tools=True)


if __name__ == "__main__":
    anyio.run(main)

"""Emulated Azure pools on loopback, and their clients."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import partial
from typing import Any, NamedTuple

import anyio

from cci_plugins.common.limits import Limits
from cci_plugins.pools.azure.mcp_pool import PlatformSessionPool
from cci_plugins.pools.azure.rest_pool import CustomSessionPool
from cci_plugins.pools.base import SessionPool

KEY = "planted-key-of-the-pool"
TOKEN = "planted-token-of-entra"


class Emulated(NamedTuple):
    """A running emulator."""

    emulator: Any
    url: str  # without /mcp

    def client(self, **options: Any) -> SessionPool:
        """Create the client for this kind of pool."""
        options = {"patience": timedelta(seconds=20), "margin": timedelta(seconds=5)} | options
        if self.emulator._emulation.kind == "platform":
            return PlatformSessionPool(f"{self.url}/mcp", **({"key": KEY} | options))
        return CustomSessionPool(self.url, **({"credential": TOKEN} | options))


@asynccontextmanager
async def emulated(
    pool: SessionPool,
    around: Callable[[Any], Any] = lambda app: app,
    limits: Limits | None = None,
    **options: Any,
) -> AsyncIterator[Emulated]:
    """Serve an emulated pool, wrapped by `around`, which may add a proxy."""
    from cci_plugins.server import Emulation, Emulator, serve_app

    emulator = Emulator(pool, Emulation(**options), key=KEY, token=TOKEN, limits=limits)
    ready = anyio.Event()
    urls: list[str] = []

    def on_ready(url: str) -> None:
        urls.append(url.removesuffix("/mcp"))
        ready.set()

    async with pool, anyio.create_task_group() as tasks:
        tasks.start_soon(
            partial(serve_app, around(emulator), host="127.0.0.1", port=0, on_ready=on_ready)
        )
        with anyio.fail_after(60):
            await ready.wait()
        yield Emulated(emulator, urls[0])
        tasks.cancel_scope.cancel()

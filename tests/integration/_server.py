"""A real server on loopback, on this event loop or in a thread with its own."""

from collections.abc import Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import Any

import anyio
from anyio.from_thread import start_blocking_portal

from cci_plugins.pools.base import SessionPool

KEY = "a-key-for-the-tests"


@asynccontextmanager
async def serving(pool: SessionPool, **options: Any):
    from cci_plugins.server import serve

    ready = anyio.Event()
    urls: list[str] = []

    def on_ready(url: str) -> None:
        urls.append(url)
        ready.set()

    options = {"api_key": KEY, "port": 0, "on_ready": on_ready} | options
    async with pool, anyio.create_task_group() as tasks:
        tasks.start_soon(partial(serve, pool, **options))
        with anyio.fail_after(60):
            await ready.wait()
        yield urls[0]
        tasks.cancel_scope.cancel()


@contextmanager
def running_server(make_pool: Callable[[], SessionPool], **options: Any) -> Iterator[str]:
    """Run a server in another thread and yield the URL of its MCP endpoint."""
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(serving(portal.call(make_pool), **options)) as url,
    ):
        yield url

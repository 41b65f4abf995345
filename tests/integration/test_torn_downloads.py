"""A file that is rewritten while it is downloaded gives an error instead of mixed content."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from datetime import timedelta

import pytest
from tests.integration._emulated import emulated

from cci_plugins import LocalSessionPool
from cci_plugins.errors import CodeInterpreterError
from cci_plugins.pools.base import SessionPool

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

LIMIT = timedelta(seconds=30)
POOLS: dict[str, tuple[dict[str, str] | None, int]] = {
    "embedded": (None, 30_000_000),
    "platform": ({"kind": "platform"}, 30_000),
    "custom": ({"kind": "custom"}, 30_000_000),
}


@asynccontextmanager
async def open_pool(options: dict[str, str] | None) -> AsyncIterator[SessionPool]:
    local = LocalSessionPool(ready_sessions=0, preload=())
    if options is None:
        async with local:
            yield local
        return
    async with emulated(local, **options) as served, served.client() as client:
        yield client


@pytest.mark.quick("embedded", "platform")
@pytest.mark.parametrize(("options", "size"), POOLS.values(), ids=list(POOLS))
async def test_a_file_that_changes_between_two_chunks_is_an_error(
    options: dict[str, str] | None, size: int
) -> None:
    async with open_pool(options) as pool:
        await pool.execute("torn", f"open('a.bin', 'wb').write(b'a' * {size})", timeout=LIMIT)
        async with aclosing(pool.download("torn", "a.bin")) as chunks:  # type: ignore[type-var]
            await anext(aiter(chunks))
            code = f"open('a.bin', 'r+b').write(b'b' * {size})"
            await pool.execute("torn", code, timeout=LIMIT)
            with pytest.raises(CodeInterpreterError):
                async for _ in chunks:
                    pass
        whole = [chunk async for chunk in pool.download("torn", "a.bin")]
        assert b"".join(whole) == b"b" * size

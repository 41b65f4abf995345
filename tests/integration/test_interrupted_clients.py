"""Clients that are cancelled, or leave, in the middle of what they do over HTTP."""

from __future__ import annotations

import asyncio
import logging
import socket
from typing import Any
from urllib.parse import urlsplit

import anyio
import pytest

from cci_plugins.testing import FakeSessionPool

from ._emulated import emulated
from ._server import KEY, serving

pytest.importorskip("mcp")
pytest.importorskip("uvicorn")

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

SESSION = "session-1"
FORM = (
    b'--xx\r\nContent-Disposition: form-data; name="file"; filename="a.bin"\r\n\r\n' + b"a" * 90_000
)


def list_connections(pool: Any) -> list[object]:
    """Return the connections that the client of a pool holds."""
    clients = [getattr(pool, name) for name in ("_http", "_rest_http") if hasattr(pool, name)]
    pools = [one for client in clients for one in client._transport._pools]
    return [connection for one in pools for connection in one._pool.connections]


@pytest.mark.parametrize("kind", ["platform", "custom"])
async def test_a_pool_whose_closing_is_cancelled_closes_every_connection(kind: str) -> None:
    async with emulated(FakeSessionPool(), kind=kind) as there:
        for steps in (1, 2, 3, 5):  # of the loop before the call is cancelled
            pool = there.client()
            call = pool.interrupt if kind == "custom" else pool.launch
            arguments = [SESSION] if kind == "custom" else []
            await asyncio.gather(*(call(*arguments) for _ in range(4)))
            assert len(list_connections(pool)) > 1
            task = asyncio.create_task(pool.aclose())
            for _ in range(steps):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait((task,))
            assert list_connections(pool) == []


@pytest.mark.parametrize("sent", [150, 60_000])
async def test_an_upload_whose_client_leaves_is_no_fault_of_the_server(
    sent: int, caplog: pytest.LogCaptureFixture
) -> None:
    pool = FakeSessionPool()
    head = (
        f"POST /files?api-version=2025-10-02-preview&identifier={SESSION} HTTP/1.1\r\n"
        f"host: localhost\r\nauthorization: Bearer {KEY}\r\n"
        f"content-type: multipart/form-data; boundary=xx\r\ncontent-length: {len(FORM)}\r\n\r\n"
    )
    with caplog.at_level(logging.WARNING):
        logging.getLogger("cci_plugins").addHandler(caplog.handler)
        try:
            async with serving(pool) as url:
                parts = urlsplit(url)
                with socket.create_connection((parts.hostname, parts.port)) as client:
                    client.sendall(head.encode() + FORM[:sent])
                    await anyio.sleep(0.2)  # the server reads the body
                await anyio.sleep(0.2)
                assert await pool.list_files(SESSION) == []
        finally:
            logging.getLogger("cci_plugins").removeHandler(caplog.handler)
    assert [record.getMessage() for record in caplog.records] == []

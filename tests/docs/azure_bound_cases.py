"""Causes of the headings of the troubleshooting page that concern answers without a bound."""

from __future__ import annotations

import asyncio
import contextlib

import anyio
import pytest

from cci_plugins.azure.options import Azure
from cci_plugins.common.http_bodies import BodyDecoder

from .cases import happens


def _list(reply: bytes, monkeypatch: pytest.MonkeyPatch, **limits: float) -> object:
    """Read a list from a server that always sends one reply, in place of Azure."""
    from cci_plugins.azure import transport
    from cci_plugins.azure.resource_manager import ArmClient

    for name, value in limits.items():
        monkeypatch.setattr(transport, name, value)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while await reader.readuntil(b"\r\n\r\n"):
                url = f"http://127.0.0.1:{writer.get_extra_info('sockname')[1]}"
                writer.write(b"HTTP/1.1 200 OK\r\n" + reply.replace(b"URL", url.encode()))
                await writer.drain()
                if b"close" in reply:
                    break
        writer.close()

    async def ask() -> object:
        async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
            url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            async with ArmClient(Azure(credential="token", endpoint=url)) as arm:
                return await arm.list_subscriptions()

    return anyio.run(ask)


@happens("...: Azure's answer is larger than ... bytes")
def _(_: object, monkeypatch: pytest.MonkeyPatch) -> object:
    reply = b"content-length: 1000\r\n\r\n" + b" " * 1000
    return _list(reply, monkeypatch, MAX_BYTES=100)


@happens("...: Azure's answer has an encoding that was not asked for (...)")
def _(_: object, monkeypatch: pytest.MonkeyPatch) -> object:
    return _list(b"content-encoding: br\r\ncontent-length: 1\r\n\r\nx", monkeypatch)


@happens("...: Azure did not answer within ... s")
def _(_: object, monkeypatch: pytest.MonkeyPatch) -> object:
    return _list(b"content-length: 10\r\n\r\nx", monkeypatch, ANSWER_SECONDS=0.2)


@happens("...: Azure's list does not end after ... pages or ... items")
def _(_: object, monkeypatch: pytest.MonkeyPatch) -> object:
    page = b'{"value": [], "nextLink": "URL/more"}'
    return _list(b"connection: close\r\n\r\n" + page, monkeypatch, MAX_PAGES=3)


@happens("Foundry's answer is larger than ... bytes; code may have run, so it was not sent again")
def _(*_: object) -> object:
    failures = pytest.importorskip("cci_plugins.foundry.failures")
    with failures.translate_run_errors():
        return list(BodyDecoder(None, limit=10, sender="Foundry").feed(b"x" * 11))

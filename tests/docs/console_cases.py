"""Causes of the headings of the troubleshooting page that concern `cci sessions`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest
from tests.integration._server import running_server

from cci_plugins.cli.sessions_client import PoolClient, SessionsClient, open_client
from cci_plugins.errors import CodeInterpreterError
from cci_plugins.testing import FakeSessionPool

from .cases import happens

KEY = "a-key-for-the-tests"


def _ask(work: Callable[[Any], Awaitable[object]], **options: Any) -> object:
    """Return the error of a call to a server."""

    async def ask(url: str) -> object:
        async with open_client(url, KEY) as client:
            assert isinstance(client, SessionsClient)
            try:
                return await work(client)
            except CodeInterpreterError as error:
                return error

    pytest.importorskip("cci_plugins.server")
    with running_server(FakeSessionPool, **options) as url:
        return anyio.run(ask, url)


@happens("the server at ... has no console that shows its sessions")
def _(*_: object) -> object:
    return _ask(lambda client: client.list_sessions())


@happens("the session ... has ended, or never existed")
def _(*_: object) -> object:
    return _ask(lambda client: client.end("nobody"), console=True)


@happens("no server is named whose sessions could be listed: ...")
def _(_: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CCI_POOL", "local")

    async def ask() -> None:
        async with open_client(None, None):
            raise AssertionError

    anyio.run(ask)


@happens("the pool ... does not list its sessions")
def _(*_: object) -> None:
    anyio.run(PoolClient(FakeSessionPool()).list_sessions)

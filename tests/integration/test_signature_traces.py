"""No later run finds the signature of a file's URL in the session's memory."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest
from tests.integration._azurite import running_azurite
from tests.integration._emulated import emulated
from tests.integration.conftest import spec_of

from cci_plugins import CodeInterpreter, FileOptions, Limits, LocalSessionPool
from cci_plugins.errors import IsolationError, SessionFileNotFoundError
from cci_plugins.files.sas import SasPolicy
from cci_plugins.pools.base import SessionPool
from cci_plugins.pools.local.isolation import choose

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

SEARCH = """
import re
pattern = re.compile(b's' + b'ig=[A-Za-z0-9%+/]{40,}')
found = 0
with open('/proc/self/maps') as maps, open('/proc/self/mem', 'rb', 0) as memory:
    for line in maps:
        span, rights = line.split()[:2]
        if rights.startswith('rw'):
            start, end = (int(one, 16) for one in span.split('-'))
            try:
                memory.seek(start)
                found += len(pattern.findall(memory.read(end - start)))
            except (OSError, ValueError, OverflowError):
                pass
print(found)
"""


@pytest.fixture(scope="module")
def azurite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with running_azurite(tmp_path_factory.mktemp("azurite")) as running:
        yield running


@pytest.fixture(scope="module", autouse=True)
async def bubblewrap(anyio_backend: str) -> None:
    try:
        await choose("bwrap", spec_of())
    except IsolationError as error:
        pytest.skip(f"egress from a session needs bubblewrap: {error}")


@asynccontextmanager
async def open_pool(kind: str, host: str) -> AsyncIterator[SessionPool]:
    local = LocalSessionPool(egress=(host,), ready_sessions=0, preload=())
    if kind == "embedded":
        yield local
        return
    async with emulated(local, kind=kind) as there:
        yield there.client()


@pytest.mark.quick("platform")
@pytest.mark.parametrize("kind", ["embedded", "platform"])
async def test_no_later_run_finds_a_signature_in_the_sessions_memory(
    kind: str, azurite: Any
) -> None:
    storage = azurite.storage()
    data = os.urandom(300_000)
    with azurite.container() as container:
        container.upload_blob(f"mine/{kind}.bin", data)
    link = await storage.link(f"mine/{kind}.bin", "r", timedelta(minutes=5))
    options = FileOptions(
        storage, stage_from=0, fetch=SasPolicy(hosts=(azurite.host,), allow_private=True)
    )
    async with (
        open_pool(kind, azurite.host) as pool,
        CodeInterpreter(pool, files=options, limits=Limits(inline_bytes=1)) as interpreter,
    ):
        session = interpreter.session("a")
        await session.run_code("first = 1")
        assert (await session.files.upload(data, name="a.bin")).route == "blob"
        assert await session.files.download("a.bin") == data
        assert (await session.files.fetch(link)).route == "direct"
        with pytest.raises(SessionFileNotFoundError):
            await session.files.download("none.bin")
        found = await session.run_code(SEARCH)
        assert found.stdout.strip() == "0"
        left = await session.run_code("print(get_ipython().cci_transfers, first)")
        assert left.stdout.strip() == "{} 1"

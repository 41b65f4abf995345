"""The console of a gateway: what it shows of the pool behind, and of what it ran itself."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import Any

import anyio
import httpx
import pytest

from cci_plugins import CodeInterpreter, HostTool, LocalSessionPool
from cci_plugins.cli.sessions_client import PoolClient, SessionsClient, open_client
from cci_plugins.errors import ConfigurationError, SessionLostError
from cci_plugins.pools.azure.mcp_pool import PlatformSessionPool

from ._emulated import TOKEN, emulated
from ._server import KEY, serving

pytest.importorskip("cci_plugins.server")
pytestmark = pytest.mark.anyio

SECRET = b"a secret of the tests, 32 bytes or more"
HELD = """
print("first", flush=True)
tools.wait()
print("last")
"""


@pytest.fixture(scope="module")
async def places() -> AsyncIterator[tuple[Any, str]]:
    """Yield an emulated custom pool, and the URL of a gateway in front of it."""
    from cci_plugins.server import SignedEnvironments

    local = LocalSessionPool(ready_sessions=0, preload=())
    async with AsyncExitStack() as stack:
        azure = await stack.enter_async_context(emulated(local, kind="custom", max_sessions=99))
        gateway = serving(
            azure.client(), environments=SignedEnvironments(SECRET), rest=False, console=True
        )
        yield azure, await stack.enter_async_context(gateway)


async def read(client: Any, identifier: str) -> list[Any]:
    return (await client.read_runs(identifier)).runs


async def test_a_gateway_shows_what_it_ran_and_lists_the_sessions_of_its_pool(
    places: tuple[Any, str],
) -> None:
    azure, url = places
    with anyio.fail_after(120):
        async with CodeInterpreter(azure.client()) as other:
            session = other.session("of another program")
            await session.run_code("1")
            other_id = session.id
            async with CodeInterpreter(PlatformSessionPool(url, key=KEY)) as interpreter:
                mine = interpreter.session("mine")
                await mine.run_code("x = 6")
                await mine.files.upload(b"1,2" * 50_000, name="data.csv")
                assert (await mine.run_code("x * 7")).text == "42"
                async with open_client(url, KEY) as client:
                    assert isinstance(client, SessionsClient)
                    listed = await client.list_sessions()
                    assert listed.is_complete
                    runs = {one.identifier: one.runs for one in listed.sessions}
                    assert runs.pop(other_id) == 0, "another program ran it, so it has no history"
                    (identifier,) = runs
                    codes = [one.code for one in await read(client, identifier)]
                    assert codes == ["x = 6", "x * 7"], "the transfer of the file is not a run"
                    assert [one.name for one in await client.list_files(identifier)] == ["data.csv"]
                    assert await read(client, other_id) == []
                    await client.end(other_id)
                    left = (await client.list_sessions()).sessions
                    assert other_id not in [one.identifier for one in left]


async def test_a_run_that_the_pool_holds_is_shown_while_it_runs_and_when_it_has_ended(
    places: tuple[Any, str],
) -> None:
    _, url = places
    seen: list[str] = []
    release = anyio.Event()

    async def wait() -> None:
        await release.wait()

    tools = [HostTool("wait", "Wait for the test.", {"type": "object"}, wait)]
    with anyio.fail_after(120):
        async with (
            CodeInterpreter(PlatformSessionPool(url, key=KEY)) as interpreter,
            open_client(url, KEY) as client,
        ):
            session = interpreter.session("held")
            before = {one.identifier for one in (await client.list_sessions()).sessions}
            statuses: list[str] = []

            async def run() -> None:
                execution = await session.run_code(
                    HELD, tools=tools, on_output=lambda event: seen.append(event.text)
                )
                assert execution.stdout == "first\nlast\n"

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(run)
                while "".join(seen).count("first") == 0:
                    await anyio.sleep(0.05)
                after = {one.identifier for one in (await client.list_sessions()).sessions}
                (identifier,) = after - before
                (one,) = await read(client, identifier)
                statuses.append(one.status)
                assert "first" in "".join(part.text for part in one.output)
                release.set()
            (one,) = await read(client, identifier)
            execution = one.load_execution()
            assert execution is not None
            assert ([*statuses, one.status], execution.stdout) == (
                ["running", "succeeded"],
                "first\nlast\n",
            )


async def test_a_custom_pool_lists_its_sessions_without_a_gateway(
    places: tuple[Any, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    azure, _ = places
    monkeypatch.setenv("CCI_POOL", "custom")
    monkeypatch.setenv("AZURE_SESSION_POOL_ENDPOINT", azure.url)
    monkeypatch.setenv("CCI_ACCESS_TOKEN", TOKEN)
    with anyio.fail_after(120):
        async with CodeInterpreter(azure.client()) as interpreter:
            session = interpreter.session("listed")
            await session.run_code("open('a.txt', 'w').write('1')")
            async with open_client(None, None) as client:
                assert isinstance(client, PoolClient)
                listed = await client.list_sessions()
                assert session.id in [one.identifier for one in listed.sessions]
                assert [one.name for one in await client.list_files(session.id)] == ["a.txt"]
                with pytest.raises(SessionLostError, match="never existed"):
                    await client.list_files("nobody-1")
                with pytest.raises(ConfigurationError, match="keeps no history"):
                    await client.read_runs(session.id)
                await client.end(session.id)
                with pytest.raises(SessionLostError):
                    await client.end(session.id)


async def test_a_managed_pool_lists_its_sessions_and_one_of_an_mcp_endpoint_does_not() -> None:
    local = LocalSessionPool(ready_sessions=0, preload=())
    async with emulated(local, kind="managed") as azure, azure.client() as pool:
        await pool.execute("session-1", "1", timeout=timedelta(seconds=60))
        listed = await PoolClient(pool).list_sessions()
        assert [one.identifier for one in listed.sessions] == ["session-1"]
    with pytest.raises(ConfigurationError, match="does not list its sessions"):
        await PoolClient(PlatformSessionPool("https://pool.test/mcp", key=KEY)).list_sessions()


async def test_the_console_of_a_gateway_needs_its_key(places: tuple[Any, str]) -> None:
    _, url = places
    async with httpx.AsyncClient(base_url=url.removesuffix("/mcp")) as http:
        assert (await http.get("/console/sessions")).status_code == 401

"""`notifications/cancelled` over HTTP: who may end which call."""

from contextlib import asynccontextmanager
from functools import partial

import anyio
import httpx
import pytest

from cci_plugins.testing import FakeSessionPool

from ._server import KEY, running_server, serving

pytest.importorskip("mcp")
pytest.importorskip("uvicorn")

pytestmark = pytest.mark.anyio

ACCEPT = {"accept": "application/json, text/event-stream"}


class WaitingPool(FakeSessionPool):
    """Runs until it is cancelled, and counts both."""

    def __init__(self) -> None:
        super().__init__()
        self.started = self.cancelled = 0

    async def execute(self, session_id, code, *, timeout, on_output=None, instance=None):
        self.started += 1
        try:
            await anyio.sleep_forever()
        finally:
            self.cancelled += 1


class Client:
    """A client with an MCP session, if it wants one."""

    def __init__(self, url: str):
        self.http = httpx.AsyncClient(base_url=url, headers={"x-ms-apikey": KEY}, timeout=60)
        self.answers: dict[object, dict] = {}

    async def begin(self) -> None:
        body = {"jsonrpc": "2.0", "id": 0, "method": "initialize"}
        response = await self.http.post("", json=body)
        self.http.headers["mcp-session-id"] = response.headers["mcp-session-id"]

    async def call(self, request_id: object, code: str = "x", **options) -> dict:
        name, arguments = "execute_code", {"code": code}
        if "mcp-session-id" not in self.http.headers:
            name = "runPythonCodeInRemoteEnvironment"
            arguments = {"environmentId": "environment-1", "pythonCode": code}
        params = {"name": name, "arguments": arguments}
        body = {"jsonrpc": "2.0", "id": request_id, "method": "tools/call", "params": params}
        response = await self.http.post("", json=body, **options)
        self.answers[request_id] = response.json()
        return response.json()

    async def cancel(self, request_id: object) -> None:
        params = {"requestId": request_id, "reason": "the user pressed stop"}
        body = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": params}
        response = await self.http.post("", json=body)
        assert (response.status_code, response.content) == (202, b"")


@asynccontextmanager
async def clients_of(url: str, *, count: int = 1, sessions: bool = True):
    clients = [Client(url) for _ in range(count)]
    for client in clients:
        if sessions:
            await client.begin()
    yield clients
    for client in clients:
        await client.http.aclose()


async def until(condition) -> None:
    with anyio.fail_after(20):
        while not condition():
            await anyio.sleep(0.01)


async def test_a_long_handshake_begins_an_mcp_session_too():
    icon = {"src": "data:image/png;base64," + "A" * 10_000}
    client_info = {"name": "x", "version": "1", "icons": [icon]}
    params = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": client_info}
    body = {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params}
    with anyio.fail_after(30):
        async with serving(FakeSessionPool(), execute_code=True) as url:
            async with httpx.AsyncClient(headers={"x-ms-apikey": KEY}) as http:
                response = await http.post(url, json=body)
    assert response.headers.get("mcp-session-id")


async def test_a_call_ends_only_by_its_own_session_and_its_own_id():
    pool = WaitingPool()
    with anyio.fail_after(60):
        async with (
            serving(pool, execute_code=True) as url,
            clients_of(url, count=2) as (mine, yours),
            anyio.create_task_group() as tasks,
        ):
            tasks.start_soon(mine.call, 7)
            await until(lambda: pool.started == 1)
            for client, request_id in ((yours, 7), (mine, 8), (mine, "7")):
                await client.cancel(request_id)
            await anyio.sleep(0.2)
            assert (pool.cancelled, mine.answers) == (0, {})
            await mine.cancel(7)
            await until(lambda: 7 in mine.answers)
            assert pool.cancelled == 1
            assert mine.answers[7]["error"]["message"] == "Request cancelled"


async def test_a_call_that_waits_for_its_turn_is_cancelled_before_it_starts():
    pool = WaitingPool()
    with anyio.fail_after(60):
        async with (
            serving(pool, execute_code=True) as url,
            clients_of(url) as (client,),
            anyio.create_task_group() as tasks,
        ):
            tasks.start_soon(client.call, "first")
            await until(lambda: pool.started == 1)
            tasks.start_soon(client.call, "second")
            while "second" not in client.answers:  # a note that comes before its call is ignored
                await client.cancel("second")
            assert (pool.started, pool.cancelled) == (1, 0)
            await client.cancel("first")
            await until(lambda: pool.cancelled == 1)


async def test_without_a_session_a_notification_is_ignored_and_closing_cancels():
    pool = WaitingPool()
    with anyio.fail_after(60):
        async with (
            serving(pool, execute_code=True) as url,
            clients_of(url, sessions=False) as (client,),
            anyio.create_task_group() as tasks,
        ):
            tasks.start_soon(client.call, 1)
            await until(lambda: pool.started == 1)
            await client.cancel(1)
            await anyio.sleep(0.2)
            assert pool.cancelled == 0
            tasks.cancel_scope.cancel()
        assert pool.cancelled == 1


@pytest.fixture(scope="module")
def kernels_url():
    pytest.importorskip("jupyter_client")
    from cci_plugins.pools.local.pool import LocalSessionPool

    with running_server(LocalSessionPool, execute_code=True, console=True) as url:
        yield url


async def read_output(console, identifier: str) -> str:
    """Return what the last run of a session has printed so far."""
    (*_, run) = (await console.read_runs(identifier)).runs
    return "".join(part.text for part in run.output)


@pytest.mark.parametrize("headers", [{}, ACCEPT], ids=["json", "stream"])
async def test_a_cancelled_run_is_interrupted_and_its_session_goes_on(kernels_url, headers):
    sessions_client = pytest.importorskip("cci_plugins.cli.sessions_client")
    with anyio.fail_after(100):
        async with (
            clients_of(kernels_url) as (client,),
            sessions_client.open_client(kernels_url, KEY) as console,
        ):
            before = {one.identifier for one in (await console.list_sessions()).sessions}
            await client.call(1, "x = 41\nimport time")
            slow = "began = True\nprint('began', flush=True)\ntime.sleep(100)\nx = 0"
            params = {"name": "execute_code", "arguments": {"code": slow}}
            if headers:
                params["_meta"] = {"progressToken": "p"}
            listed = {one.identifier for one in (await console.list_sessions()).sessions}
            (identifier,) = listed - before
            body = {"jsonrpc": "2.0", "id": "slow", "method": "tools/call", "params": params}
            post = partial(client.http.post, "", json=body, headers=headers)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(post)
                while "began" not in await read_output(console, identifier):
                    await anyio.sleep(0.02)
                await client.cancel("slow")
            answer = await client.call(2, "x + 1, began")
            assert answer["result"]["content"][0]["text"] == "(42, True)"

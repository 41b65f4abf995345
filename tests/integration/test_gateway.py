"""The gateway in front of a custom-container pool, used by every kind of client."""

from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta

import anyio
import httpx
import pytest

from cci_plugins import CodeInterpreter, Execution
from cci_plugins.pools.azure.mcp_pool import PlatformSessionPool
from cci_plugins.testing import check_session_pool

from ._emulated import TOKEN, emulated
from ._server import KEY, serving
from .test_azure_pools import local_pool

pytest.importorskip("mcp")

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

LIMIT = timedelta(seconds=20)
SECRET = b"a secret that every replica of the gateway has"
CONTAINERS = ["cci", "executions"]


@asynccontextmanager
async def gateways(count, serve=None, **options):
    """Start an emulated custom pool and `count` gateways, and yield it and their URLs."""
    from cci_plugins.server import SignedEnvironments

    async with AsyncExitStack() as stack:
        azure = await stack.enter_async_context(
            emulated(local_pool(), kind="custom", max_sessions=99, **options)
        )
        urls = [
            await stack.enter_async_context(
                serving(
                    azure.client(),
                    environments=SignedEnvironments(SECRET),
                    rest=False,
                    **(serve or {}),
                )
            )
            for _ in range(count)
        ]
        yield azure, urls


@pytest.mark.full  # test_platform_pool.py and test_azure_pools.py have its two halves
@pytest.mark.parametrize("container", CONTAINERS)
async def test_the_gateway_keeps_the_contract(container):
    with anyio.fail_after(110):
        async with gateways(1, container=container) as (_, urls):
            async with PlatformSessionPool(urls[0], key=KEY) as pool:
                report = await check_session_pool(pool)
    assert {check: fault for check, fault in report.items() if fault} == {}


def call(name, **arguments):
    params = {"name": name, "arguments": arguments}
    return {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}


@pytest.fixture(scope="module")
async def running():
    """Start two replicas. Each test uses sessions of its own."""
    async with gateways(2) as started:
        yield started


async def test_replicas_share_sessions_without_sharing_anything_else(running):
    _, urls = running
    with anyio.fail_after(60):
        async with httpx.AsyncClient(timeout=30) as client:

            async def ask(url, name, **arguments):
                body = call(name, **arguments)
                answer = await client.post(url, json=body, headers={"x-ms-apikey": KEY})
                return answer.json()["result"]

            launched = await ask(urls[0], "launchShell")
            identifier = launched["structuredContent"]["environmentId"]
            run = "runPythonCodeInRemoteEnvironment"
            await ask(urls[0], run, environmentId=identifier, pythonCode="x = 41")
            answer = await ask(urls[1], run, environmentId=identifier, pythonCode="x + 1")
            assert answer["structuredContent"]["executionResult"] == 42
            invented = await ask(urls[1], run, environmentId="0" * 44, pythonCode="1")
            assert invented["isError"]
            assert "Call launchShell" in invented["content"][0]["text"]


async def test_output_streams_and_a_replaced_container_is_noticed_through_the_gateway(running):
    azure, urls = running
    pieces: list[str] = []
    executions: list[Execution] = []
    has_begun = anyio.Event()

    def handle_output(event):
        pieces.append(event.text)
        has_begun.set()

    async def nothing():
        yield b""

    with anyio.fail_after(60):
        async with CodeInterpreter(PlatformSessionPool(urls[0], key=KEY)) as interpreter:
            before = set(azure.emulator._last_used)
            wait = "while not os.path.exists('go'): time.sleep(0.01)"
            code = f"import os, time\nn = 2\nprint(0)\n{wait}\nprint('1\\n2')"

            async def run():
                executions.append(await interpreter.run_code(code, on_output=handle_output))

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(run)
                await has_begun.wait()  # while the code runs
                (identifier,) = set(azure.emulator._last_used) - before
                await azure.emulator._pool.upload(identifier, "go", nothing())
            await azure.emulator.drop_session(identifier)
            after = await interpreter.run_code("'n' in dir()")
    assert executions[0].stdout == "0\n1\n2\n" == "".join(pieces)
    assert (after.state, after.text) == ("lost", "False")


async def test_the_gateways_clients_see_neither_its_token_nor_the_pools_address(
    running, monkeypatch
):
    azure, urls = running
    monkeypatch.setattr(azure.emulator, "_token", "another-token")
    with anyio.fail_after(60):
        async with httpx.AsyncClient() as client:
            body = call("launchShell")
            headers = {"x-ms-apikey": KEY}
            launched = (await client.post(urls[0], json=body, headers=headers)).json()
            identifier = launched["result"]["structuredContent"]["environmentId"]
            run = call("runPythonCodeInRemoteEnvironment", environmentId=identifier, pythonCode="1")
            answer = await client.post(urls[0], json=run, headers=headers)
            assert (await client.get(urls[0].replace("/mcp", "/health"))).status_code == 200
            assert (await client.get(urls[0].replace("/mcp", "/files"))).status_code in {401, 404}
    assert answer.json()["result"]["isError"]
    assert "UpstreamUnauthorized" in answer.text
    for secret in (TOKEN, azure.url):
        assert secret not in answer.text

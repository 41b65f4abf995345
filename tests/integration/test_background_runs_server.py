"""Background runs over HTTP: `cci serve`, our container image, and a gateway with two replicas."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import Any

import anyio
import pytest

from cci_plugins import CodeInterpreter, HostTool, Limits, LocalSessionPool
from cci_plugins.core.background_run import BackgroundRun
from cci_plugins.errors import ConfigurationError
from cci_plugins.pools.azure import held_run
from cci_plugins.pools.azure.mcp_pool import PlatformSessionPool
from cci_plugins.pools.base import SessionPool
from cci_plugins.server import SignedEnvironments, app
from cci_plugins.testing import FakeSessionPool, background_runs

from ._emulated import emulated
from ._server import KEY, serving
from .test_host_tools_server import Replicas, balanced

if sys.platform != "linux":
    pytest.skip("these backends exist on Linux only", allow_module_level=True)

pytestmark = [pytest.mark.anyio, pytest.mark.slow]
SECRET = b"a secret that every replica of the gateway has"
SHORT = Limits(execution_timeout=1, background_timeout=30)


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


class Place:
    """A server of one kind, which ends requests after a second, and its clients."""

    def __init__(self, make_pool: Callable[..., SessionPool]) -> None:
        self.make_pool = make_pool
        self.replicas: Replicas | None = None


@pytest.fixture(scope="module", params=["serve", "custom", "gateway"])
async def place(request: pytest.FixtureRequest) -> AsyncIterator[Place]:
    local = LocalSessionPool(ready_sessions=0, preload=(), cooldown=1)
    async with AsyncExitStack() as stack:
        if request.param == "serve":
            urls = [await stack.enter_async_context(serving(local, limits=SHORT))]
        else:
            options = {"kind": "custom", "cooldown": timedelta(seconds=1)}
            azure = await stack.enter_async_context(emulated(local, limits=SHORT, **options))
            urls = []
        if request.param == "gateway":
            for _ in range(2):
                environments = SignedEnvironments(SECRET)
                pool = azure.client(limits=SHORT)
                server = serving(pool, environments=environments, rest=False, limits=SHORT)
                urls.append(await stack.enter_async_context(server))
        if not urls:
            yield Place(azure.client)
            return
        replicas, url = await stack.enter_async_context(balanced(urls))

        def make_pool(**options: Any) -> SessionPool:
            return PlatformSessionPool(url, **({"key": KEY, "margin": 5} | options))

        found = Place(make_pool)
        found.replicas = replicas
        yield found


async def wait_for_text(run: BackgroundRun, text: str) -> int:
    with anyio.fail_after(30):
        while text not in run.output().text:
            assert run.status == "running", await run.wait()
            await anyio.sleep(0.02)
    return run.output().end


@pytest.mark.quick("gateway")
async def test_a_background_run_outlives_its_request_and_its_session_stays(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(held_run, "ASK_WAIT", timedelta(seconds=0.3))
    losses = iter(["answer", None, "request", None, "answer", "request"])

    def fail(body: bytes) -> str | None:
        return next(losses, None) if b"held_run" in body and b'"starts":false' in body else None

    opened = anyio.Event()

    async def gate() -> str:
        await opened.wait()
        return "open"

    tool = HostTool("gate", "Wait.", {"type": "object", "properties": {}}, gate)
    async with CodeInterpreter(place.make_pool()) as interpreter:
        session = interpreter.session("a")
        code = "import time\nx = globals().get('x', 0) + 1\nprint('begun', flush=True)\n"
        code += "time.sleep(2)\nprint('late', flush=True)\n6 * 7"
        if place.replicas is not None:
            place.replicas.fail = fail
        run = await session.start_code(code)
        assert interpreter.capabilities.background_runs is True
        second = await session.start_code("print(x)\nx + 1")
        await wait_for_text(run, "begun")
        await interpreter.session("b").run_code("1")  # a pool looks for idle sessions now
        execution = await run.wait()
        if place.replicas is not None:
            place.replicas.fail = None
        assert (execution.status, execution.text) == ("succeeded", "42"), execution
        assert run.output().text == "begun\nlate\n42\n"
        assert (await second.wait()).text == "2"

        run = await session.start_code("print(tools.gate(), flush=True)\nx", tools=[tool])
        assert await run.wait(1.5) is None
        opened.set()
        execution = await run.wait()
        assert (execution.stdout, execution.text) == ("open\n", "1")
        assert [call.name for call in execution.tool_calls] == ["gate"]


@pytest.mark.quick("serve")
async def test_a_background_run_ends_in_the_session_when_it_is_cancelled_or_late(
    place: Place,
) -> None:
    async with CodeInterpreter(place.make_pool()) as interpreter:
        session = interpreter.session("a")
        code = "import time\nprint('on', flush=True)\ntry:\n    time.sleep(60)\n"
        code += "finally:\n    ended = 1"
        run = await session.start_code(code)
        await wait_for_text(run, "on")
        assert await run.cancel() is True
        assert (await session.run_code("ended")).text == "1"
        run = await session.start_code("time.sleep(60)", timeout=1.5)
        assert (await run.wait()).status == "timed_out"
        endless = "print('on', flush=True)\nwhile True: time.sleep(0.01)"
        run = await session.start_code(endless)
        await wait_for_text(run, "on")
        assert await session.interrupt() is True
        assert (await run.wait()).state == "kept"
        run = await session.start_code(endless)
        await wait_for_text(run, "on")
        await session.delete()
        assert (await run.wait()).status == "died"
        run = await interpreter.session("b").start_code("import time\ntime.sleep(60)")
        await anyio.sleep(0.1)
    with anyio.fail_after(20):
        assert (await run.wait()).status == "failed"
        assert run.status == "cancelled"


@pytest.mark.quick("gateway")
async def test_code_goes_on_without_its_client_until_its_own_end(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = b"a secret of two processes of an application"
    with monkeypatch.context() as patched:
        patched.setattr(held_run.HeldRun, "_cancel", anyio.lowlevel.checkpoint)  # it is gone
        interpreter = CodeInterpreter(place.make_pool(), session_secret=secret)
        code = "import time\nfor n in range(5):\n    open(f'{n}', 'w')\n    time.sleep(0.3)"
        run = await interpreter.session("a").start_code(code)
        await anyio.sleep(0.5)
        await run.cancel()
        environments = getattr(interpreter._host.pool, "_environments", {})
        await interpreter.aclose()
    pool = place.make_pool()
    if environments:
        pool._environments = environments  # type: ignore[attr-defined]  # a program keeps its ids
    async with CodeInterpreter(pool, session_secret=secret) as interpreter:
        execution = await interpreter.session("a").run_code("sorted(__import__('os').listdir())")
    assert execution.text == str([str(n) for n in range(5)])


@pytest.mark.full
async def test_the_contract_holds_for_background_runs(place: Place) -> None:
    async with place.make_pool() as pool:
        await background_runs.a_background_run_outlives_its_call(pool, "check-session")


@pytest.mark.parametrize(
    "options",
    [{"kind": "platform"}, {"kind": "managed"}, {"kind": "custom", "container": "executions"}],
    ids=["platform", "managed", "custom"],
)
@pytest.mark.quick("custom")
async def test_other_pools_refuse_a_background_run_before_it_runs(options: Any) -> None:
    fake = FakeSessionPool()
    with anyio.fail_after(30):
        async with emulated(fake, **options) as azure, AsyncExitStack() as stack:
            async with CodeInterpreter(azure.client()) as interpreter:
                for _ in range(2):
                    with pytest.raises(ConfigurationError, match="the code did not run") as why:
                        await interpreter.start_code("the_code")
                    assert "a run ends with its request" in str(why.value)
            if options["kind"] == "custom":
                environments = SignedEnvironments(SECRET)
                gateway = serving(azure.client(), environments=environments, rest=False)
                url = await stack.enter_async_context(gateway)
                async with PlatformSessionPool(url, key=KEY) as pool:
                    with pytest.raises(ConfigurationError, match="a run ends with its request"):
                        await pool.check_background_runs("a-session")
    assert not [code for _, code in fake.calls if "the_code" in code]


@pytest.mark.parametrize("has_gateway", [False, True])
async def test_an_older_server_is_never_sent_a_background_run(
    monkeypatch: pytest.MonkeyPatch, *, has_gateway: bool
) -> None:
    fake = FakeSessionPool()
    older = {"cci_plugins/host_tools": {"supported": True}}
    describe = app.describe_held_runs
    monkeypatch.setattr(
        app, "describe_held_runs", lambda pool: older if pool is fake else describe(pool)
    )
    async with AsyncExitStack() as stack:
        azure = await stack.enter_async_context(emulated(fake, kind="custom"))
        client = azure.client()
        if has_gateway:
            environments = SignedEnvironments(SECRET)
            server = serving(client, environments=environments, rest=False)
            url = await stack.enter_async_context(server)
            client = PlatformSessionPool(url, key=KEY)
        async with client:
            with pytest.raises(ConfigurationError, match="a run ends with its request"):
                await client.execute_in_background(
                    "a-session", "the_code", timeout=timedelta(seconds=5)
                )
    assert fake.calls == []

"""Host tools over HTTP: `cci serve`, our container image, and a gateway with two replicas."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from typing import Any

import anyio
import httpx
import pytest

from cci_plugins import CodeInterpreter, Decision, Execution, HostTool, Limits
from cci_plugins.errors import ConfigurationError
from cci_plugins.pools.azure import held_run
from cci_plugins.pools.azure.mcp_pool import PlatformSessionPool
from cci_plugins.pools.local.pool import LocalSessionPool
from cci_plugins.pools.run_exchange import RunQuery
from cci_plugins.pools.tool_host import ToolBounds, ToolSpec
from cci_plugins.server import runs
from cci_plugins.testing import FakeSessionPool, FakeTools

from ._emulated import emulated
from ._server import KEY, serving

if sys.platform != "linux":
    pytest.skip("these backends exist on Linux only", allow_module_level=True)

pytest.importorskip("mcp")

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

ANY = {"type": "object", "properties": {"a": {}, "b": {}}}
SECRET = b"a secret that every replica of the gateway has"
LIMITS = Limits(tool_calls=300, tool_call_bytes=2 << 20, tool_total_bytes=16 << 20)


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


class Replicas:
    """A balancer that sends each request to the next replica of a gateway."""

    def __init__(self, urls: list[str]) -> None:
        self._urls = urls
        self.requests: list[str] = []
        self.fail: Any = None
        self.client = httpx.AsyncClient(timeout=60, verify=False)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        url = self._urls[len(self.requests) % len(self._urls)]
        self.requests.append(url)
        headers = {
            name.decode(): value.decode()
            for name, value in scope["headers"]
            if name.decode() not in {"host", "content-length", "accept-encoding"}
        }
        lose = self.fail(body) if self.fail is not None else None
        if lose == "request":
            return  # the server closes the connection, as no answer was sent
        target = f"{url.removesuffix('/mcp')}{scope['path']}?{scope['query_string'].decode()}"
        answer = await self.client.request(scope["method"], target, headers=headers, content=body)
        if lose == "answer":
            return
        kind = answer.headers.get("content-type", "application/json").encode()
        start = {"type": "http.response.start", "status": answer.status_code}
        await send(start | {"headers": [(b"content-type", kind)]})
        await send({"type": "http.response.body", "body": answer.content})


@asynccontextmanager
async def balanced(urls: list[str]) -> AsyncIterator[tuple[Replicas, str]]:
    from cci_plugins.server import serve_app

    replicas, ready, found = Replicas(urls), anyio.Event(), list[str]()

    def on_ready(url: str) -> None:
        found.append(url)
        ready.set()

    async def run() -> None:
        await serve_app(replicas, host="127.0.0.1", port=0, on_ready=on_ready)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run)
        await ready.wait()
        yield replicas, found[0]
        tasks.cancel_scope.cancel()
    await replicas.client.aclose()


def local_pool() -> LocalSessionPool:
    return LocalSessionPool(ready_sessions=0, preload=())


class Place:
    """A server of one kind, and its clients."""

    def __init__(self, make_pool: Any, replicas: Replicas | None) -> None:
        self.make_pool, self.replicas = make_pool, replicas


@pytest.fixture(scope="module", params=["serve", "custom", "gateway"])
async def place(request: pytest.FixtureRequest) -> AsyncIterator[Place]:
    from cci_plugins.server import SignedEnvironments

    local, replicas = local_pool(), None
    async with AsyncExitStack() as stack:
        if request.param == "serve":
            url = await stack.enter_async_context(serving(local))
            replicas, url = await stack.enter_async_context(balanced([url]))

            def make_pool() -> Any:
                return PlatformSessionPool(url, key=KEY, margin=5)

        else:
            azure = await stack.enter_async_context(emulated(local, kind="custom", max_sessions=99))
            make_pool = azure.client
        if request.param == "gateway":
            urls = []
            for _ in range(2):
                environments = SignedEnvironments(SECRET)
                server = serving(azure.client(), environments=environments, rest=False)
                urls.append(await stack.enter_async_context(server))
            replicas, url = await stack.enter_async_context(balanced(urls))

            def make_pool() -> Any:
                return PlatformSessionPool(url, key=KEY, margin=5)

        yield Place(make_pool, replicas)


@pytest.fixture(scope="module")
async def interpreter(place: Place) -> AsyncIterator[CodeInterpreter]:
    """Open an interpreter. Its one session is used by all tests of a place."""
    async with CodeInterpreter(place.make_pool(), limits=LIMITS) as interpreter:
        yield interpreter


class Host:
    """The tools of the tests, and what happened to them."""

    def __init__(self) -> None:
        self.calls: list[Any] = []
        self.cancelled = 0
        self.started = anyio.Event()
        self.release = anyio.Event()

    def add(self, a: float, b: float = 0) -> float:
        self.calls.append((a, b))
        return a + b

    async def wait(self, a: float = 0) -> float:
        self.started.set()
        try:
            await (asyncio.sleep(a) if a else self.release.wait())
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        self.calls.append(a)
        return a

    def echo(self, a: Any) -> Any:
        self.calls.append("echo")
        return a

    def fail(self) -> None:
        raise LookupError("no such row")

    def refund(self, a: float) -> str:
        return f"refunded {a}"

    def big(self, a: int) -> str:
        return "é" * a

    def tools(self) -> list[HostTool]:
        names = ("add", "wait", "echo", "fail", "big")
        tools = [HostTool(name, f"The tool {name}.", ANY, getattr(self, name)) for name in names]
        return [*tools, HostTool("refund", "Pay back.", ANY, self.refund, needs_approval=True)]


async def run(interpreter: CodeInterpreter, code: str, host: Host, **options: Any) -> Any:
    async def approve(request: Any) -> Decision:
        return Decision("allow" if request.arguments["a"] < 100 else "deny", reason="too much")

    return await interpreter.run_code(code, tools=host.tools(), approve_tool=approve, **options)


CALLS = """
import asyncio
from concurrent.futures import ThreadPoolExecutor
print('begin')
print([tools.add(a=n, b=1) for n in range(3)])
with ThreadPoolExecutor(4) as threads:
    print(sorted(threads.map(lambda n: tools.add(a=n), range(20))))
print(await asyncio.gather(*(tools.acall('wait', a=0.2 * n) for n in (1, 2))))
print(tools.echo(a={'t': 'é"\\\\\\n', 'n': [1, None, 1.5]}))
for call in (lambda: tools.fail(), lambda: tools.refund(a=500), lambda: tools.nothing()):
    try:
        call()
    except Exception as error:
        print(type(error).__name__, error)
print(tools.refund(a=5))
print(len(tools.big(a=700_000)), len(tools.echo(a='"' * 600_000)))
try:
    tools.big(a=3_000_000)
except tools.ToolLimitError as error:
    print('limit')
"""


@pytest.mark.quick("gateway")
async def test_tools_are_called_from_threads_and_tasks_through_every_server(
    interpreter: CodeInterpreter,
) -> None:
    host, seen = Host(), list[str]()
    with anyio.fail_after(100):
        execution = await run(
            interpreter, CALLS, host, on_output=lambda event: seen.append(event.text)
        )
    assert execution.error is None, execution.error.traceback
    assert execution.stdout == "".join(seen)
    lines = execution.stdout.splitlines()
    assert lines[:4] == ["begin", "[1, 2, 3]", str(list(range(20))), "[0.2, 0.4]"]
    assert lines[4] == str({"t": 'é"\\\n', "n": [1, None, 1.5]})
    assert lines[5:8] == [
        "ToolError LookupError: no such row",
        "ToolDeniedError the user did not approve the call of refund: too much",
        lines[7],
    ]
    assert lines[8:] == ["refunded 5", "700000 600000", "limit"]
    assert len(execution.tool_calls) == 32
    assert host.calls.count("echo") == 2


@pytest.mark.quick("gateway")
async def test_a_run_goes_on_when_requests_and_answers_get_lost(
    place: Place, interpreter: CodeInterpreter, monkeypatch: pytest.MonkeyPatch
) -> None:
    if place.replicas is None:
        pytest.skip("nothing lies between")
    monkeypatch.setattr(held_run, "ASK_WAIT", timedelta(seconds=0.3))
    host, kinds = Host(), ["answer", None, "request", None, None, "answer", "answer", "request"]
    losses = iter(kinds)

    def fail(body: bytes) -> str | None:
        return next(losses, None) if b"held_run" in body else None

    with anyio.fail_after(60):
        await interpreter.run_code("x = 1")
        place.replicas.fail = fail
        try:
            code = "print([tools.add(a=n, b=x) for n in range(5)]); tools.wait(a=1)"
            execution = await run(interpreter, code, host)
        finally:
            place.replicas.fail = None
    assert execution.stdout == "[1, 2, 3, 4, 5]\n"
    assert host.calls == [(0, 1), (1, 1), (2, 1), (3, 1), (4, 1), 1]
    assert next(losses, "none left") == "none left"


@pytest.mark.quick("gateway")
async def test_a_cancelled_run_and_its_tool_end_in_the_session(
    interpreter: CodeInterpreter,
) -> None:
    host = Host()
    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            code = "try:\n    tools.wait()\nfinally:\n    ended = True"
            tasks.start_soon(lambda: run(interpreter, code, host))
            await host.started.wait()
            tasks.cancel_scope.cancel()
        execution = await interpreter.run_code("ended", timeout=20)
    assert (execution.text, host.cancelled) == ("True", 1)


@pytest.mark.quick("gateway")
async def test_a_tool_takes_longer_than_a_request_and_than_the_run_may(
    interpreter: CodeInterpreter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(held_run, "ASK_WAIT", timedelta(seconds=0.2))
    host = Host()
    with anyio.fail_after(60):
        await interpreter.run_code("1")
        execution = await run(interpreter, "tools.wait(a=2.5)", host, timeout=2)
        late = await run(interpreter, "import time; time.sleep(60)", host, timeout=0.5)
    assert execution.text == "2.5"
    assert late.status == "timed_out"


@pytest.mark.quick("platform")
@pytest.mark.parametrize(
    "options",
    [{"kind": "platform"}, {"kind": "managed"}, {"kind": "custom", "container": "executions"}],
    ids=["platform", "managed", "custom"],
)
async def test_a_pool_that_answers_in_text_only_refuses_before_it_runs_code(options: Any) -> None:
    from cci_plugins.server import SignedEnvironments

    host, fake = Host(), FakeSessionPool()
    with anyio.fail_after(30):
        async with emulated(fake, **options) as azure:
            # the fake pool has no agent, which is asked for again until the patience ends
            patience = timedelta(seconds=0.1)
            pools = [azure.client(patience=patience)]
            async with AsyncExitStack() as stack:
                if options["kind"] == "custom":
                    environments = SignedEnvironments(SECRET)
                    behind = azure.client(patience=patience)
                    gateway = serving(behind, environments=environments, rest=False)
                    url = await stack.enter_async_context(gateway)
                    pools.append(PlatformSessionPool(url, key=KEY, patience=patience))
                for pool in pools:
                    async with CodeInterpreter(pool) as interpreter:
                        with pytest.raises(ConfigurationError, match="the code did not run") as why:
                            await run(interpreter, "the_code = 1", host)
                    assert "text only" in str(why.value)
                    assert "this package's image" in (why.value.hint or "")
                    if pool is pools[0]:
                        assert pool.capabilities.host_tools is False
    assert not [code for _, code in fake.calls if "the_code" in code]


FLOOD = """
import asyncio
async def call(n):
    try:
        return await tools.acall('add', a=n)
    except tools.ToolLimitError:
        return 'limit'
found = await asyncio.gather(*(call(n) for n in range(200)))
print(len([one for one in found if one != 'limit']), found.count('limit'))
"""


@pytest.mark.quick("serve")
async def test_a_flood_of_calls_is_bounded_and_the_session_stays_usable(place: Place) -> None:
    host = Host()
    with anyio.fail_after(60):
        limits = Limits(tool_calls=40, tool_calls_at_once=4)
        async with CodeInterpreter(place.make_pool(), limits=limits) as interpreter:
            execution = await run(interpreter, FLOOD, host)
            again = await run(interpreter, "tools.add(a=1, b=2)", host)
    assert (execution.stdout, again.text) == ("40 160\n", "3")


def build_query(environment: str, name: str, code: str = "", **query: Any) -> dict[str, Any]:
    arguments = {"environmentId": environment, "pythonCode": code}
    meta = {"cci_plugins/run": name, "cci_plugins/held_run": query}
    params = {"name": "runPythonCodeInRemoteEnvironment", "arguments": arguments, "_meta": meta}
    return {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}


async def test_a_run_by_name_outlives_its_connection_and_ends_when_nobody_asks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(runs, "PATIENCE", timedelta(seconds=2))
    begun, ended = list[str](), anyio.Event()

    async def program(code: str, tools: FakeTools) -> Execution:
        begun.append(code)
        try:
            return Execution(stdout=str(await tools.acall("add", a=1)) if tools.names else "")
        finally:
            ended.set()

    pool = FakeSessionPool(program)
    start = {
        "starts": True,
        "tools": [RunQuery(tools=(ToolSpec("add"),)).dump()["tools"][0]],
        "bounds": RunQuery(bounds=ToolBounds.from_limits(LIMITS)).dump()["bounds"],
    }
    headers = {"x-ms-apikey": KEY}
    with anyio.fail_after(30):
        async with serving(pool) as url, httpx.AsyncClient(headers=headers, timeout=10) as client:

            async def ask(name: str, code: str = "", **query: Any) -> Any:
                body = build_query("environment-1", name, code, **query)
                return (await client.post(url, json=body)).json()["result"]

            async def report(name: str, code: str = "", **query: Any) -> Any:
                return (await ask(name, code, **query))["_meta"]["cci_plugins/held_run"]

            for _ in range(2):
                (call,) = (await report("first", "one", wait=5, **start))["calls"]
            assert call == {"number": 1, "name": "add", "arguments": '{"a": 1}'}
            body = build_query("environment-2", "first")
            other = (await client.post(url, json=body)).json()["result"]["_meta"]
            assert other["cci_plugins/held_run"]["state"] == "unknown"
            answers = [{"call": 7, "text": "0"}, {"call": 1, "text": "5"}, {"call": 1, "text": "6"}]
            result = await ask("first", wait=5, known=[1], answers=answers)
            assert result["_meta"]["cci_plugins/execution"]["stdout"] == "5"
            assert (await report("first"))["state"] == "ended"
            ended = anyio.Event()
            await report("second", "two", wait=5, **start)
            await ended.wait()
            failed = (await ask("second"))["_meta"]["cci_plugins/error"]["message"]
            assert "nobody asked for it" in failed
            assert (await report("third", cancels=True))["state"] == "unknown"
            assert "begun before" in (await ask("third", "three", **start))["content"][0]["text"]
            for odd in ({"wait": "long"}, {"known": "all"}, {"answers": [1]}, {"tools": [{}]}):
                assert "InvalidArguments" in (await ask("odd", **odd))["content"][0]["text"]
    assert begun == ["one", "two"]


async def test_an_asynchronous_execution_is_held_by_its_name_and_runs_once() -> None:
    pool, path = FakeSessionPool(Execution(stdout="4")), "/executions"
    query = {"identifier": "environment-1", "api-version": "2025-10-02-preview"}
    body = {"code": "four", "executionType": "Asynchronous"}
    headers = {"authorization": f"Bearer {KEY}", "operation-id": "fourth"}
    with anyio.fail_after(30):
        async with serving(pool) as url, httpx.AsyncClient(headers=headers) as client:
            base = url.removesuffix("/mcp")
            for _ in range(2):
                answer = await client.post(f"{base}{path}", params=query, json=body)
                assert answer.status_code == 202, answer.text
            while (await client.get(f"{base}{path}/fourth", params=query)).json()["status"] != (
                "Succeeded"
            ):
                await anyio.sleep(0.01)
            held = build_query("environment-1", "fourth")
            key = {"x-ms-apikey": KEY}
            result = (await client.post(url, json=held, headers=key)).json()["result"]
            assert result["_meta"]["cci_plugins/execution"]["stdout"] == "4"
            other = query | {"identifier": "environment-2"}
            assert (await client.get(f"{base}{path}/fourth", params=other)).status_code == 404
    assert [code for _, code in pool.calls] == ["four"]

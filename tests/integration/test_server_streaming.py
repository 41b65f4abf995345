"""Calls that stream: progress while the code runs, and then the reply."""

import json
from contextlib import asynccontextmanager
from datetime import timedelta

import anyio
import httpx
import pytest

from cci_plugins.mcp_client.client import McpClient
from cci_plugins.mcp_client.executions import META_KEY, load_execution
from cci_plugins.mcp_client.progress import OUTPUT_KEY, StreamedOutput, load_output
from cci_plugins.models import Execution, OutputEvent, Result
from cci_plugins.testing import FakeSessionPool

from ._server import KEY, running_server, serving

pytest.importorskip("mcp")
pytest.importorskip("uvicorn")

pytestmark = pytest.mark.anyio

RUN = "runPythonCodeInRemoteEnvironment"
BOTH = "application/json, text/event-stream"
WHERE = {"environmentId": "session-1", "pythonCode": "x"}
HELLO = Execution(stdout="hi\n", results=(Result({"text/plain": "42"}, is_main=True),))
MINUTE = timedelta(minutes=1)


class StepPool(FakeSessionPool):
    """Calls the output handler for the test, until the test ends the run."""

    def __init__(self):
        super().__init__()
        self.started, self.ended, self.cancelled = (anyio.Event() for _ in range(3))
        self.emit = None

    async def execute(self, session_id, code, *, timeout, on_output=None, instance=None):
        self.emit = on_output
        self.started.set()
        try:
            await self.ended.wait()
        except anyio.get_cancelled_exc_class():
            self.cancelled.set()
            raise
        return HELLO


def body(token: object = "t-1", name: str = RUN, arguments: dict = WHERE) -> dict:
    params = {"name": name, "arguments": arguments}
    params |= {} if token is None else {"_meta": {"progressToken": token}}
    return {"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": params}


def client(url: str, accept: str = BOTH) -> httpx.AsyncClient:
    headers = {"x-ms-apikey": KEY, "accept": accept}
    return httpx.AsyncClient(base_url=url, headers=headers, timeout=30)


async def messages(response: httpx.Response):
    async for line in response.aiter_lines():
        if line.startswith("data:") and line[5:].strip():
            yield json.loads(line[5:])


@asynccontextmanager
async def streaming(url: str, message: dict):
    async with client(url) as http, http.stream("POST", "", json=message) as response:
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        yield messages(response)


@pytest.mark.parametrize("token", ["t-1", 7])
async def test_output_comes_while_the_code_runs_and_then_the_reply(token):
    pool = StepPool()
    with anyio.fail_after(30):
        async with serving(pool) as url, streaming(url, body(token)) as received:
            await pool.started.wait()
            pool.emit(OutputEvent("stdout", "one\n"))
            first = await anext(received)
            pool.emit(OutputEvent("stderr", "two\n"))
            second = await anext(received)
            pool.ended.set()
            reply = await anext(received)
            assert [message async for message in received] == []
    assert first == {
        "jsonrpc": "2.0",
        "method": "notifications/progress",
        "params": {
            "progressToken": token,
            "progress": 4,
            "message": "one",
            "_meta": {OUTPUT_KEY: [{"stream": "stdout", "text": "one\n"}]},
        },
    }
    assert load_output(second["params"]) == [OutputEvent("stderr", "two\n")]
    assert second["params"]["progress"] == 8
    assert reply["id"] == 7
    assert reply["result"]["structuredContent"]["executionResult"] == 42


async def test_the_reply_is_the_same_as_without_progress():
    with anyio.fail_after(30):
        async with serving(FakeSessionPool(HELLO)) as url:
            async with client(url) as http:
                plain = (await http.post("", json=body(None))).json()
            async with streaming(url, body()) as received:
                assert [message async for message in received][-1] == plain


@pytest.mark.parametrize(
    ("accept", "message"),
    [
        (BOTH, body(None)),
        ("application/json", body()),
        ("*/*", body()),
        ("", body()),
        (BOTH, body(token=True)),
        (BOTH, body(None, arguments=WHERE | {"pythonCode": '"progressToken"'})),
        (BOTH, {"jsonrpc": "2.0", "id": 7, "method": "tools/list"}),
    ],
)
async def test_every_other_request_gets_one_json_body(accept, message):
    with anyio.fail_after(30):
        async with serving(FakeSessionPool(HELLO)) as url, client(url, accept) as http:
            response = await http.post("", json=message)
    assert response.headers["content-type"].startswith("application/json")
    assert response.json()["id"] == 7


async def test_a_client_that_closes_a_stream_stops_its_run():
    pool = StepPool()
    with anyio.fail_after(30):
        async with serving(pool) as url:
            async with streaming(url, body()) as received:
                await pool.started.wait()
                pool.emit(OutputEvent("stdout", "one\n"))
                await anext(received)
            await pool.cancelled.wait()


async def test_a_silent_run_sends_heartbeats(monkeypatch):
    from cci_plugins.server.mcp import progress

    monkeypatch.setattr(progress, "HEARTBEAT_SECONDS", 0.05)
    pool = StepPool()
    with anyio.fail_after(30):
        async with serving(pool) as url, streaming(url, body()) as received:
            beats = [(await anext(received))["params"] for _ in range(2)]
            pool.ended.set()
            *_, reply = [message async for message in received]
    assert beats == [
        {"progressToken": "t-1", "progress": 1},
        {"progressToken": "t-1", "progress": 2},
    ]
    assert reply["id"] == 7


async def test_stopping_ends_a_stream(monkeypatch):
    monkeypatch.setattr("cci_plugins.server.listening._GRACE_SECONDS", 1)
    pool = StepPool()
    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            async with serving(pool) as url:

                async def hang():
                    try:
                        async with streaming(url, body()) as received:
                            async for _ in received:
                                pass
                    except httpx.HTTPError:
                        pass

                tasks.start_soon(hang)
                await pool.started.wait()
        await pool.cancelled.wait()


async def test_an_unknown_tool_is_an_error_on_the_stream_too():
    with anyio.fail_after(30):
        async with serving(FakeSessionPool()) as url, client(url) as http:
            response = await http.post("", json=body(name="rm"))
    (line,) = (line for line in response.text.splitlines() if line.startswith(("data:", "{")))
    assert json.loads(line.removeprefix("data:"))["error"]["code"] == -32602


def mcp(url: str) -> McpClient:
    return McpClient(url, headers={"x-ms-apikey": KEY})


async def test_our_client_reports_progress_before_the_reply():
    pool = StepPool()
    events: list[OutputEvent] = []
    streamed = StreamedOutput(events.append)

    def on_progress(params):
        streamed(params)
        pool.ended.set()

    with anyio.fail_after(30):
        async with serving(pool) as url, anyio.create_task_group() as tasks:
            server = mcp(url)

            async def call():
                answer = await server.call_tool(RUN, WHERE, timeout=MINUTE, on_progress=on_progress)
                streamed.finish(load_execution(answer.meta[META_KEY], "session-1"))

            tasks.start_soon(call)
            await pool.started.wait()
            pool.emit(OutputEvent("stdout", "hi"))
        await server.aclose()
    assert events == [
        OutputEvent("stdout", "hi"),
        OutputEvent("stdout", "\n"),
        OutputEvent("result", result=HELLO.results[0]),
    ]


async def test_a_handler_that_fails_does_not_fail_the_call():
    calls = []

    def fail(params):
        calls.append(params)
        raise RuntimeError("the host's own fault")

    with anyio.fail_after(30):
        async with serving(FakeSessionPool(HELLO)) as url:
            server = mcp(url)
            answer = await server.call_tool(RUN, WHERE, timeout=MINUTE, on_progress=fail)
            await server.aclose()
    assert answer.structured["stdout"] == "hi\n"
    assert len(calls) == 1


@pytest.fixture(scope="module")
def kernels():
    from cci_plugins.pools.local.pool import LocalSessionPool

    with running_server(LocalSessionPool) as url:
        yield url


@pytest.mark.slow
async def test_a_real_kernel_streams_every_character_in_order(kernels):
    code = (
        "import sys, time\n"
        "for n in range(30):\n"
        "    print(n, end=' ', flush=True)\n"
        "    time.sleep(0.02)\n"
        "print('\N{SNOWMAN}', file=sys.stderr)\n"
        "6 * 7"
    )
    events: list[OutputEvent] = []
    counts: list[int] = []
    streamed = StreamedOutput(events.append)

    def on_progress(params):
        counts.append(params["progress"])
        streamed(params)

    with anyio.fail_after(90):
        server = mcp(kernels)
        where = {"environmentId": "streams-1", "pythonCode": code}
        answer = await server.call_tool(RUN, where, timeout=MINUTE, on_progress=on_progress)
        await server.aclose()
    execution = load_execution(answer.meta[META_KEY], "streams-1")
    live = "".join(event.text for event in events if event.stream == "stdout")
    assert live == execution.stdout == "".join(f"{n} " for n in range(30))
    assert "".join(event.text for event in events if event.stream == "stderr") == "\N{SNOWMAN}\n"
    assert len(counts) > 2
    assert counts == sorted(set(counts))
    before = len(events)
    streamed.finish(execution)
    assert events[before:] == [OutputEvent("result", result=execution.results[-1])]

"""Whatever answers a run that took place, the code runs once, on every kind of pool."""

import json
from datetime import timedelta

import anyio
import pytest
from starlette.responses import JSONResponse

from cci_plugins import CodeInterpreter, Execution
from cci_plugins.azure.credentials import FetchedKey
from cci_plugins.errors import CodeInterpreterError, PoolError
from cci_plugins.server.requests import read_body, replay_body

from ._emulated import KEY, emulated

pytest.importorskip("mcp")

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

MARK = "seen = globals().get('seen', 0) + 1"
LIES = {
    "429": (429, {"code": "TooManyRequests", "message": "Slow down."}),
    "full": (429, {"code": "SessionsCountExceedsLimit", "message": "full"}),
    "503": (503, {"error": {"code": "SessionPoolUnavailable", "message": "not started"}}),
    "gone": (404, {"error": {"code": "NotFound", "message": "Session not found."}}),
    "404": (404, {}),
    "401": (401, {}),
    "version": (400, {"error": {"code": "InvalidApiVersion", "message": "2025-02-02-preview"}}),
}
KINDS = [
    {"kind": "platform"},
    {"kind": "platform", "unknown_environments": "error"},
    {"kind": "managed"},
    {"kind": "custom"},
    {"kind": "custom", "container": "executions"},
]


class Liar:
    """Proxy that lets each run take place, and replaces the answer of the first try by a lie."""

    def __init__(self, app):
        self.app, self.lies, self.runs = app, [], 0
        self.last_lie = self.is_shut = None  # answers a run, and all that comes after it

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http" or scope["path"].startswith("/files"):
            await self.app(scope, receive, send)
            return
        body = await read_body(receive, 10**8) or b""
        if self.is_shut:
            await JSONResponse(self.last_lie[1], self.last_lie[0])(scope, receive, send)
            return
        is_run = b"globals().get" in body or b"Z2xvYmFscygpLmdldC" in body
        self.runs += is_run
        if is_run and self.last_lie:
            self.is_shut, self.lies = True, [self.last_lie]
        if not (is_run and self.lies):
            await self.app(scope, replay_body(body, receive), send)
            return

        async def drop(_):
            """Throw the true answer away."""

        status, value = self.lies.pop()
        await self.app(scope, replay_body(body, receive), drop)
        await JSONResponse(value, status)(scope, receive, send)


def local_pool():
    from cci_plugins.pools.local.pool import LocalSessionPool

    return LocalSessionPool(preload=(), ready_sessions=0)


@pytest.mark.quick("platform", "custom")
@pytest.mark.parametrize("options", KINDS, ids=lambda options: "-".join(options.values()))
async def test_a_run_that_took_place_is_not_repeated_after_any_answer(options):
    liars = []

    def around(app):
        liars.append(Liar(app))
        return liars[0]

    async def renew():
        return KEY

    with anyio.fail_after(110):
        async with emulated(local_pool(), around, max_sessions=99, **options) as azure:
            client = azure.client(patience=timedelta(seconds=3))
            client._retry._auth = FetchedKey(renew)
            async with CodeInterpreter(client) as interpreter:
                session = interpreter.session("a")
                await session.run_code("1")
                for number, name in enumerate(LIES, start=1):
                    liars[0].lies = [LIES[name]]
                    try:
                        outcome = await session.run_code(f"{MARK}\nseen")
                    except CodeInterpreterError as error:
                        outcome = error
                    assert liars[0].lies == [], "the lie was told"
                    if isinstance(outcome, Execution):
                        assert (outcome.text, outcome.state) == (str(number), "kept"), name
                    else:
                        assert not outcome.retryable, (name, outcome)
                        if name != "401":
                            assert "may have run" in str(outcome), (name, outcome)
                    after = await session.run_code("seen")
                    assert (after.text, after.state) == (str(number), "kept"), (name, outcome)


@pytest.mark.quick("platform", "custom", "custom-executions")
@pytest.mark.parametrize("options", KINDS, ids=lambda options: "-".join(options.values()))
async def test_a_first_run_may_have_run_where_everything_is_refused_from_then_on(options):
    liars = []

    def around(app):
        liars.append(Liar(app))
        return liars[0]

    with anyio.fail_after(110):
        async with emulated(local_pool(), around, max_sessions=99, **options) as azure:
            client = azure.client(patience=timedelta(seconds=0.3))
            async with CodeInterpreter(client) as interpreter:
                await interpreter.session("a").run_code("1")
                for name in ("429", "full", "503"):
                    liars[0].last_lie = LIES[name]
                    session = interpreter.session(name)
                    with pytest.raises(PoolError, match="may have run") as raised:
                        await session.run_code(f"{MARK}\nseen")
                    assert not raised.value.retryable, (name, raised.value)
                    liars[0].last_lie = liars[0].is_shut = None
                    after = await session.run_code("seen")
                    assert (after.text, after.error) == ("1", None), name


async def test_words_of_a_failed_run_do_not_repeat_it():
    """The pool reports the failure of a run in words that a refused key has too."""
    calls = []

    inner = []

    def around(app):
        inner.append(app)
        return answer

    async def answer(scope, receive, send):
        if scope["type"] != "http":
            await inner[0](scope, receive, send)
            return
        message = json.loads(await read_body(receive, 10**8) or b"{}")
        result = {"protocolVersion": "2025-03-26", "serverInfo": {"name": "x", "version": "1"}}
        if message.get("method") == "tools/list":
            result = {"tools": [{"name": "runPythonCodeInRemoteEnvironment"}]}
        if message.get("method") == "tools/call":
            calls.append(message["params"]["arguments"]["pythonCode"])
            text = "PermissionError: [WinError 5] Access denied"
            result = {"isError": True, "content": [{"type": "text", "text": text}]}
        reply = {"jsonrpc": "2.0", "id": message.get("id"), "result": result}
        await JSONResponse(reply)(scope, receive, send)

    from cci_plugins.testing import FakeSessionPool

    async def renew():
        return f"key-{len(calls)}"

    with anyio.fail_after(60):
        async with emulated(FakeSessionPool(), around) as azure:
            client = azure.client(patience=timedelta(seconds=1))
            client._retry._auth = FetchedKey(renew)
            async with client:
                with pytest.raises(CodeInterpreterError, match="may have run"):
                    await client.execute(
                        "session-1", "2 + 2", timeout=timedelta(seconds=5), instance="i"
                    )
    assert sum("2 + 2" in code for code in calls) == 1

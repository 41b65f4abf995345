"""Plain tool calls, which the server answers without the SDK: as the SDK would answer them."""

import json
from dataclasses import replace
from importlib.metadata import version
from typing import Any

import anyio
import httpx
import pytest

from cci_plugins.models import ErrorInfo, Execution, FileInfo, Result
from cci_plugins.testing import FakeSessionPool

from ._server import KEY, serving

pytest.importorskip("mcp")
pytest.importorskip("uvicorn")

from cci_plugins.server.mcp import compat
from cci_plugins.server.mcp.sdk import McpEndpoint

pytestmark = pytest.mark.anyio

PYTHON = "runPythonCodeInRemoteEnvironment"
PNG = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJg"
    "gg=="
)
EXECUTIONS = {
    "1+1": Execution(results=(Result({"text/plain": "2"}, is_main=True),)),
    "text": Execution(stdout="größe \ud800 \u2028\n", stderr="sig=secretsecret", notes=("a note",)),
    "json": Execution(results=(Result({"application/json": {"a": [1, None, 0.5]}}, is_main=True),)),
    "none": Execution(results=(Result({"text/plain": "None"}, is_main=True),)),
    "image": Execution(results=(Result({"image/png": PNG, "text/plain": "<png>"}, is_main=True),)),
    "error": Execution(error=ErrorInfo("ValueError", "no", "Traceback\nValueError: no")),
    "files": Execution(files=(FileInfo("a b.csv", 3), FileInfo("größe.txt", 1))),
    "large": Execution(stdout="x" * 700_000),
}
ACCEPT = "application/json, text/event-stream"


class ScriptedPool(FakeSessionPool):
    async def execute(self, session_id, code, *, timeout, on_output=None, instance=None):
        return replace(EXECUTIONS[code], session_id=session_id)


def call(name: str, arguments: Any, *, request_id: Any = 1, **params: Any) -> dict[str, Any]:
    params = {"name": name, "arguments": arguments} | params
    return {"jsonrpc": "2.0", "id": request_id, "method": "tools/call", "params": params}


def run(code: str, **options: Any) -> dict[str, Any]:
    return call(PYTHON, {"environmentId": "environment-1", "pythonCode": code}, **options)


PLAIN = [
    *map(run, EXECUTIONS),
    *(run(code, _meta={"cci_plugins/content": False}) for code in ("1+1", "text", "large")),
    run("1+1", request_id="a \u2028 id"),
    run("1+1", _meta={"other": {"a": None}}),
    run("1+1", _meta=None),
    call(PYTHON, {"environmentId": "environment-1"}),
    call(PYTHON, {"environmentId": "x", "pythonCode": "1+1"}),
    call(PYTHON, None),
    call("runShellCommandInRemoteEnvironment", {"environmentId": "environment-1"}),
]
NOT_PLAIN: list[Any] = [
    call("unknown", {}),
    call(PYTHON, []),
    call(5, {}),
    run("1+1", request_id=None),
    run("1+1", request_id=1.5),
    run("1+1", request_id=True),
    run("1+1", _meta=[]),
    run("1+1", _meta={"progressToken": 0.5}),
    run("1+1", more=1),
    run("1+1") | {"jsonrpc": "1.0"},
    run("1+1") | {"more": 1},
    {"jsonrpc": "2.0", "method": "tools/call", "params": {"name": PYTHON}},
    {"jsonrpc": "2.0", "id": 1, "method": "tools/call"},
    {"jsonrpc": "2.0", "id": 1, "method": "ping", "params": {"a": "tools/call"}},
    [run("1+1")],
]
REFUSED = [{"accept": "text/html"}, {"content-type": "text/plain"}, {"mcp-protocol-version": "0"}]


def simplify(value: Any) -> Any:
    """Return an answer without what differs from run to run."""
    if isinstance(value, dict):
        return {k: simplify(v) for k, v in value.items() if k != "executionTimeInMilliseconds"}
    if isinstance(value, list):
        return [simplify(item) for item in value]
    if isinstance(value, str) and value.startswith("{"):
        return simplify(json.loads(value))
    return value


async def ask_all(monkeypatch: pytest.MonkeyPatch, *, directly: bool) -> tuple[list[Any], int]:
    """Return the answer to each request, and how many of them were direct."""
    count = 0
    answer = McpEndpoint.answer_directly

    async def answer_directly(self, *arguments) -> bool:
        nonlocal count
        is_answered = await answer(self, *arguments)
        count += is_answered
        return is_answered

    monkeypatch.setattr(McpEndpoint, "answer_directly", answer_directly)
    if not directly:
        monkeypatch.setattr(compat, "parse_direct_call", lambda *_: None)
    answers = []
    async with (
        serving(ScriptedPool()) as url,
        httpx.AsyncClient(headers={"x-ms-apikey": KEY, "accept": ACCEPT}, timeout=30) as http,
    ):
        requests = [(body, {}) for body in (*PLAIN, *NOT_PLAIN)]
        with_token = run("1+1", _meta={"progressToken": 3})
        requests += [(PLAIN[0], {"accept": "*/*"}), (with_token, {"accept": "application/json"})]
        requests += [(PLAIN[0], headers) for headers in REFUSED]
        for body, headers in requests:
            sent = json.dumps(body).encode()
            kinds = {"content-type": "application/json"} | headers
            response = await http.post(url, content=sent, headers=kinds)
            kind = response.headers.get("content-type")
            answers.append((response.status_code, kind, simplify(response.text)))
    return answers, count


async def test_a_plain_call_is_answered_as_the_sdk_would():
    with anyio.fail_after(90):
        with pytest.MonkeyPatch.context() as patch:
            theirs, none = await ask_all(patch, directly=False)
        with pytest.MonkeyPatch.context() as patch:
            ours, count = await ask_all(patch, directly=True)
    assert (none, count) == (0, len(PLAIN) + 2)
    for ours_one, theirs_one in zip(ours, theirs, strict=True):
        assert ours_one == theirs_one


async def test_where_the_sdk_traces_requests_it_answers_them(monkeypatch: pytest.MonkeyPatch):
    from cci_plugins.server.mcp.sdk import admits_direct_calls

    assert admits_direct_calls(None)
    assert admits_direct_calls("2025-06-18")
    assert not admits_direct_calls("2099-01-01")
    monkeypatch.setattr("opentelemetry.trace.get_tracer_provider", object)
    assert admits_direct_calls(None) is version("mcp").startswith("1.")


async def test_a_fault_of_the_server_is_answered_without_its_text(monkeypatch: pytest.MonkeyPatch):
    async def fail(*_: object) -> None:
        raise RuntimeError("internals")

    monkeypatch.setattr("cci_plugins.server.mcp.tools.PlatformTools.call", fail)
    with anyio.fail_after(30):
        async with (
            serving(ScriptedPool()) as url,
            httpx.AsyncClient(headers={"x-ms-apikey": KEY}, timeout=30) as http,
        ):
            answer = (await http.post(url, json=run("1+1"))).json()
    assert answer["error"]["code"] == -32603
    assert "internals" not in answer["error"]["message"]

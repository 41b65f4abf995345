"""What a raising tool or resource tells the client: never the text of an unknown exception."""

from __future__ import annotations

import json
from typing import Any

import anyio
import httpx
import pytest

from cci_plugins.errors import PoolError
from cci_plugins.testing import FakeSessionPool

from ._server import KEY, serving

pytest.importorskip("mcp")
pytest.importorskip("uvicorn")

pytestmark = pytest.mark.anyio
PYTHON = "runPythonCodeInRemoteEnvironment"
INTERNALS = "internals of /srv/app with AccountKey=c2VjcmV0c2VjcmV0c2VjcmV0"


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


def build_call(name: str, arguments: dict[str, Any], *, streams: bool) -> dict[str, Any]:
    params: dict[str, Any] = {"name": name, "arguments": arguments}
    if streams:
        params["_meta"] = {"progressToken": "a-token"}
    return {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}


async def ask(http: httpx.AsyncClient, url: str, body: dict[str, Any], **headers: str) -> Any:
    accept = {"accept": "application/json, text/event-stream"}
    response = await http.post(url, json=body, headers=accept | headers)
    text = response.text
    if text.startswith("{"):
        return json.loads(text)
    lines = [line for line in text.splitlines() if line.startswith("data:")]
    return json.loads(lines[-1].removeprefix("data:"))


@pytest.mark.parametrize("path", ["direct", "sdk"])
async def test_a_fault_of_the_server_is_one_error_on_every_path(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    faults: list[Exception] = [RuntimeError(INTERNALS), PoolError("failed, AccountKey=c2VjcmV0")]

    async def fail(*_: object) -> None:
        raise faults[0]

    monkeypatch.setattr("cci_plugins.server.mcp.tools.PlatformTools.call", fail)
    body = build_call(
        PYTHON, {"environmentId": "environment-1", "pythonCode": "1"}, streams=path == "sdk"
    )
    with anyio.fail_after(30):
        async with (
            serving(FakeSessionPool()) as url,
            httpx.AsyncClient(headers={"x-ms-apikey": KEY}, timeout=30) as http,
        ):
            answers = [await ask(http, url, body)]
            faults.pop(0)
            answers.append(await ask(http, url, body))
    assert [answer["error"]["code"] for answer in answers] == [-32603, -32603]
    assert not any("internals" in str(answer) or "c2VjcmV0" in str(answer) for answer in answers)
    assert answers[1]["error"]["message"].startswith("failed")


@pytest.mark.parametrize("path", ["direct", "sdk"])
async def test_a_tool_that_raises_is_a_failed_call_which_the_model_can_read(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object, **__: object) -> None:
        raise RuntimeError(INTERNALS)

    monkeypatch.setattr("cci_plugins.server.mcp.sessions.McpSessions.get_current_session", fail)
    with anyio.fail_after(30):
        async with (
            serving(FakeSessionPool(), execute_code=True) as url,
            httpx.AsyncClient(headers={"x-ms-apikey": KEY}, timeout=30) as http,
        ):
            body = build_call("execute_code", {"code": "1"}, streams=path == "sdk")
            answer = await ask(http, url, body)
    assert answer["result"]["isError"] is True, answer
    assert answer["result"]["content"][0]["text"]
    assert "internals" not in str(answer)


async def test_a_resource_that_raises_does_not_send_its_text(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def fail(*_: object, **__: object) -> None:
        raise OSError(INTERNALS)

    monkeypatch.setattr("cci_plugins.server.mcp.resources.FileResources.list_resources", fail)
    body = {"jsonrpc": "2.0", "id": 1, "method": "resources/list", "params": {}}
    with anyio.fail_after(30):
        async with (
            serving(FakeSessionPool(), execute_code=True) as url,
            httpx.AsyncClient(headers={"x-ms-apikey": KEY}, timeout=30) as http,
        ):
            answer = await ask(http, url, body)
    assert answer["error"]["code"] == -32603, answer
    assert "internals" not in str(answer)

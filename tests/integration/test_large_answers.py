"""Large answers are built and encoded in a worker thread, so that no other call waits."""

import asyncio
import json

import httpx
import pytest

from cci_plugins.models import Execution, Result
from cci_plugins.server import answers
from cci_plugins.testing import FakeSessionPool

from ._server import KEY, serving

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
pytest.importorskip("mcp")

pytestmark = pytest.mark.anyio

LARGE = Execution(
    stdout="x" * 200_000,
    results=(Result({"application/json": [0] * 100_000}, is_main=True),),
)
CALL = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "tools/call",
    "params": {
        "name": "runPythonCodeInRemoteEnvironment",
        "arguments": {"environmentId": "session-1", "pythonCode": "1"},
    },
}


@pytest.mark.parametrize(
    ("path", "version", "body"),
    [
        ("executions", "2025-10-02-preview", {"code": "1"}),
        ("code/execute", "2024-02-02-preview", {"properties": {"code": "1"}}),
        ("mcp", "2025-10-02-preview", CALL),
    ],
)
async def test_a_large_answer_is_encoded_off_the_event_loop(path, version, body, monkeypatch):
    encoders = []
    clip = answers.clip

    def note(text, limit):
        encoders.append(asyncio._get_running_loop())
        return clip(text, limit)

    monkeypatch.setattr(answers, "clip", note)
    async with serving(FakeSessionPool(LARGE)) as url, httpx.AsyncClient(timeout=30) as http:
        base = url.removesuffix("/mcp")
        response = await http.post(
            f"{base}/{path}",
            json=body,
            params={"identifier": "session-1", "api-version": version},
            headers={"authorization": f"Bearer {KEY}", "x-ms-apikey": KEY},
        )
    assert response.status_code == 200, response.text
    assert json.dumps([0] * 100)[1:-1] in json.dumps(response.json())
    assert encoders
    assert set(encoders) == {None}

"""Requests that are not quite JSON-RPC, or not quite Unicode: each of them is answered."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from cci_plugins.models import Execution
from cci_plugins.testing import FakeSessionPool

from ._server import KEY, running_server

pytest.importorskip("mcp")
pytest.importorskip("uvicorn")

HERE = Path(__file__).parent
INITIALIZE = (
    b'{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-06-18",'
    b'"capabilities":{},"clientInfo":{"name":"t","version":"0"}}}'
)
RUN = b"runPythonCodeInRemoteEnvironment"
CALL = (
    b'{"jsonrpc":"2.0","id":"call","method":"tools/call","params":{"name":"%s",'
    b'"arguments":{"environmentId":"environment-1","pythonCode":"print(len(\'%s\'))"}}}'
)
SERVER = """
import anyio
from cci_plugins.models import Execution
from cci_plugins.server import serve_stdio
from cci_plugins.testing import FakeSessionPool

class EchoPool(FakeSessionPool):
    async def execute(self, session_id, code, **_):
        return Execution(stdout=f"{len(code)} {code[-4:-3]!a}")

anyio.run(serve_stdio, EchoPool())
"""


class EchoPool(FakeSessionPool):
    async def execute(self, session_id, code, **_):
        return Execution(stdout=f"{len(code)} {code[-4:-3]!a}")


class Stdio:
    """The server on standard input and output."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    def ask(self, line: bytes) -> dict:
        self._process.stdin.write(line + b"\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())


@pytest.fixture(scope="module")
def stdio() -> Iterator[Stdio]:
    environment = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
    with subprocess.Popen(
        [sys.executable, "-c", SERVER],
        cwd=HERE.parents[1],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        server = Stdio(process)
        server.ask(INITIALIZE)
        process.stdin.write(b'{"jsonrpc":"2.0","method":"notifications/initialized"}\n\n')
        yield server
        process.stdin.close()
        assert process.wait(timeout=30) == 0


@pytest.fixture(scope="module")
def http() -> Iterator[httpx.Client]:
    with (
        running_server(EchoPool) as url,
        httpx.Client(base_url=url, headers={"x-ms-apikey": KEY}, timeout=30) as client,
    ):
        yield client


MALFORMED = {
    "text": b"hello",
    "cut": b'{"jsonrpc":"2.0","id":1,"method":"ping"',
    "list": b'[{"jsonrpc":"2.0","id":1,"method":"ping"}]',
    "number": b"7",
    "deep": b"[" * 100_000,
    "large number": b"1" * 10_000,
    "no version": b'{"id":1,"method":"ping"}',
    "null id": b'{"jsonrpc":"2.0","id":null,"method":"ping"}',
    "boolean id": b'{"jsonrpc":"2.0","id":true,"method":"ping"}',
    "surrogate in the id": b'{"jsonrpc":"2.0","id":"\\ud800","method":"ping"}',
    "surrogate in the method": b'{"jsonrpc":"2.0","id":1,"method":"\\udfff"}',
    "params that are a list": b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":[]}',
}


@pytest.mark.parametrize("line", MALFORMED.values(), ids=list(MALFORMED))
def test_a_malformed_message_over_stdio_is_answered_by_an_error(stdio, line):
    answer = stdio.ask(line)
    assert answer["error"]["code"] in {-32700, -32600, -32601, -32602}
    assert answer["id"] in {None, 1, "\ud800"}
    assert stdio.ask(b'{"jsonrpc":"2.0","id":2,"method":"ping"}')["result"] is not None


@pytest.mark.parametrize("line", MALFORMED.values(), ids=list(MALFORMED))
def test_a_malformed_message_over_http_is_answered(http, line):
    response = http.post("", content=line)
    assert response.status_code < 500, response.text


@pytest.mark.parametrize(
    "text", [b"\\ud800", b"\\uDFFF", b"a\\udc80b", b"\\ud83d\\ude00", b"\\u0000", b"\xc3\xa9"]
)
def test_code_with_any_character_runs_over_stdio_and_http_alike(stdio, http, text):
    over_stdio = stdio.ask(CALL % (RUN, text))
    over_http = http.post("", content=CALL % (RUN, text))
    assert over_stdio["id"] == over_http.json()["id"] == "call"
    ran = over_http.json()["result"]
    assert not ran["isError"]
    assert over_stdio["result"]["content"] == ran["content"]


def test_a_surrogate_in_the_name_of_a_tool_is_answered_with_an_error(stdio, http):
    for answer in (
        stdio.ask(CALL % (b"\\ud800", b"")),
        http.post("", content=CALL % (b"\\ud800", b"")).json(),
    ):
        assert answer["error"]["code"] in {-32600, -32602}, answer

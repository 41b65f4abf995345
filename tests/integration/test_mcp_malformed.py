"""Requests that are not quite JSON-RPC, or not quite Unicode: each of them is answered."""

import gzip
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import httpx
import pytest

from cci_plugins.models import Execution
from cci_plugins.testing import FakeSessionPool

from ._server import KEY, running_server

pytest.importorskip("mcp")
pytest.importorskip("uvicorn")

MAJOR = int(version("mcp").partition(".")[0])
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
CANCEL = b'{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":%s}}'
SERVER = """
from functools import partial

import anyio
from cci_plugins.models import Execution
from cci_plugins.server import serve_stdio
from cci_plugins.testing import FakeSessionPool

class EchoPool(FakeSessionPool):
    cancelled = 0

    async def execute(self, session_id, code, **_):
        if code == "count":
            return Execution(stdout=f"cancelled: {self.cancelled}")
        if code == "wait":
            try:
                await anyio.sleep_forever()
            finally:
                self.cancelled += 1
        return Execution(stdout=f"{len(code)} {code[-4:-3]!a}")

anyio.run(partial(serve_stdio, EchoPool(), all_tools=True))
"""


class EchoPool(FakeSessionPool):
    async def execute(self, session_id, code, **_):
        return Execution(stdout=f"{len(code)} {code[-4:-3]!a}")


class Stdio:
    """The server on standard input and output."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    def send(self, line: bytes) -> None:
        self._process.stdin.write(line + b"\n")
        self._process.stdin.flush()

    def ask(self, line: bytes) -> dict:
        self.send(line)
        return json.loads(self._process.stdout.readline())

    def wait_for(self, request_id: str) -> dict:
        """Return the answer to a request, after others."""
        while True:
            answer = json.loads(self._process.stdout.readline())
            if answer.get("id") == request_id:
                return answer


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
    "fraction as the id": b'{"jsonrpc":"2.0","id": 1.5,"method":"ping"}',
    "list as the id": b'{"jsonrpc":"2.0","method":"ping","id":[1]}',
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
    assert response.json()["error"]["code"] in {-32700, -32600, -32601, -32602}


EXECUTE = (
    '{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"execute_code",'
    '"arguments":{"code":"@"}}}'
)


@pytest.mark.parametrize(
    "body",
    [
        EXECUTE.encode("utf-16"),
        EXECUTE.encode("utf-16-be"),
        EXECUTE.replace("@", "\ud800").encode("utf-8", "surrogatepass"),
        EXECUTE.replace("1", '"\ud800"', 1).encode("utf-8", "surrogatepass"),
        EXECUTE.encode().replace(b"@", b"\xff"),
        gzip.compress(EXECUTE.encode()),
    ],
    ids=["UTF-16", "UTF-16 without a mark", "surrogate", "surrogate as the id", "bytes", "gzip"],
)
def test_a_body_that_is_not_utf_8_is_refused_before_any_parser_reads_it(http, body):
    response = http.post("", content=body)
    assert (response.status_code, response.json()["error"]["code"]) == (400, -32700)


@pytest.mark.parametrize(
    "text", [b"\\ud800", b"\\uDFFF", b"a\\udc80b", b"\\ud83d\\ude00", b"\\u0000", b"\xc3\xa9"]
)
def test_code_with_any_character_runs_over_stdio_and_http_alike(stdio, http, text):
    over_stdio = stdio.ask(CALL % (RUN, text))
    response = http.post("", content=CALL % (RUN, text))
    over_http = response.json()
    assert over_stdio["id"] == "call"
    if MAJOR > 1 and response.status_code == 400:  # 2.x refuses lone surrogates over HTTP
        assert b"\\u" in text
        assert over_http["error"]["code"] == -32700
        return
    ran = over_http["result"]
    assert not ran["isError"]
    assert over_stdio["result"]["content"] == ran["content"]


def test_a_surrogate_in_the_name_of_a_tool_is_answered_with_an_error(stdio, http):
    for answer in (
        stdio.ask(CALL % (b"\\ud800", b"")),
        http.post("", content=CALL % (b"\\ud800", b"")).json(),
    ):
        assert answer["error"]["code"] in {-32700, -32600, -32602}, answer


def call(request_id: str, code: str) -> bytes:
    arguments = {"environmentId": "environment-1", "pythonCode": code}
    params = {"name": RUN.decode(), "arguments": arguments}
    message = {"jsonrpc": "2.0", "id": request_id, "method": "tools/call", "params": params}
    return json.dumps(message).encode()


def test_a_cancelled_call_over_stdio_is_interrupted_and_no_other(stdio):
    stdio.send(call("first", "wait"))
    stdio.send(call("second", "wait"))
    for unknown in ('"third"', "1", "null"):
        stdio.send(CANCEL % unknown.encode())
    stdio.send(CANCEL % b'"first"')
    stdio.send(call("counted", "count"))
    counted = stdio.wait_for("counted")
    assert counted["result"]["structuredContent"]["stdout"] == "cancelled: 1"
    stdio.send(CANCEL % b'"second"')
    stdio.send(call("counted again", "count"))
    counted = stdio.wait_for("counted again")
    assert counted["result"]["structuredContent"]["stdout"] == "cancelled: 2"

"""The MCP client against servers of every kind, without a socket."""

import json
import traceback
from collections.abc import Callable
from datetime import timedelta
from functools import partial

import anyio
import httpx
import pytest

from cci_plugins.errors import (
    AuthenticationError,
    CodeInterpreterError,
    ConfigurationError,
    ExecutionTimeoutError,
    PoolError,
    PoolExhaustedError,
    PoolUnavailableError,
    ProtocolError,
    SessionLostError,
)
from cci_plugins.mcp_client.client import McpClient
from cci_plugins.mcp_client.failures import NOT_STARTED

pytestmark = pytest.mark.anyio

URL = "https://pool.example/mcp"
KEY = "a-very-secret-key"
SECOND = timedelta(seconds=1)
GOOD = {"structuredContent": {"stdout": "hi\n"}}


class Server:
    """Server in which `on` replaces the answer of a method by a function or a value."""

    def __init__(self, **on: object):
        self.requests: list[httpx.Request] = []
        self.on = on
        self.headers: dict[str, str] = {}

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        if request.method == "DELETE":
            return httpx.Response(200)
        message = json.loads(request.content)
        method = message["method"].replace("/", "_")
        answer = self.on.get(method, DEFAULTS.get(method))
        if isinstance(answer, Callable):
            answer = answer(request)
            if hasattr(answer, "__await__"):
                answer = await answer
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, httpx.Response):
            return answer
        body = {"jsonrpc": "2.0", "id": message.get("id"), **answer}
        headers = self.headers if method == "initialize" else {}
        return httpx.Response(200, json=body, headers=headers)

    def client(self) -> McpClient:
        http = httpx.AsyncClient(transport=httpx.MockTransport(self))
        return McpClient(URL, headers={"x-ms-apikey": KEY}, http=http, timeout=SECOND)

    def methods(self) -> list[str]:
        return [
            json.loads(r.content)["method"] if r.method == "POST" else r.method
            for r in self.requests
        ]


DEFAULTS = {
    "initialize": {"result": {"protocolVersion": "2025-03-26", "serverInfo": {"name": "x"}}},
    "notifications_initialized": httpx.Response(202),
    "tools_call": {"result": GOOD},
    "tools_list": {"result": {"tools": [{"name": "a"}]}},
}


def rpc_error(code: int, message: str) -> dict:
    return {"error": {"code": code, "message": message}}


async def failure(server: Server, *, timeout: timedelta = SECOND) -> CodeInterpreterError:
    client = server.client()
    with anyio.fail_after(10), pytest.raises(CodeInterpreterError) as caught:
        await client.call_tool("run", {}, timeout=timeout)
    shown = "".join(traceback.format_exception(caught.value))
    assert KEY not in f"{shown} {client!r} {caught.value.hint}"
    return caught.value


async def test_one_handshake_then_one_post_for_a_call():
    server = Server()
    client = server.client()
    for _ in range(3):
        result = await client.call_tool("run", {"code": "é"}, timeout=SECOND)
        assert result.structured == {"stdout": "hi\n"}
    assert server.methods() == ["initialize", "notifications/initialized", *["tools/call"] * 3]
    assert json.loads(server.requests[-1].content)["params"]["arguments"] == {"code": "é"}
    assert server.requests[-1].headers["x-ms-apikey"] == KEY
    assert server.requests[-1].headers["mcp-protocol-version"] == "2025-03-26"


async def test_calls_at_the_same_time_share_the_handshake():
    server = Server()
    client = server.client()
    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            for _ in range(5):
                tasks.start_soon(partial(client.call_tool, "run", {}, timeout=SECOND))
    assert server.methods().count("initialize") == 1


async def test_the_next_call_repeats_a_failed_handshake():
    answers = [httpx.Response(503), DEFAULTS["initialize"]]
    server = Server(initialize=lambda _: answers.pop(0))
    client = server.client()
    with pytest.raises(PoolUnavailableError):
        await client.list_tools()
    assert await client.list_tools() == [{"name": "a"}]


@pytest.mark.parametrize("status", [200, 202, 204, 400, 404, 405])
async def test_any_status_below_500_answers_the_notification(status):
    server = Server(notifications_initialized=httpx.Response(status))
    assert (await server.client().call_tool("run", {}, timeout=SECOND)).structured


async def test_a_server_without_a_handshake_can_be_called():
    server = Server(initialize=rpc_error(-32601, "Method not found"))
    assert (await server.client().call_tool("run", {}, timeout=SECOND)).structured


async def test_tools_are_listed_over_all_pages():
    def page(request: httpx.Request) -> dict:
        cursor = json.loads(request.content)["params"].get("cursor")
        more = {"nextCursor": "2"} if cursor is None else {}
        return {"result": {"tools": [{"name": f"tool {cursor}"}], **more}}

    tools = await Server(tools_list=page).client().list_tools()
    assert tools == [{"name": "tool None"}, {"name": "tool 2"}]


async def test_an_mcp_session_is_kept_and_ended():
    server = Server()
    server.headers = {"Mcp-Session-Id": "s1"}
    client = server.client()
    await client.call_tool("run", {}, timeout=SECOND)
    assert [r.headers.get("mcp-session-id") for r in server.requests] == [None, "s1", "s1"]
    await client.aclose()
    assert server.requests[-1].method == "DELETE"
    assert server.requests[-1].headers["mcp-session-id"] == "s1"


async def test_closing_without_an_mcp_session_sends_nothing():
    server = Server()
    client = server.client()
    await client.call_tool("run", {}, timeout=SECOND)
    await client.aclose()
    assert "DELETE" not in server.methods()


async def test_a_lost_mcp_session_is_renewed_once():
    answers = [httpx.Response(404), DEFAULTS["tools_call"]]
    server = Server(tools_call=lambda _: answers.pop(0))
    server.headers = {"mcp-session-id": "s1"}
    assert (await server.client().call_tool("run", {}, timeout=SECOND)).structured
    assert server.methods().count("initialize") == 2


async def test_a_renewed_session_that_is_lost_again_is_an_error():
    server = Server(tools_call=httpx.Response(404))
    server.headers = {"mcp-session-id": "s1"}
    assert type(await failure(server)) is PoolError
    assert server.methods().count("tools/call") == 2


@pytest.mark.parametrize(
    ("response", "kind", "retryable"),
    [
        (httpx.Response(401), AuthenticationError, False),
        (httpx.Response(403, json={"error": {"code": "Forbidden"}}), AuthenticationError, False),
        (httpx.Response(404), PoolError, False),
        (
            httpx.Response(400, json={"error": {"code": "Odd", "message": "no"}}),
            ProtocolError,
            False,
        ),
        (httpx.Response(307, headers={"location": "http://evil.example"}), ProtocolError, False),
        (httpx.Response(429, headers={"retry-after": "7"}), PoolExhaustedError, True),
        (httpx.Response(500, json={"code": "SessionsCountExceedsLimit"}), PoolExhaustedError, True),
        (httpx.Response(503), PoolError, False),  # proxies also send it for a broken connection
        (httpx.Response(503, json={"code": NOT_STARTED}), PoolUnavailableError, True),
        (httpx.Response(500), PoolError, False),
        (httpx.Response(504, html="<html>"), PoolError, False),
        (rpc_error(-32000, "Environment not found: abc"), SessionLostError, True),
        (rpc_error(-32603, "InvalidLengthOfSessionIdentifier"), PoolError, False),
        (rpc_error(0, "SessionsCountExceedsLimit: full"), PoolExhaustedError, True),
        (rpc_error(-32001, "Unauthorized"), AuthenticationError, False),
        (rpc_error(-32602, "Unknown tool"), ProtocolError, False),
        (rpc_error(-32603, "boom"), PoolError, False),
        (httpx.Response(200, html="<html>"), ProtocolError, False),
        (httpx.Response(200, content=b'{"id":'), ProtocolError, False),
    ],
)
async def test_every_refusal_has_its_exception(response, kind, retryable):
    server = Server(tools_call=response)
    error = await failure(server)
    assert type(error) is kind
    assert error.retryable is retryable
    assert server.methods().count("tools/call") == 1


async def test_a_full_pool_reports_when_to_retry():
    error = await failure(Server(tools_call=httpx.Response(429, headers={"retry-after": "7"})))
    assert isinstance(error, PoolExhaustedError)
    assert error.retry_after == 7


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_named_with_its_host_and_not_with_its_query(status):
    headers = {"location": f"https://other.example/login?code={KEY}"}
    error = await failure(Server(tools_call=httpx.Response(status, headers=headers)))
    assert "redirect to 'other.example'" in str(error)
    assert KEY not in str(error)
    assert "endpoint" in (error.hint or "")


async def test_a_batch_in_one_event_is_read():
    def answer(request):
        number = json.loads(request.content)["id"]
        note = {"jsonrpc": "2.0", "method": "notifications/message", "params": {}}
        batch = [note, {"jsonrpc": "2.0", "id": number, "result": GOOD}]
        body = f"event: message\ndata: {json.dumps(batch)}\n\n"
        headers = {"content-type": "text/event-stream"}
        return httpx.Response(200, content=body.encode(), headers=headers)

    result = await Server(tools_call=answer).client().call_tool("run", {}, timeout=SECOND)
    assert result.structured == GOOD["structuredContent"]


@pytest.mark.parametrize(
    ("error", "kind", "retryable"),
    [
        (httpx.ConnectError("x"), PoolUnavailableError, True),
        (httpx.ConnectTimeout("x"), PoolUnavailableError, True),
        (httpx.PoolTimeout("x"), PoolUnavailableError, True),
        (httpx.ReadTimeout("x"), ExecutionTimeoutError, False),
        (httpx.ReadError("x"), PoolError, False),
        (httpx.WriteError("x"), PoolError, False),
        (httpx.RemoteProtocolError("x"), PoolError, False),
        (httpx.LocalProtocolError(f"Illegal header value {KEY}"), ConfigurationError, False),
    ],
)
async def test_a_broken_connection_reports_whether_the_code_may_have_run(error, kind, retryable):
    server = Server(tools_call=error)
    raised = await failure(server)
    assert type(raised) is kind
    assert raised.retryable is retryable
    assert ("may have run" in str(raised)) is (kind in {ExecutionTimeoutError, PoolError})
    assert server.methods().count("tools/call") == 1


async def test_a_connection_that_breaks_before_any_code_is_retryable():
    error = await failure(Server(initialize=httpx.ReadError("x")))
    assert type(error) is PoolUnavailableError
    assert error.retryable


async def test_a_missing_answer_raises_a_timeout_error():
    async def never(_: httpx.Request) -> httpx.Response:
        await anyio.sleep_forever()
        raise AssertionError

    error = await failure(Server(tools_call=never), timeout=timedelta(milliseconds=50))
    assert type(error) is ExecutionTimeoutError
    assert "may have run" in str(error)


class Stream(httpx.AsyncByteStream):
    """Body of some chunks, after which it ends or stays open."""

    def __init__(self, *pieces: bytes, ends: bool):
        self._pieces, self._ends = pieces, ends
        self.closed = False

    async def __aiter__(self):
        for piece in self._pieces:
            yield piece
        if not self._ends:
            await anyio.sleep_forever()

    async def aclose(self):
        self.closed = True


def streamed(stream: Stream) -> httpx.Response:
    return httpx.Response(
        200, stream=stream, headers={"content-type": "text/event-stream; charset=x"}
    )


async def test_an_answer_in_an_event_stream_is_returned_before_the_stream_ends():
    note = b'data: {"jsonrpc":"2.0","method":"notifications/message","params":{}}\r\n\r\n'
    answer = b'event: message\r\ndata: {"jsonrpc":"2.0","id":2,"result":{"isError":true}}\r\n\r\n'
    stream = Stream(b": ping\r\n\r\n" + note, answer[:20], answer[20:], ends=False)
    with anyio.fail_after(10):
        result = (
            await Server(tools_call=streamed(stream)).client().call_tool("run", {}, timeout=SECOND)
        )
    assert result.is_error
    assert stream.closed


async def test_an_unfinished_event_stream_reports_that_the_code_may_have_run():
    error = await failure(Server(tools_call=streamed(Stream(b": ping\n\n", ends=True))))
    assert type(error) is ProtocolError
    assert "may have run" in str(error)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "ftp://x/mcp",
        "pool.example/mcp",
        "http://",
        "https://u:p@x/mcp",
        "https://xn--zzzz.example/mcp",
        "http://xn--localhost-/mcp",
        "http://127.0.0.1:99999/mcp",
        7,
    ],
)
def test_an_invalid_endpoint_url_is_a_configuration_error(url):
    with pytest.raises(ConfigurationError):
        McpClient(url)

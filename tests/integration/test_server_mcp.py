"""The MCP endpoint over raw HTTP."""

import json
import time

import anyio
import httpx
import pytest

from cci_plugins.errors import PoolExhaustedError, PoolUnavailableError
from cci_plugins.models import ErrorInfo, Execution, Result
from cci_plugins.testing import FakeSessionPool

from ._server import KEY, serving

pytest.importorskip("mcp")
pytest.importorskip("uvicorn")

pytestmark = pytest.mark.anyio

RUN = "runPythonCodeInRemoteEnvironment"
RUN_SHELL = "runShellCommandInRemoteEnvironment"
PNG = "iVBORw0KGgo="
HELLO = Execution(stdout="hi\n", results=(Result({"text/plain": "42"}, is_main=True),))


class SlowPool(FakeSessionPool):
    """Runs until it is cancelled. Sets an event at the start and at the cancellation."""

    def __init__(self):
        super().__init__()
        self.started, self.cancelled = anyio.Event(), anyio.Event()

    async def execute(self, session_id, code, *, timeout, on_output=None, instance=None):
        self.started.set()
        try:
            await anyio.sleep_forever()
        finally:
            self.cancelled.set()


class FailingPool(FakeSessionPool):
    """Raises the given error from each run."""

    def __init__(self, error: Exception):
        super().__init__()
        self._error = error

    async def execute(self, session_id, code, *, timeout, on_output=None, instance=None):
        raise self._error


def client(url: str, **headers: str) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=url, headers={"x-ms-apikey": KEY} | headers, timeout=30)


def message(method: str, **params) -> dict:
    return {"jsonrpc": "2.0", "id": "1", "method": method, "params": params}


async def call(url: str, tool: str, **arguments) -> dict:
    async with client(url) as http:
        response = await http.post("", json=message("tools/call", name=tool, arguments=arguments))
    assert response.status_code == 200, response.text
    return response.json()


async def run(pool: FakeSessionPool, **arguments) -> dict:
    with anyio.fail_after(30):
        async with serving(pool) as url:
            given = {"environmentId": "session-1", "pythonCode": "x"} | arguments
            return (await call(url, RUN, **given))["result"]


async def test_a_bare_post_as_in_the_tutorials_is_enough():
    """No Accept, no parameters of initialize, no handshake before a call."""
    with anyio.fail_after(30):
        async with serving(FakeSessionPool(HELLO)) as url, httpx.AsyncClient() as http:
            headers = {"x-ms-apikey": KEY, "content-type": "application/json"}
            bare = {"jsonrpc": "2.0", "id": "1", "method": "initialize"}
            answer = (await http.post(url, content=json.dumps(bare), headers=headers)).json()
            assert answer["id"] == "1"
            assert answer["result"]["protocolVersion"] == "2025-03-26"
            assert answer["result"]["serverInfo"]["version"]
            answer = await call(url, RUN, environmentId="session-1", pythonCode="6 * 7")
            assert answer["result"]["structuredContent"]["executionResult"] == 42


async def test_a_notification_is_accepted_without_an_answer():
    with anyio.fail_after(30):
        async with serving(FakeSessionPool()) as url, client(url) as http:
            note = {"jsonrpc": "2.0", "method": "notifications/initialized"}
            response = await http.post("", json=note)
            assert (response.status_code, response.content) == (202, b"")


@pytest.mark.parametrize("method", ["GET", "DELETE"])
async def test_there_is_no_stream_to_get_and_no_session_to_delete(method):
    with anyio.fail_after(30):
        async with serving(FakeSessionPool()) as url, client(url) as http:
            assert (await http.request(method, "")).status_code == 405


async def test_three_tools_are_listed_with_schema_and_annotations():
    with anyio.fail_after(30):
        async with serving(FakeSessionPool()) as url, client(url) as http:
            tools = (await http.post("", json=message("tools/list"))).json()["result"]["tools"]
    assert [tool["name"] for tool in tools] == ["launchShell", RUN, RUN_SHELL]
    assert all(tool["inputSchema"]["type"] == "object" for tool in tools)
    assert all(tool["annotations"] for tool in tools)
    assert not any("outputSchema" in tool for tool in tools)


@pytest.mark.parametrize(
    "name", ["launchShell", "launchShellEnvironment", "launchPythonEnvironment"]
)
async def test_launching_mints_an_id_and_touches_no_session(name):
    pool = FakeSessionPool()
    with anyio.fail_after(30):
        async with serving(pool) as url:
            ids = {
                (await call(url, name))["result"]["structuredContent"]["environmentId"]
                for _ in range(2)
            }
    assert len(ids) == 2
    assert pool.calls == []


async def test_a_result_without_images_comes_twice_and_complete_in_meta():
    result = await run(FakeSessionPool(HELLO))
    fields = result["structuredContent"]
    assert fields["stdout"] == "hi\n"
    assert fields["stderr"] == ""
    assert fields["executionResult"] == 42
    assert fields["executionTimeInMilliseconds"] == 0
    assert json.loads(result["content"][0]["text"]) == fields
    assert result["_meta"]["cci_plugins/execution"]["stdout"] == "hi\n"
    assert result["isError"] is False


async def test_an_answer_with_an_image_has_no_structured_content():
    image = Result({"image/png": PNG, "text/plain": "<Figure>"}, is_main=True)
    result = await run(FakeSessionPool(Execution(results=(image,))))
    assert "structuredContent" not in result
    assert [block["type"] for block in result["content"]] == ["text", "image"]
    assert result["content"][1] == {"type": "image", "data": PNG, "mimeType": "image/png"}
    assert PNG not in result["content"][0]["text"]


async def test_a_traceback_of_the_code_is_an_error_with_its_text():
    error = ErrorInfo("ValueError", "no", "Traceback (most recent call last):\nValueError: no")
    failed = Execution(stdout="before\n", error=error, status="failed")
    result = await run(FakeSessionPool(failed))
    assert result["isError"] is True
    assert result["structuredContent"]["stdout"] == "before\n"
    assert result["structuredContent"]["stderr"].endswith("ValueError: no")


async def test_text_for_a_model_is_bounded_and_data_for_our_client_is_not():
    result = await run(FakeSessionPool(Execution(stdout="x" * 100_000)))
    assert len(result["structuredContent"]["stdout"]) <= 8_000
    assert "left out" in result["structuredContent"]["stdout"]
    assert len(result["_meta"]["cci_plugins/execution"]["stdout"]) == 100_000


@pytest.mark.parametrize("identifier", ["abc", "x" * 129, "", None, 7])
async def test_an_identifier_of_the_wrong_length_is_refused_by_its_code(identifier):
    result = await run(FakeSessionPool(), environmentId=identifier)
    assert result["isError"] is True
    assert "InvalidLengthOfSessionIdentifier" in result["content"][0]["text"]


@pytest.mark.parametrize("timeout", [0, -1, "soon", True])
async def test_a_timeout_that_is_not_a_positive_number_is_refused(timeout):
    result = await run(FakeSessionPool(), timeoutSeconds=timeout)
    assert "timeoutSeconds" in result["content"][0]["text"]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (PoolExhaustedError("all full"), "SessionsCountExceedsLimit"),
        (PoolUnavailableError("closed"), "SessionPoolUnavailable"),
        (RuntimeError("a secret detail"), "InternalServerError"),
    ],
)
async def test_a_failure_of_the_pool_is_an_error_with_a_code(error, code):
    result = await run(FailingPool(error))
    assert result["isError"] is True
    assert result["content"][0]["text"].startswith(code)
    assert "secret" not in json.dumps(result)


async def test_an_unknown_tool_and_an_unknown_method_are_protocol_errors():
    with anyio.fail_after(30):
        async with serving(FakeSessionPool()) as url, client(url) as http:
            assert (await call(url, "rm"))["error"]["code"] == -32602
            answer = (await http.post("", json=message("resources/frobnicate"))).json()
            assert answer["error"]["code"] in {-32601, -32602}


async def test_a_client_that_disconnects_stops_its_run():
    pool = SlowPool()
    with anyio.fail_after(30):
        async with serving(pool) as url:
            async with anyio.create_task_group() as tasks:
                arguments = {"environmentId": "session-1", "pythonCode": "x"}

                async def leave():
                    await pool.started.wait()
                    tasks.cancel_scope.cancel()

                tasks.start_soon(leave)
                await call(url, RUN, **arguments)
            await pool.cancelled.wait()  # while the server stays


@pytest.mark.parametrize(
    "headers", [{}, {"x-ms-apikey": "wrong"}, {"authorization": f"Bearer {KEY}"}]
)
async def test_mcp_accepts_only_the_key(headers):
    with anyio.fail_after(30):
        async with serving(FakeSessionPool()) as url, httpx.AsyncClient(headers=headers) as http:
            response = await http.post(url, json=message("tools/list"))
    assert response.status_code == 401
    assert set(response.json()["error"]) == {"code", "message", "traceId"}


@pytest.mark.parametrize(
    ("header", "value", "status"),
    [
        ("host", "evil.example", 403),
        ("host", "127.0.0.1.evil.example:80", 403),
        ("origin", "http://evil.example", 403),
        ("origin", "null", 403),
        ("host", "localhost:1234", 200),
        ("origin", "http://localhost:5173", 200),
    ],
)
async def test_a_page_that_rebound_a_name_is_refused_even_with_the_key(header, value, status):
    with anyio.fail_after(30):
        async with serving(FakeSessionPool()) as url, client(url, **{header: value}) as http:
            assert (await http.post("", json=message("tools/list"))).status_code == status


async def test_health_needs_no_key():
    with anyio.fail_after(30):
        async with serving(FakeSessionPool()) as url, httpx.AsyncClient() as http:
            response = await http.get(url.replace("/mcp", "/health"))
    assert (response.status_code, response.text) == (200, '"healthy"')


async def test_a_body_beyond_the_limit_is_refused():
    with anyio.fail_after(30):
        async with serving(FakeSessionPool()) as url, client(url) as http:
            response = await http.post("", content=b"x" * (5 * 1024**2))
    assert response.status_code == 413


async def test_a_taken_port_is_a_configuration_error():
    from cci_plugins.errors import ConfigurationError
    from cci_plugins.server import serve

    with anyio.fail_after(30):
        async with serving(FakeSessionPool()) as url:
            port = httpx.URL(url).port
            with pytest.raises(ConfigurationError, match="cannot listen"):
                await serve(FakeSessionPool(), port=port, api_key=KEY)


async def test_stopping_waits_only_a_moment_for_a_run(monkeypatch):
    monkeypatch.setattr("cci_plugins.server.listening._GRACE_SECONDS", 1)
    pool = SlowPool()
    with anyio.fail_after(30):
        begun = time.monotonic()
        async with anyio.create_task_group() as tasks:
            async with serving(pool) as url:

                async def hang():
                    try:
                        await call(url, RUN, environmentId="session-1", pythonCode="x")
                    except (httpx.HTTPError, AssertionError):
                        pass

                tasks.start_soon(hang)
                await pool.started.wait()
        assert time.monotonic() - begun < 15
        await pool.cancelled.wait()


@pytest.mark.slow
async def test_a_shell_command_runs_in_the_session():
    from cci_plugins.pools.local.pool import LocalSessionPool

    with anyio.fail_after(90):
        async with serving(LocalSessionPool()) as url:
            where = {"environmentId": "session-1"}
            command = "echo out; echo err >&2; echo kept > kept.txt; exit 3"
            result = (await call(url, RUN_SHELL, **where, shellCommand=command))["result"]
            fields = result["structuredContent"]
            assert (fields["stdout"], fields["stderr"], fields["exitCode"]) == ("out\n", "err\n", 3)
            assert result["isError"] is True
            result = (await call(url, RUN_SHELL, **where, execCommandAndArgs=["cat", "kept.txt"]))[
                "result"
            ]
            assert result["structuredContent"]["stdout"] == "kept\n"
            assert result["structuredContent"]["exitCode"] == 0
            result = (await call(url, RUN_SHELL, **where))["result"]
            assert "InvalidArguments" in result["content"][0]["text"]

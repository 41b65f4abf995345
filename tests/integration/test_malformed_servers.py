"""A malformed server raises errors of this package only, and never a group of them."""

import asyncio
import json
from contextlib import asynccontextmanager
from datetime import timedelta

import anyio
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from tests.examples import examples

from cci_plugins import CodeInterpreter
from cci_plugins.errors import CodeInterpreterError
from cci_plugins.mcp_client.executions import META_KEY, dump_execution
from cci_plugins.models import ErrorInfo, Execution, FileInfo
from cci_plugins.pools.azure.mcp_pool import PlatformSessionPool
from cci_plugins.pools.azure.rest_pool import CustomSessionPool

RUN = "runPythonCodeInRemoteEnvironment"
EXECUTION = Execution(stdout="hi", files=(FileInfo("a", 1),), error=ErrorInfo("E", "m", "t"))
GOOD = {
    "initialize": {
        "protocolVersion": "2025-03-26",
        "serverInfo": {"name": "x", "version": "1"},
        "capabilities": {"tools": {}},
    },
    "tools/list": {"tools": [{"name": RUN}, {"name": "launchShell"}], "nextCursor": None},
    "tools/call": {
        "content": [{"type": "text", "text": "hi"}],
        "structuredContent": {"stdout": "hi", "stderr": "", "status": "Succeeded"},
        "isError": False,
        "_meta": {META_KEY: dump_execution(EXECUTION)},
    },
    "files": {
        "value": [{"name": "a", "sizeInBytes": 1, "directory": ".", "type": "file"}],
        "nextLink": None,
    },
    "executions": {
        "id": "r",
        "status": "Succeeded",
        "result": {"stdout": "hi", "stderr": "", "executionResult": None},
        "error": None,
    },
}
ODD = [
    None, True, 7, -1, 1e308, "", "text", "\u00e9\u2603", "\ud800", "a\r\nb", [], [None], {},
    {"a": 1}, [[[]]], "x" * 5_000, [{"type": "image", "data": 5, "mimeType": None}], {"name": None},
]  # fmt: skip
MISSING = object()


def change(value, path, odd):
    """Return JSON with the value at a path replaced or removed."""
    if not path:
        return odd
    key, *rest = path
    if isinstance(value, dict) and key in value:
        if not rest and odd is MISSING:
            return {name: item for name, item in value.items() if name != key}
        return {**value, key: change(value[key], rest, odd)}
    if isinstance(value, list) and value:
        return [change(value[0], rest, odd), *value[1:]]
    return value


def find_paths(value, path=()):
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value[:1])
    if isinstance(value, (dict, list)):
        for key, item in items:
            yield from (
                find_paths(item, (*path, key)) if isinstance(item, (dict, list)) else [(*path, key)]
            )


PATHS = [(name, path) for name, value in GOOD.items() for path in find_paths(value)]
HEADERS = st.sampled_from(
    [
        b"",
        b"mcp-session-id: \xc3\xa9\r\n",
        b"mcp-session-id: a b\r\n",
        b"mcp-session-id: " + b"x" * 5_000 + b"\r\n",
        b"mcp-session-id: s1\r\n",
        b"content-encoding: gzip\r\n",
        b"content-encoding: \xff\r\n",
        b"content-type: text/event-stream\r\n",
        b"content-type: \xff\xfe\r\n",
        b"retry-after: \xc2\xb2\r\n",
        b"location: http://[\r\n",
    ]
)


@asynccontextmanager
async def scripted(answers, headers, status, raw):
    """Serve the answers, with bytes that no framework would send."""

    async def serve(reader, writer):
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                low = head.lower()
                size = int(low.partition(b"content-length: ")[2].partition(b"\r")[0] or 0)
                body = await reader.readexactly(size)
                if b"chunked" in low:
                    await reader.readuntil(b"\r\n0\r\n\r\n")
                target = head.split(b" ", 2)[1]
                name = "files" if b"/files" in target else "executions"
                request_id = None
                if body.startswith(b"{") and b"jsonrpc" in body:
                    message = json.loads(body)
                    name, request_id = message["method"], message.get("id")
                value = answers.get(name, {})
                if b"jsonrpc" in body:
                    value = {"jsonrpc": "2.0", "id": request_id, "result": value}
                data = json.dumps(value).encode() if raw is None else raw
                writer.write(
                    b"HTTP/1.1 %d OK\r\n%scontent-length: %d\r\n\r\n%s"
                    % (status, headers, len(data), data)
                )
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, limit=2**22)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


async def attack(kind, answers, headers=b"", status=200, raw=None):
    """Use every call of a client. Only errors of this package may come out."""
    async with scripted(answers, headers, status, raw) as url:
        options = {"patience": timedelta(0), "margin": timedelta(seconds=1)}
        if kind == "platform":
            pool = PlatformSessionPool(f"{url}/mcp", key="a-key", **options)
        else:
            pool = CustomSessionPool(url, credential="a-token", **options)
        interpreter = CodeInterpreter(pool)
        session = interpreter.session("a")
        for call in (
            lambda: session.run_code("1", timeout=2),
            session.files.list,
            lambda: session.files.upload(b"1", name="a"),
            lambda: session.files.download("a"),
            lambda: session.files.remove("a"),
            session.delete,
            interpreter.aclose,
        ):
            try:
                await call()
            except CodeInterpreterError:
                pass


def run(*arguments, **options):
    async def bounded():
        with anyio.fail_after(40):
            await attack(*arguments, **options)

    anyio.run(bounded)


def test_a_field_of_another_type_raises_no_foreign_error():
    @settings(
        examples(100),
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(
        st.sampled_from(["platform", "custom"]),
        st.sampled_from(PATHS),
        st.sampled_from([*ODD, MISSING]),
        HEADERS,
        st.sampled_from(["x", "cci-plugins"]),
    )
    def check(kind, place, odd, headers, server):
        name, path = place
        if not path and odd is MISSING:
            odd = None
        answers = change(GOOD, ("initialize", "serverInfo", "name"), server)
        run(kind, change(answers, (name, *path), odd), headers)

    check()


@pytest.mark.quick("200", "429")
@pytest.mark.parametrize("status", [200, 400, 404, 429, 500])
@pytest.mark.parametrize(
    "raw",
    [b"", b"\xff\xfe", b"[", b"null", b'{"error": 7}', b'{"error": {"code": [], "message": {}}}'],
)
def test_a_body_that_is_not_an_answer_raises_no_foreign_error(status, raw):
    run("platform", {}, status=status, raw=raw)


@pytest.mark.parametrize(
    ("field", "odd"),
    [
        ("serverInfo", None),
        ("serverInfo", "text"),
        ("protocolVersion", "\u00e9"),
        ("protocolVersion", 7),
    ],
)
def test_an_odd_handshake_raises_no_foreign_error(field, odd):
    for kind in ("platform", "custom"):
        run(kind, {**GOOD, "initialize": {**GOOD["initialize"], field: odd}})

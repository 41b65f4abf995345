"""Clients that hold connections, send slowly, or pretend to be somebody else."""

import json
import socket
from contextlib import ExitStack, closing
from functools import partial
from urllib.parse import urlsplit

import anyio
import anyio.lowlevel
import httpx
import pytest

from cci_plugins.errors import ConfigurationError
from cci_plugins.testing import FakeSessionPool

from ._server import KEY, serving

pytest.importorskip("mcp")
pytest.importorskip("uvicorn")

from cci_plugins.server import connections as bounds

pytestmark = pytest.mark.anyio

EXECUTIONS = "/executions?api-version=2025-10-02-preview&identifier=session-1"
PING = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
RUN = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "tools/call",
    "params": {
        "name": "runPythonCodeInRemoteEnvironment",
        "arguments": {"environmentId": "environment-1", "pythonCode": "1"},
    },
}


def address_of(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    return parts.hostname or "", parts.port or 0


def head(path: str, length: int, *more: str) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "host: localhost", f"content-length: {length}", *more]
    return "\r\n".join([*lines, "", ""]).encode()


async def open_many(url: str, count: int, stack: ExitStack) -> list[socket.socket]:
    """Open connections and let the server accept them."""
    opened = []
    for _ in range(count):
        opened.append(stack.enter_context(closing(socket.create_connection(address_of(url)))))
        opened[-1].settimeout(0)
        await anyio.lowlevel.checkpoint()
    await anyio.sleep(0.2)
    return opened


def is_closed(connection: socket.socket) -> bool:
    try:
        return connection.recv(4096) == b""
    except BlockingIOError:
        return False
    except ConnectionError:
        return True


async def wait_closed(connection: socket.socket) -> bytes:
    """Return what the server sends until it closes the connection."""
    received = bytearray()
    with anyio.fail_after(50):
        while True:
            try:
                chunk = connection.recv(65_536)
            except BlockingIOError:
                await anyio.sleep(0.02)
                continue
            except ConnectionError:
                return bytes(received)
            if not chunk:
                return bytes(received)
            received += chunk


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds, "HEAD_SECONDS", 0.5)
    monkeypatch.setattr(bounds, "BODY_GRACE_SECONDS", 0.5)


async def test_connections_without_a_key_shut_nobody_out():
    with anyio.fail_after(60), ExitStack() as stack:
        async with serving(FakeSessionPool()) as url:
            async with httpx.AsyncClient(headers={"x-ms-apikey": KEY}) as http:
                assert (await http.post(url, json=PING)).status_code == 200
                idle = await open_many(url, 540, stack)
                assert sum(not is_closed(one) for one in idle) == bounds.MAX_UNPROVEN_PER_ADDRESS
                assert (await http.post(url, json=PING)).status_code == 200
                async with httpx.AsyncClient(headers={"x-ms-apikey": KEY}) as newcomer:
                    assert (await newcomer.post(url, json=PING)).status_code == 200


async def test_a_run_outlives_any_number_of_newcomers():
    started, go_on = anyio.Event(), anyio.Event()

    class WaitingPool(FakeSessionPool):
        async def execute(self, *arguments, **options):
            started.set()
            await go_on.wait()
            return await super().execute(*arguments, **options)

    async def run(url: str, *, key: str | None) -> None:
        headers = {} if key is None else {"x-ms-apikey": key}
        async with httpx.AsyncClient(headers=headers, timeout=30) as http:
            answer = (await http.post(url, json=RUN)).json()
        assert answer["result"]["isError"] is False

    for key in (KEY, None):
        started, go_on = anyio.Event(), anyio.Event()
        with anyio.fail_after(60), ExitStack() as stack:
            async with (
                serving(WaitingPool(), api_key=key) as url,
                anyio.create_task_group() as tasks,
            ):
                tasks.start_soon(partial(run, url, key=key))
                await started.wait()
                await open_many(url, bounds.MAX_UNPROVEN_PER_ADDRESS + 20, stack)
                go_on.set()


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(
    "sent",
    [b"", b"POST /mcp HTTP/1.1\r\nhost: localhost\r\nx-a", head("/mcp", 1000)],
    ids=["nothing", "half a head", "a head without a key"],
)
async def test_a_connection_that_does_not_send_a_request_is_closed(sent):
    with anyio.fail_after(30), ExitStack() as stack:
        async with serving(FakeSessionPool()) as url:
            (connection,) = await open_many(url, 1, stack)
            connection.sendall(sent)
            received = await wait_closed(connection)
            assert (b" 401 " in received) is sent.endswith(b"\r\n\r\n")


@pytest.mark.usefixtures("impatient")
@pytest.mark.quick("/mcp")
@pytest.mark.parametrize(
    "path", ["/mcp", "/executions?api-version=2025-10-02-preview&identifier=x123"]
)
@pytest.mark.parametrize("key", [KEY, None])
async def test_a_body_that_drips_is_refused(path, key):
    """The client sends a byte now and then, so that no single wait is long."""
    with anyio.fail_after(30), ExitStack() as stack:
        async with serving(FakeSessionPool(), api_key=key) as url:
            (connection,) = await open_many(url, 1, stack)
            connection.sendall(head(path, 1000, f"x-ms-apikey: {KEY}"))
            async with anyio.create_task_group() as tasks:

                async def drip() -> None:
                    while True:
                        try:
                            connection.send(b" ")
                        except OSError:
                            return
                        await anyio.sleep(0.1)

                tasks.start_soon(drip)
                received = await wait_closed(connection)
                tasks.cancel_scope.cancel()
    assert received.startswith(b"HTTP/1.1 408 ")
    assert json.loads(received.partition(b"\r\n\r\n")[2])["error"]["code"] == "RequestTimeout"


@pytest.mark.usefixtures("impatient")
async def test_an_answer_that_nobody_reads_does_not_hold_its_connection(monkeypatch):
    close, has_closed = bounds.Connection.close, anyio.Event()

    def close_and_tell(connection: bounds.Connection) -> None:
        close(connection)
        has_closed.set()

    monkeypatch.setattr(bounds.Connection, "close", close_and_tell)

    class LoudPool(FakeSessionPool):
        async def execute(self, *_, **__):
            from cci_plugins.models import Execution

            return Execution(stdout="x" * 20_000_000)

    body = json.dumps(RUN).encode()
    with anyio.fail_after(60), ExitStack() as stack:
        async with serving(LoudPool()) as url:
            connection = stack.enter_context(closing(socket.socket()))
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.connect(address_of(url))
            connection.sendall(head("/mcp", len(body), f"x-ms-apikey: {KEY}") + body)
            await has_closed.wait()
            connection.settimeout(0)
            assert len(await wait_closed(connection)) < 20_000_000


async def test_a_body_that_pauses_is_read():
    body = json.dumps(PING).encode()
    with anyio.fail_after(30), ExitStack() as stack:
        async with serving(FakeSessionPool()) as url:
            (connection,) = await open_many(url, 1, stack)
            connection.sendall(head("/mcp", len(body), f"x-ms-apikey: {KEY}", "connection: close"))
            for byte in (body[:5], body[5:9], body[9:]):
                await anyio.sleep(0.2)
                connection.sendall(byte)
            assert (await wait_closed(connection)).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://[x"},
        {"origin": "http://[::1"},
        {"origin": "null"},
        {"origin": ""},
        {"origin": "http://localhost:80@evil.example"},
        {"origin": "http://localhost:\u00b2".encode()},
        {"origin": b"\xff\xfe"},
        {"host": "[x"},
        {"host": "evil.example"},
        {"host": b"localhost:\xb2"},
        {"host": ""},
        {"host": "localhost:80:80"},
        {"mcp-session-id": b"\xff", "host": "[::1"},
    ],
    ids=repr,
)
async def test_a_malformed_host_or_origin_is_refused(headers, refusing_server):
    async with httpx.AsyncClient(headers={"x-ms-apikey": KEY}) as http:
        response = await http.post(refusing_server, json=PING, headers=headers)
    assert response.status_code in {400, 403}, response.text


@pytest.fixture(scope="module")
def refusing_server():
    from ._server import running_server

    with running_server(FakeSessionPool) as url:
        yield url


async def test_two_origins_must_both_be_allowed(refusing_server):
    origins = [("origin", "http://localhost"), ("origin", "http://evil.example")]
    async with httpx.AsyncClient() as http:
        response = await http.post(
            refusing_server, json=PING, headers=[("x-ms-apikey", KEY), *origins]
        )
    assert response.status_code == 403


@pytest.mark.parametrize(("proxies", "last"), [((), 429), (("127.0.0.1",), 200)])
async def test_the_address_of_a_client_is_believed_from_trusted_proxies_only(proxies, last):
    options = {"api_key": None, "requests_per_minute": 1, "trusted_proxies": proxies}
    with anyio.fail_after(30):
        async with serving(FakeSessionPool(), **options) as url, httpx.AsyncClient() as http:
            statuses = [
                (await http.post(url, json=PING, headers={"x-forwarded-for": address})).status_code
                for address in ("198.51.100.1", "198.51.100.2")
            ]
    assert statuses == [200, last]


async def test_the_url_of_a_server_on_every_interface_can_be_opened():
    with anyio.fail_after(30):
        async with serving(FakeSessionPool(), host="0.0.0.0") as url, httpx.AsyncClient() as http:
            assert urlsplit(url).hostname == "127.0.0.1"
            assert (await http.get(url.replace("/mcp", "/health"))).status_code == 200


def test_an_address_that_one_client_has_many_of_counts_once():
    from cci_plugins.server.guard import get_network

    assert (
        get_network("2001:db8::1") == get_network("2001:db8::ffff:1") != get_network("2001:db9::1")
    )
    assert get_network("::ffff:10.0.0.1") == get_network("10.0.0.1") != get_network("10.0.0.2")
    assert get_network("unknown") == get_network("another name") == "unknown"
    assert get_network("10.0.0.1:5000") == get_network("10.0.0.1") == "10.0.0.1"
    assert get_network("[2001:db8::1]:80") == get_network("[2001:db8::1]") == "2001:db8::/64"


@pytest.mark.parametrize(
    ("host", "expected", "name"),
    [
        ("LOCALHOST", True, "127.0.0.1"),
        ("127.1", True, "127.0.0.1"),
        ("::ffff:127.0.0.1", True, "127.0.0.1"),
        ("[::1]", True, "::1"),
        ("0.0.0.0", False, "127.0.0.1"),
        ("::ffff:0.0.0.0", False, "127.0.0.1"),
        ("::", False, "::1"),
    ],
)
def test_a_listener_is_judged_by_its_address_and_not_by_its_name(host, expected, name):
    from cci_plugins.server import listening

    assert listening.is_loopback(host) is expected
    try:
        with listening._listen(host, 0) as listener:
            assert urlsplit(listening._format_url(listener)).hostname == name
    except ConfigurationError:
        assert ":" in host, "this machine has no IPv6"


async def test_a_listener_on_another_spelling_of_loopback_refuses_other_names():
    with anyio.fail_after(30):
        async with serving(FakeSessionPool(), host="LOCALHOST") as url, httpx.AsyncClient() as http:
            headers = {"host": "evil.example", "x-ms-apikey": KEY}
            assert (await http.post(url, json=PING, headers=headers)).status_code == 403

"""The transport of MCP requests, against servers that answer as a test says."""

import asyncio
import os
from contextlib import asynccontextmanager

import anyio
import httpx
import pytest

from cci_plugins.mcp_client.http import make_mcp_http
from cci_plugins.mcp_client.transport import DirectTransport

pytestmark = pytest.mark.anyio
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


class Server:
    """A server that sends one of the answers for each request, then closes or waits."""

    def __init__(self, *answers, closes=False):
        self.answers, self.closes = list(answers), closes
        self.reads, self.connections, self.lost = [], 0, asyncio.Event()

    async def handle(self, reader, writer):
        self.connections += 1
        try:
            while data := await reader.read(1 << 20):
                self.reads.append(data)
                if self.answers:
                    writer.write(self.answers.pop(0))
                    await writer.drain()
                if self.closes:
                    break
        finally:
            self.lost.set()
            writer.close()


@asynccontextmanager
async def serving(*answers, **options):
    server = Server(*answers, **options)
    listener = await asyncio.start_server(server.handle, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    async with make_mcp_http() as http:
        assert isinstance(http._transport, DirectTransport)
        http.base_url = f"http://127.0.0.1:{port}"
        try:
            yield server, http
        finally:
            listener.close()


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch):
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)


async def test_a_request_is_one_packet_and_the_next_one_uses_the_same_connection():
    async with serving(OK, OK) as (server, http):
        for _ in range(2):
            answer = await http.post("/mcp", content=b"x" * 2000)
            assert (answer.status_code, answer.text) == (200, "ok")
        assert (len(server.reads), server.connections) == (2, 1)
        assert server.reads[0].endswith(b"\r\n\r\n" + b"x" * 2000)


async def test_a_connection_that_the_server_has_closed_is_not_used_again():
    async with serving(OK, OK, closes=True) as (server, http):
        for _ in range(2):
            assert (await http.post("/", content=b"x")).text == "ok"
            await server.lost.wait()  # the end has arrived, whether the loop has seen it or not
        assert (len(server.reads), server.connections) == (2, 2)


async def test_bytes_after_an_answer_are_never_the_next_answer():
    async with serving(OK + OK.replace(b"ok", b"no"), OK) as (server, http):
        for _ in range(2):
            assert (await http.post("/", content=b"x")).text == "ok"
        assert server.connections == 2


async def test_interim_answers_chunks_and_the_end_of_the_connection_are_read():
    interim = b"HTTP/1.1 103 Early Hints\r\n\r\n"
    chunked = (
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
    )
    until_end = b"HTTP/1.0 200 OK\r\n\r\nall of it"
    async with serving(interim + chunked, closes=True) as (_, http):
        assert (await http.post("/", content=b"x")).text == "abcde"
    async with serving(until_end, closes=True) as (_, http):
        assert (await http.post("/", content=b"x")).text == "all of it"


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (b"", httpx.RemoteProtocolError),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nok", httpx.RemoteProtocolError),
        (b"SSH-2.0-OpenSSH\r\n\r\n", httpx.RemoteProtocolError),
        (b"HTTP/1.1 101 Switching Protocols\r\n\r\n", httpx.RemoteProtocolError),
    ],
)
async def test_malformed_answers_are_errors_of_httpx(answer, kind):
    async with serving(answer, closes=True) as (server, http):
        with pytest.raises(kind):
            await http.post("/", content=b"x")
        assert len(server.reads) == 1


async def test_failures_of_the_network_and_of_the_request_are_errors_of_httpx():
    async with serving() as (server, http):
        with pytest.raises(httpx.ReadTimeout):
            await http.post("/", content=b"x", timeout=httpx.Timeout(5, read=0.05))
        with pytest.raises(httpx.LocalProtocolError):
            await http.post("/", content=b"x", headers={"a": "b\nc"})
        with pytest.raises(httpx.UnsupportedProtocol):
            await http.get("ftp://127.0.0.1/")
        await server.lost.wait()
    with pytest.raises(httpx.ConnectError):
        async with make_mcp_http() as other:
            await other.get(http.base_url)


async def test_a_server_that_takes_no_bytes_is_a_write_timeout():
    done, closed = asyncio.Event(), asyncio.Event()

    async def ignore(_, writer):
        await done.wait()
        writer.transport.abort()
        closed.set()

    async def send():
        for _ in range(200):
            yield bytes(1 << 20)

    listener = await asyncio.start_server(ignore, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    async with make_mcp_http() as http:
        with pytest.raises(httpx.WriteTimeout):
            await http.post(url, content=send(), timeout=httpx.Timeout(5, write=0.1))
    done.set()
    await closed.wait()
    listener.close()


async def test_cancelling_a_request_closes_its_connection():
    async with serving() as (server, http):
        with anyio.move_on_after(0.1):
            await http.post("/", content=b"x")
        with anyio.fail_after(5):
            await server.lost.wait()


async def test_a_large_answer_is_read_only_as_fast_as_it_is_taken():
    size = 64 << 20
    head = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size
    async with serving(head + bytes(size)) as (_, http):
        request = http.build_request("POST", "/", content=b"x")
        answer = await http.send(request, stream=True)
        await asyncio.sleep(0.1)
        (connection,) = http._transport._connections
        assert connection._waiting_bytes < 2 << 20
        assert sum([len(chunk) async for chunk in answer.aiter_raw()]) == size
        await answer.aclose()


async def test_cookies_of_the_server_are_sent_back():
    cookie = b"HTTP/1.1 200 OK\r\nset-cookie: affinity=7; Path=/\r\ncontent-length: 0\r\n\r\n"
    async with serving(cookie, OK) as (server, http):
        await http.post("/", content=b"x")
        await http.post("/", content=b"x")
        assert [b"cookie: affinity=7" in data.lower() for data in server.reads] == [False, True]


async def test_a_proxy_of_the_environment_is_used_by_the_transport_of_httpx(monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    async with make_mcp_http() as http:
        assert not isinstance(http._transport, DirectTransport)

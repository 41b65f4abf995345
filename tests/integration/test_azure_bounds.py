"""Answers that Azure's own SDKs read are bounded in bytes, pages and time, whoever answers."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import ssl
import time
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import anyio
import pytest

from cci_plugins import BlobStorage
from cci_plugins.azure.options import Azure
from cci_plugins.errors import (
    AuthenticationError,
    CodeInterpreterError,
    FileTransferError,
    FoundryError,
    ProtocolError,
    ProvisioningError,
)

trustme = pytest.importorskip("trustme")
foundry: Any = pytest.importorskip("cci_plugins.foundry", exc_type=CodeInterpreterError)  # type: ignore[arg-type]
transport = pytest.importorskip("cci_plugins.azure.transport")

pytestmark = pytest.mark.anyio

MIB = 1024 * 1024
KEY = "a2V5"  # base64
RESOURCE = "/subscriptions/s/resourceGroups/g/providers/Microsoft.CognitiveServices/accounts/a"
BOMB = gzip.compress(bytes(64 * MIB))
ENOUGH = 32 * MIB  # of an answer without an end, before the server gives up


class Server:
    """A server that answers every request in one way, until the test chooses another.

    Attributes:
        mode: Name of the way.
        requests: The number of requests.
        sent: Bytes of the bodies.
    """

    def __init__(self) -> None:
        self.mode, self.requests, self.sent, self.url = "endless", 0, 0, ""
        self.heads: list[bytes] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of one connection."""
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, ssl.SSLError):
            try:
                while True:
                    await self._answer(await self._read_request(reader), writer)
            finally:
                writer.close()

    async def _read_request(self, reader: asyncio.StreamReader) -> bytes:
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        size = int(head.partition(b"content-length: ")[2].partition(b"\r")[0] or 0)
        await reader.readexactly(size)
        self.requests += 1
        self.heads.append(head)
        return head

    async def _answer(self, head: bytes, writer: asyncio.StreamWriter) -> None:
        match self.mode:
            case "endless":
                await self._stream(writer, b"x" * 65_536, ENOUGH)
            case "slow":
                await self._stream(writer, b" ", 10_000, pause=0.01)
            case "bomb":
                self._send(writer, BOMB, b"content-encoding: gzip\r\n")
            case "brotli":
                self._send(writer, b"x", b"content-encoding: br\r\n")
            case "zipped":
                self._send(writer, gzip.compress(b'{"name": "n"}'), b"content-encoding: gzip\r\n")
            case "pages":
                self._send(writer, self._build_page(head))
        await writer.drain()

    def _build_page(self, head: bytes) -> bytes:
        if b"comp=list" in head:
            return (
                b'<?xml version="1.0"?><EnumerationResults ServiceEndpoint="x" ContainerName="c">'
                b"<Blobs></Blobs><NextMarker>more</NextMarker></EnumerationResults>"
            )
        return json.dumps({"value": [], "nextLink": f"{self.url}/again"}).encode()

    def _send(self, writer: asyncio.StreamWriter, body: bytes, headers: bytes = b"") -> None:
        kind = b"application/xml" if body.startswith(b"<") else b"application/json"
        writer.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: %s\r\n%scontent-length: %d\r\n\r\n%s"
            % (kind, headers, len(body), body)
        )
        self.sent += len(body)

    async def _stream(
        self, writer: asyncio.StreamWriter, chunk: bytes, most: int, pause: float = 0
    ) -> None:
        writer.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
            b"transfer-encoding: chunked\r\n\r\n"
        )
        for _ in range(0, most, len(chunk)):
            writer.write(b"%x\r\n%s\r\n" % (len(chunk), chunk))
            self.sent += len(chunk)
            await writer.drain()
            await asyncio.sleep(pause)
        writer.write(b"0\r\n\r\n")


@contextlib.asynccontextmanager
async def running(tls: ssl.SSLContext | None = None) -> AsyncIterator[Server]:
    server = Server()
    listener = await asyncio.start_server(server.serve, "127.0.0.1", 0, ssl=tls)
    port = listener.sockets[0].getsockname()[1]
    server.url = f"{'http' if tls is None else 'https'}://127.0.0.1:{port}"
    try:
        yield server
    finally:
        listener.close()


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, Path]:
    """A certificate for loopback, and the file with its authority."""
    made = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.issue_cert("127.0.0.1").configure_cert(context)
    path = tmp_path_factory.mktemp("ca") / "ca.pem"
    made.cert_pem.write_to_path(path)
    return context, path


@pytest.fixture(autouse=True)
def low_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "MAX_BYTES", MIB)
    monkeypatch.setattr(transport, "MAX_PAGES", 5)
    monkeypatch.setattr("cci_plugins.foundry.agents.RUN_BYTES", MIB)


async def get_resource(url: str, ca: Path) -> Any:
    from cci_plugins.azure.resource_manager import ArmClient

    async with ArmClient(Azure(credential="token", endpoint=url, ca=ca)) as arm:
        return await arm.get(RESOURCE, "2024-10-01", step="account")


async def list_resources(url: str, ca: Path) -> Any:
    from cci_plugins.azure.resource_manager import ArmClient

    async with ArmClient(Azure(credential="token", endpoint=url, ca=ca)) as arm:
        return await arm.list(RESOURCE, "2024-10-01", step="accounts")


async def post_action(url: str, ca: Path) -> Any:
    from cci_plugins.provisioning.client import ProvisioningClient

    async with ProvisioningClient(Azure(credential="token", endpoint=url, ca=ca), "s") as arm:
        return await arm.post(f"{RESOURCE}/action", "2024-10-01", step="action")


async def list_agents(url: str, ca: Path) -> Any:
    from cci_plugins.azure.foundry_agents import list_agents as read

    return await read(f"{url}/api/projects/p", Azure(credential="token", ca=ca))


def build_project(url: str, ca: Path, **options: Any) -> Any:
    return foundry.Project(
        f"{url}/api/projects/p", credential=Token(), arm_endpoint=url, ca_file=ca, **options
    )


async def get_endpoint(url: str, ca: Path) -> Any:
    project = foundry.Project(
        resource_id=f"{RESOURCE}/projects/p", credential=Token(), arm_endpoint=url, ca_file=ca
    )
    return await project.endpoint()


async def search_accounts(url: str, ca: Path) -> Any:
    project = build_project(url, ca)
    return await project._find_location("s")


async def delete_agent(url: str, ca: Path) -> Any:
    return await foundry.delete_agent(foundry.Agent("a", "1", build_project(url, ca)))


async def ask_agent(url: str, ca: Path, seconds: float = 30) -> Any:
    agent = foundry.Agent("a", "1", build_project(url, ca))
    return await foundry.run(agent, "1+1?", timeout=seconds)


async def ask_agent_briefly(url: str, ca: Path) -> Any:
    return await ask_agent(url, ca, 0.5)


async def list_blobs(url: str, ca: Path) -> Any:
    storage = BlobStorage(f"{url}/account", "c", key=KEY, ca_file=ca)
    try:
        return await storage.is_empty()
    finally:
        await storage.aclose()


async def sign_link(url: str, ca: Path) -> Any:
    storage = BlobStorage(f"{url}/account", "c", credential=Token(), ca_file=ca)
    try:
        return await storage.link("b", "r", timedelta(minutes=1))
    finally:
        await storage.aclose()


class Token:
    """A sign-in that sends nothing."""

    def get_token(self, *_scopes: str, **_options: Any) -> Any:
        from azure.core.credentials import AccessToken

        return AccessToken("token", int(time.time()) + 3600)


Call = Callable[[str, Path], Awaitable[Any]]
CALLS: list[tuple[Call, type[Exception]]] = [
    (get_resource, ProvisioningError),
    (list_resources, ProvisioningError),
    (post_action, ProvisioningError),
    (list_agents, ProvisioningError),
    (get_endpoint, ProvisioningError),
    (search_accounts, ProvisioningError),
    (delete_agent, ProvisioningError),
    (ask_agent, FoundryError),
    (list_blobs, FileTransferError),
    (sign_link, FileTransferError),
]
IDS = [call.__name__ for call, _ in CALLS]
QUICK = pytest.mark.quick("get_resource", "delete_agent", "ask_agent", "list_blobs")
LISTS = [one for one in CALLS if one[0] in {list_resources, search_accounts, list_blobs}]
BRIEF = [(ask_agent_briefly if call is ask_agent else call, error) for call, error in CALLS]


@QUICK
@pytest.mark.parametrize(("call", "error"), CALLS, ids=IDS)
async def test_an_answer_of_azure_is_stopped_at_its_bound_and_not_asked_for_again(
    call: Call, error: type[Exception], authority: tuple[ssl.SSLContext, Path]
) -> None:
    context, ca = authority
    async with running(context) as server:
        for mode, text in [
            ("endless", "answer is larger than 1,048,576 bytes"),
            ("bomb", "answer is larger than 1,048,576 bytes"),
            ("brotli", "has an encoding that was not asked for"),
        ]:
            server.mode, before, sent = mode, server.requests, server.sent
            with anyio.fail_after(60), pytest.raises(error, match=text) as raised:
                await call(server.url, ca)
            assert isinstance(raised.value, CodeInterpreterError)
            assert server.requests - before == 1, mode
            assert server.sent - sent < 16 * MIB, mode  # the rest are buffers of the system
        assert b"accept-encoding: gzip\r\n" in server.heads[-1]


async def test_a_bomb_of_gzip_takes_no_memory(authority: tuple[ssl.SSLContext, Path]) -> None:
    context, ca = authority
    async with running(context) as server:
        server.mode = "bomb"
        tracemalloc.start()
        try:
            with pytest.raises(ProvisioningError):
                await get_resource(server.url, ca)
            assert tracemalloc.get_traced_memory()[1] < 16 * MIB
        finally:
            tracemalloc.stop()


@pytest.mark.parametrize(("call", "error"), LISTS)
async def test_a_list_of_empty_pages_ends(
    call: Call, error: type[Exception], authority: tuple[ssl.SSLContext, Path]
) -> None:
    context, ca = authority
    async with running(context) as server:
        server.mode = "pages"
        with anyio.fail_after(60), pytest.raises(error, match="list does not end after 5 pages"):
            await call(server.url, ca)
        assert server.requests <= 6


@QUICK
@pytest.mark.parametrize(("call", "error"), BRIEF, ids=IDS)
async def test_an_answer_that_never_gets_done_is_given_up(
    call: Call,
    error: type[Exception],
    authority: tuple[ssl.SSLContext, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(transport, "ANSWER_SECONDS", 0.3)
    context, ca = authority
    async with running(context) as server:
        server.mode = "slow"
        with anyio.fail_after(60), pytest.raises(error, match="did not answer"):
            await call(server.url, ca)
        assert server.requests == 1


async def test_a_compressed_answer_of_azure_is_read(
    authority: tuple[ssl.SSLContext, Path],
) -> None:
    context, ca = authority
    async with running(context) as server:
        server.mode = "zipped"
        assert await get_resource(server.url, ca) == {"name": "n"}
        assert await post_action(server.url, ca) == {"name": "n"}


async def test_a_streamed_answer_is_of_any_size_and_not_inflated() -> None:
    from azure.core import AsyncPipelineClient
    from azure.core.rest import HttpRequest

    async with (
        running() as server,
        AsyncPipelineClient(server.url, transport=transport.BoundedTransport(server.url)) as client,
    ):
        response = await client.send_request(HttpRequest("GET", server.url), stream=True)
        assert sum([len(chunk) async for chunk in response.iter_raw()]) == ENOUGH
        server.mode = "bomb"
        response = await client.send_request(HttpRequest("GET", server.url), stream=True)
        assert sum([len(chunk) async for chunk in response.iter_raw()]) == len(BOMB)
        with pytest.raises(ProtocolError, match="larger than"):
            await client.send_request(HttpRequest("GET", server.url))


async def test_the_sign_in_of_this_machine_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    from cci_plugins.azure import sign_in_transport
    from cci_plugins.azure.credentials import CachedCredential

    monkeypatch.setattr(sign_in_transport, "ANSWER_SECONDS", 0.5)
    for name in ("AZURE_CLIENT_ID", "AZURE_TENANT_ID", "AZURE_FEDERATED_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AZURE_TOKEN_CREDENTIALS", "ManagedIdentityCredential")
    async with running() as server:
        monkeypatch.setenv("IDENTITY_ENDPOINT", f"{server.url}/token")
        monkeypatch.setenv("IDENTITY_HEADER", "secret")
        for mode in ("endless", "bomb", "brotli", "slow"):
            server.mode, before, sent = mode, server.requests, server.sent
            credential = CachedCredential()
            with anyio.fail_after(60), pytest.raises(AuthenticationError) as raised:
                await credential.get_token("https://dynamicsessions.io/.default")
            await credential.close()
            assert "the sign-in service" in str(raised.value), mode
            assert server.requests - before == 1, mode
            assert server.sent - sent < 16 * MIB, mode

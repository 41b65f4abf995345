"""Azure's own SDKs send a token or key to their client's server only, wherever they are led."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import anyio
import pytest

from cci_plugins import BlobStorage
from cci_plugins.azure.options import Azure
from cci_plugins.errors import CodeInterpreterError, FoundryError

trustme = pytest.importorskip("trustme")
foundry: Any = pytest.importorskip("cci_plugins.foundry", exc_type=CodeInterpreterError)  # type: ignore[arg-type]
aiohttp = pytest.importorskip("aiohttp")

pytestmark = pytest.mark.anyio

OWN, OTHER = "account.blob.core.test", "elsewhere.test"
GROUP = "/subscriptions/s/resourceGroups/g/providers"
ACCOUNT = f"{GROUP}/Microsoft.CognitiveServices/accounts/a"


class Token:
    """A sign-in that sends nothing."""

    def get_token(self, *_scopes: str, **_options: Any) -> Any:
        from azure.core.credentials import AccessToken

        return AccessToken("planted-token", int(time.time()) + 3600)


@dataclass
class Servers:
    """One listener with two names, which counts the requests of each.

    Attributes:
        way: How it leads a client elsewhere.
        port: Its port.
        heads: The requests so far.
    """

    way: str = "redirect"
    port: int = 0
    heads: list[str] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"https://{OWN}:{self.port}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, ssl.SSLError):
            try:
                while True:
                    head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
                    size = int(head.partition("content-length: ")[2].partition("\r")[0] or 0)
                    await reader.readexactly(size)
                    self.heads.append(head)
                    writer.write(self._build_answer(head))
                    await writer.drain()
            finally:
                writer.close()

    def _build_answer(self, head: str) -> bytes:
        elsewhere = f"https://{OTHER}:{self.port}/led?api-version=2024-10-01"
        if f"host: {OTHER}" in head:
            return _build_answer("200 OK", {}, {"value": [], "status": "Succeeded"})
        if self.way == "next link":
            return _build_answer("200 OK", {}, {"value": [], "nextLink": elsewhere})
        if self.way == "redirect":
            return _build_answer("307 Temporary Redirect", {"location": elsewhere}, {})
        return _build_answer("202 Accepted", {self.way: elsewhere, "retry-after": "0"}, {})


def _build_answer(status: str, headers: dict[str, str], body: object) -> bytes:
    content = json.dumps(body)
    given = {"content-type": "application/json", "content-length": str(len(content)), **headers}
    lines = "".join(f"{name}: {value}\r\n" for name, value in given.items())
    return f"HTTP/1.1 {status}\r\n{lines}\r\n{content}".encode()


@contextlib.asynccontextmanager
async def running(tls: ssl.SSLContext) -> AsyncIterator[Servers]:
    servers = Servers()
    listener = await asyncio.start_server(servers.serve, "127.0.0.1", 0, ssl=tls)
    servers.port = listener.sockets[0].getsockname()[1]
    try:
        yield servers
    finally:
        listener.close()


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, Path]:
    """A certificate for both names, and the file with its authority."""
    made = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.issue_cert(OWN, OTHER).configure_cert(context)
    path = tmp_path_factory.mktemp("ca") / "ca.pem"
    made.cert_pem.write_to_path(path)
    return context, path


@pytest.fixture(autouse=True)
def names_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Resolve every name of aiohttp's clients to this machine."""

    async def resolve(_self: Any, host: str, port: int = 0, family: Any = 0) -> list[Any]:
        found = {"hostname": host, "host": "127.0.0.1", "port": port}
        return [found | {"family": 2, "proto": 0, "flags": 0}]

    monkeypatch.setattr(aiohttp.connector.DefaultResolver, "resolve", resolve)


async def get_resource(url: str, ca: Path) -> Any:
    from cci_plugins.azure.resource_manager import ArmClient

    async with ArmClient(Azure(credential=Token(), endpoint=url, ca=ca)) as arm:
        return await arm.list(ACCOUNT, "2024-10-01", step="account")


async def post_action(url: str, ca: Path) -> Any:
    from cci_plugins.provisioning.client import ProvisioningClient

    azure = Azure(credential=Token(), endpoint=url, ca=ca, polling=timedelta(0))
    async with ProvisioningClient(azure, "s") as arm:
        return await arm.post(f"{ACCOUNT}/action", "2024-10-01", step="action")


def build_project(url: str, ca: Path) -> Any:
    return foundry.Project(
        f"{url}/api/projects/p", credential=Token(), arm_endpoint=url, ca_file=ca
    )


async def search_accounts(url: str, ca: Path) -> Any:
    return await build_project(url, ca)._find_location("s")


async def delete_agent(url: str, ca: Path) -> Any:
    return await foundry.delete_agent(foundry.Agent("a", "1", build_project(url, ca)))


async def delete_account(url: str, ca: Path) -> Any:
    from cci_plugins.foundry.failures import translate_management_errors

    with translate_management_errors("account", role="Owner"):
        async with build_project(url, ca).management("s") as client:
            poller = await client.accounts.begin_delete("g", "a", polling_interval=0)
            return await poller.result()


async def list_blobs(url: str, ca: Path) -> Any:
    storage = BlobStorage(url, "c", key="a2V5", ca_file=ca)
    try:
        return await storage.is_empty()
    finally:
        await storage.aclose()


async def sign_link(url: str, ca: Path) -> Any:
    storage = BlobStorage(url, "c", credential=Token(), ca_file=ca)
    try:
        return await storage.link("b", "r", timedelta(minutes=1))
    finally:
        await storage.aclose()


Call = Callable[[str, Path], Awaitable[Any]]
LED: list[tuple[Call, str]] = [
    (get_resource, "next link"),
    (search_accounts, "next link"),
    (search_accounts, "redirect"),
    (post_action, "location"),
    (post_action, "azure-asyncoperation"),
    (post_action, "redirect"),
    (delete_account, "location"),
    (delete_account, "azure-asyncoperation"),
    (delete_agent, "redirect"),
    (list_blobs, "redirect"),
    (sign_link, "redirect"),
]


async def test_a_token_or_key_goes_to_no_other_host(
    authority: tuple[ssl.SSLContext, Path],
) -> None:
    context, ca = authority
    async with running(context) as servers:
        for call, way in LED:
            servers.way = way
            servers.heads.clear()
            expected = rf"another host \(https://{OTHER}:{servers.port}\)"
            case = f"{call.__name__}, {way}"
            with anyio.fail_after(60), pytest.raises(CodeInterpreterError, match=expected):
                await call(servers.url, ca)
            assert servers.heads, case
            assert not [head for head in servers.heads if f"host: {OTHER}" in head], case


async def test_a_question_to_an_agent_follows_no_redirect(
    authority: tuple[ssl.SSLContext, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    context, ca = authority
    async with running(context) as servers:
        url = f"https://127.0.0.1:{servers.port}"
        unchecked = ssl.create_default_context(cafile=ca)
        unchecked.check_hostname = False
        monkeypatch.setattr(foundry.Project, "tls", lambda _project: unchecked)
        with anyio.fail_after(60), pytest.raises(FoundryError, match="307"):
            await foundry.run(foundry.Agent("a", "1", build_project(url, ca)), "1+1?")
        assert len(servers.heads) == 1

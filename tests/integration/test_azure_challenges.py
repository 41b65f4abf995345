"""Azure's answers choose neither the scope nor the tenant of a token."""

from __future__ import annotations

import base64
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.sign_ins import Recorder

from cci_plugins.azure.scoped_credential import STORAGE_SCOPE

trustme = pytest.importorskip("trustme")
web = pytest.importorskip("aiohttp.web")
blob: Any = pytest.importorskip("azure.storage.blob.aio")

pytestmark = pytest.mark.anyio
OTHER = "11111111-1111-1111-1111-111111111111"
CLAIMS = base64.urlsafe_b64encode(b'{"access_token":{}}').decode().rstrip("=")
CHALLENGE = (
    f'Bearer authorization_uri="https://login.microsoftonline.com/{OTHER}/oauth2/authorize", '
    'resource_id="https://management.azure.com"'
)


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, Path]:
    """A certificate for this machine, and the file with its authority."""
    made = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.issue_cert("127.0.0.1").configure_cert(context)
    path = tmp_path_factory.mktemp("ca") / "ca.pem"
    made.cert_pem.write_to_path(path)
    return context, path


@asynccontextmanager
async def refusing(challenge: str, tls: ssl.SSLContext) -> AsyncIterator[tuple[str, list[str]]]:
    """Serve 401 with a challenge to everything, and yield the tokens that arrive."""
    tokens: list[str] = []

    async def answer(request: Any) -> Any:
        tokens.append(request.headers.get("authorization", ""))
        return web.Response(status=401, headers={"www-authenticate": challenge})

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
    await site.start()
    try:
        yield f"https://127.0.0.1:{runner.addresses[0][1]}", tokens
    finally:
        await runner.cleanup()


async def test_a_storage_host_gets_no_token_of_another_service_or_tenant(
    authority: tuple[ssl.SSLContext, Path],
) -> None:
    from cci_plugins.errors import AuthenticationError
    from cci_plugins.files.blob import BlobStorage

    for recorder, tenants in ((Recorder(), set()), (Recorder(OTHER), {OTHER})):
        async with refusing(CHALLENGE, authority[0]) as (url, tokens):
            storage = BlobStorage(
                f"{url}/account", "container", credential=recorder, ca_file=authority[1]
            )
            with pytest.raises(AuthenticationError, match="refused to list"):
                await storage.is_empty()
            await storage.aclose()
        assert {asked[0] for asked in recorder.asked} == {STORAGE_SCOPE}
        named = {dict(asked[1:]).get("tenant_id") for asked in recorder.asked}
        assert named - {None} == tenants
        assert len(tokens) > 1


async def test_resource_manager_passes_claims_and_keeps_its_scope(
    authority: tuple[ssl.SSLContext, Path],
) -> None:
    from cci_plugins.azure.options import Azure
    from cci_plugins.azure.resource_manager import ArmClient
    from cci_plugins.errors import CodeInterpreterError

    recorder = Recorder(OTHER)
    challenge = f'{CHALLENGE}, error="insufficient_claims", claims="{CLAIMS}"'
    async with refusing(challenge, authority[0]) as (url, tokens):
        async with ArmClient(Azure(credential=recorder, endpoint=url, ca=authority[1])) as arm:
            with pytest.raises(CodeInterpreterError):
                await arm.get("/subscriptions/s", "2020-01-01", step="read")
        assert {asked[0] for asked in recorder.asked} == {f"{url}/.default"}
        assert recorder.asked[-1][1:] == (("claims", '{"access_token":{}}'),)
    assert tokens[-1] != tokens[0]

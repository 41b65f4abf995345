"""`cci serve --entra`: tokens of an identity server on loopback, with keys of our own."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import anyio
import httpx
import pytest

from cci_plugins import CodeInterpreter
from cci_plugins.errors import AuthenticationError, ConfigurationError
from cci_plugins.models import Execution
from cci_plugins.pools.azure.mcp_pool import PlatformSessionPool
from cci_plugins.testing import FakeSessionPool

from ._server import KEY, serving

pytest.importorskip("mcp")
pytest.importorskip("uvicorn")

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa

from cci_plugins.server import EntraSignIn, SignedEnvironments
from cci_plugins.server.sign_in import KeysError

pytestmark = pytest.mark.anyio

TENANT = "11111111-2222-3333-4444-555555555555"
OTHER_TENANT = "99999999-2222-3333-4444-555555555555"
CLIENT_ID = "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee"
AUDIENCE = f"api://{CLIENT_ID}"
ALICE, BOB = "a11ce000-0000-0000-0000-000000000000", "b0b00000-0000-0000-0000-000000000000"
RUN = "runPythonCodeInRemoteEnvironment"
PING = {"jsonrpc": "2.0", "id": 1, "method": "ping"}


@cache
def build_key(owner: str, key_id: str, bits: int) -> rsa.RSAPrivateKey:
    """Generate a key once for all tests."""
    return rsa.generate_private_key(public_exponent=65537, key_size=bits)


class Identity:
    """An identity server: the keys it publishes and the tokens it signs."""

    def __init__(self, owner: str = "tenant") -> None:
        self.owner = owner
        self.keys: dict[str, rsa.RSAPrivateKey] = {}
        self.requests = 0
        self.document: bytes | None = None
        self.add_key("first")

    def add_key(self, key_id: str, bits: int = 2048) -> None:
        self.keys[key_id] = build_key(self.owner, key_id, bits)

    def build_document(self) -> bytes:
        if self.document is not None:
            return self.document
        keys = [
            jwt.algorithms.RSAAlgorithm.to_jwk(key.public_key(), as_dict=True)
            | {"kid": key_id, "use": "sig"}
            for key_id, key in self.keys.items()
        ]
        return json.dumps({"keys": keys}).encode()

    def sign(self, *, key_id: str = "first", version: int = 2, **claims: Any) -> str:
        now = int(time.time())
        content = {
            "tid": TENANT,
            "oid": ALICE,
            "sub": "subject",
            "iat": now,
            "nbf": now,
            "exp": now + 600,
            "ver": f"{version}.0",
        }
        if version == 1:
            content |= {"iss": f"https://sts.windows.net/{TENANT}/", "aud": AUDIENCE}
        else:
            issuer = f"https://login.microsoftonline.com/{TENANT}/v2.0"
            content |= {"iss": issuer, "aud": CLIENT_ID}
        content = {name: value for name, value in (content | claims).items() if value is not None}
        key = self.keys[key_id]
        return jwt.encode(content, key, algorithm="RS256", headers={"kid": key_id})


@pytest.fixture
def identity() -> Iterator[Identity]:
    served = Identity()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            served.requests += 1
            found = self.path == f"/{TENANT}/discovery/v2.0/keys"
            body = served.build_document() if found else b""
            self.send_response(200 if found else 404)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        served.url = f"http://127.0.0.1:{server.server_port}"
        yield served
        server.shutdown()
        thread.join()


@asynccontextmanager
async def gateway(identity: Identity, pool: FakeSessionPool | None = None, **options: Any):
    sign_in = EntraSignIn(TENANT, audiences=[AUDIENCE], authority=identity.url, **options)
    environments = SignedEnvironments(b"s" * 32)
    pool = FakeSessionPool() if pool is None else pool
    async with serving(pool, environments=environments, rest=False, sign_in=sign_in) as url:
        yield url


async def post(url: str, token: str | None = None, body: dict = PING, **headers: str):
    if token is not None:
        headers["authorization"] = f"Bearer {token}".encode("latin-1")
    async with httpx.AsyncClient(timeout=30) as http:
        return await http.post(url, json=body, headers=headers)


async def call(url: str, token: str | None, tool: str, **arguments: str) -> dict:
    params = {"name": tool, "arguments": arguments}
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
    headers = {"x-ms-apikey": KEY} if token is None else {}
    return (await post(url, token, body, **headers)).json()["result"]


async def test_tokens_of_both_versions_and_the_key_are_accepted(identity):
    with anyio.fail_after(60):
        async with gateway(identity) as url:
            for version in (1, 2):
                assert (await post(url, identity.sign(version=version))).status_code == 200
            assert (await post(url, **{"x-ms-apikey": KEY})).status_code == 200
            assert identity.requests == 1
            refused = await post(url)
    assert refused.status_code == 401
    assert refused.headers["www-authenticate"] == "Key, Bearer"


async def test_a_token_that_does_not_fit_is_refused_with_the_reason_and_without_the_token(identity):
    stranger = Identity("stranger")
    now = int(time.time())
    malformed = {
        "of another tenant": identity.sign(tid=OTHER_TENANT),
        "of another issuer": identity.sign(iss=f"https://sts.windows.net/{OTHER_TENANT}/"),
        "of a lookalike issuer": identity.sign(iss=f"https://evil.example/{TENANT}/v2.0"),
        "for another audience": identity.sign(aud="https://management.azure.com"),
        "without an audience": identity.sign(aud=None),
        "expired": identity.sign(exp=now - 1),
        "that never expires": identity.sign(exp=None),
        "of tomorrow": identity.sign(nbf=now + 86_400),
        "of nobody": identity.sign(oid=None, sub=None),
        "signed by another": stranger.sign(),
        "signed with a secret": jwt.encode({"oid": ALICE}, "s" * 64, headers={"kid": "first"}),
        "without a signature": jwt.encode({"oid": ALICE}, None, "none", headers={"kid": "first"}),
        "changed": identity.sign()[:-8] + "AAAAAAAA",
        "not a token": "x" * 50,
        "too long": "a." + "b" * 20_000 + ".c",
        "not ASCII": "\u00e9",
    }
    with anyio.fail_after(60):
        async with gateway(identity) as url:
            for name, token in malformed.items():
                response = await post(url, token)
                assert response.status_code == 401, name
                assert len(token) < 20 or token not in response.text, name
            reason = (await post(url, malformed["expired"])).json()["error"]["message"]
    assert reason == "The token is not accepted: the token has expired."


async def test_only_callers_on_the_list_are_admitted(identity):
    with anyio.fail_after(60):
        async with gateway(identity, callers=[ALICE.upper(), CLIENT_ID]) as url:
            assert (await post(url, identity.sign())).status_code == 200
            assert (await post(url, identity.sign(oid=BOB, azp=CLIENT_ID))).status_code == 200
            by_app = identity.sign(oid=BOB, version=1, appid=CLIENT_ID)
            assert (await post(url, by_app)).status_code == 200
            refused = await post(url, identity.sign(oid=BOB, sub=ALICE + "x"))
    assert refused.status_code == 403
    assert "list of callers" in refused.json()["error"]["message"]


async def test_rotated_keys_are_fetched_and_removed_ones_forgotten(identity):
    with anyio.fail_after(60):
        async with gateway(identity) as url:
            old = identity.sign()
            assert (await post(url, old)).status_code == 200
            identity.add_key("second")
            del identity.keys["first"]
            assert (await post(url, identity.sign(key_id="second"))).status_code == 200
            assert (await post(url, old)).status_code == 401
            for n in range(20):  # invented ids do not become requests
                identity.keys[f"invented-{n}"] = identity.keys["second"]
                token = identity.sign(key_id=f"invented-{n}")
                del identity.keys[f"invented-{n}"]
                assert (await post(url, token)).status_code == 401
            assert identity.requests <= 5


@pytest.mark.parametrize(
    "document",
    [b"", b"{}", b"[]", b'{"keys": [1, {"kty": "RSA"}]}', b"\xff", b" " * 2**21, b"weak"],
)
async def test_a_wrong_document_of_keys_refuses_everybody(identity, document):
    token = identity.sign()
    if document == b"weak":
        identity.add_key("first", 1024)
    else:
        identity.document = document
    sign_in = EntraSignIn(TENANT, audiences=[AUDIENCE], authority=identity.url)
    with anyio.fail_after(60), pytest.raises(KeysError, match="cannot be fetched"):
        await sign_in.check(token)


async def test_while_the_keys_cannot_be_fetched_the_shared_key_still_opens(identity):
    identity.document = b"broken"
    with anyio.fail_after(60):
        async with gateway(identity) as url:
            refused = await post(url, identity.sign())
            assert (refused.status_code, refused.headers["retry-after"]) == (503, "10")
            assert (await post(url, **{"x-ms-apikey": KEY})).status_code == 200


async def test_known_keys_stay_in_use_while_the_identity_server_fails(identity):
    now = [0.0]
    sign_in = EntraSignIn(
        TENANT, audiences=[AUDIENCE], authority=identity.url, clock=lambda: now[0]
    )
    token = identity.sign()
    assert await sign_in.check(token) == f"{TENANT}/{ALICE}"
    identity.document = b"broken"
    now[0] += 2 * 3600
    assert await sign_in.check(token)
    identity.document = None
    del identity.keys["first"]
    identity.add_key("second")
    now[0] += 2 * 3600
    with pytest.raises(Exception, match="no key of the tenant"):
        await sign_in.check(token)


async def test_an_environment_belongs_to_the_caller_that_launched_it(identity):
    pool = FakeSessionPool(Execution(stdout="hi\n"))
    alice, bob = identity.sign(), identity.sign(oid=BOB)
    with anyio.fail_after(60):
        async with gateway(identity, pool) as url:
            launched = await call(url, alice, "launchShell")
            where = {
                "environmentId": launched["structuredContent"]["environmentId"],
                "pythonCode": "1",
            }
            for other in (bob, None):
                refused = await call(url, other, RUN, **where)
                assert refused["isError"]
                assert "EnvironmentNotFound" in refused["content"][0]["text"]
            assert pool.calls == []
            renewed = identity.sign(version=1, exp=int(time.time()) + 900)
            assert not (await call(url, renewed, RUN, **where))["isError"]
            shared = await call(url, None, "launchShell")
            where["environmentId"] = shared["structuredContent"]["environmentId"]
            assert not (await call(url, None, RUN, **where))["isError"]
            assert (await call(url, alice, RUN, **where))["isError"]


async def test_the_client_signs_in_with_its_credential(identity):
    class Credential:
        scopes: tuple[str, ...] = ()

        def __init__(self):
            self.tokens = [identity.sign(exp=1), identity.sign()]

        def get_token(self, *scopes, **_):
            from types import SimpleNamespace

            self.scopes = scopes
            token = self.tokens[0] if len(self.tokens) == 1 else self.tokens.pop(0)
            return SimpleNamespace(token=token, expires_on=int(time.time()) + 600)

    credential = Credential()
    with anyio.fail_after(60):
        async with gateway(identity, FakeSessionPool(Execution(stdout="hi\n"))) as url:
            async with CodeInterpreter.azure(
                url, credential=credential, audience=AUDIENCE, session_secret=b"s" * 32
            ) as interpreter:
                assert (await interpreter.session("chat").run_code("1")).stdout == "hi\n"
            assert credential.scopes == (f"{AUDIENCE}/.default",)
            expired = identity.sign(exp=1)
            pool = PlatformSessionPool(url, credential=expired, audience=AUDIENCE, patience=0.1)
            async with CodeInterpreter(pool) as wrong:
                with pytest.raises(AuthenticationError):
                    await wrong.session("chat").run_code("1")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tenant": "common"}, "'common' is not the id of a tenant"),
        ({"audiences": []}, "needs an audience"),
        ({"authority": "http://login.example"}, "is not an https URL"),
    ],
)
def test_an_option_that_would_weaken_the_sign_in_is_refused(options, message):
    arguments = {"tenant": TENANT, "audiences": [AUDIENCE]} | options
    with pytest.raises(ConfigurationError, match=message):
        EntraSignIn(arguments.pop("tenant"), **arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--audience", "api://x"), "--audience api://x works only with sign-in"),
        (("--entra", TENANT), "needs the audience"),
        (("--entra", TENANT, "--audience", "x", "--no-key"), "a gateway requires a key"),
        (("--entra", TENANT, "--audience", "x", "--emulate", "custom"), "does not accept --entra"),
    ],
)
def test_the_command_refuses_options_that_do_not_fit(arguments, message, capsys, monkeypatch):
    from cci_plugins.cli import app as cli

    monkeypatch.delenv("CCI_SERVE_KEY", raising=False)
    assert cli.start(["serve", *arguments]) == 3
    assert message in " ".join(capsys.readouterr().err.split())


def test_a_key_or_a_resource_and_an_audience_exclude_each_other():
    with pytest.raises(ConfigurationError, match="a key and the audience of a gateway exclude"):
        CodeInterpreter.azure("https://gateway.example/mcp", key=KEY, audience=AUDIENCE)
    with pytest.raises(ConfigurationError, match="is not an application's ID URI"):
        CodeInterpreter.azure("https://gateway.example/mcp", audience="a b")


@contextmanager
def command(identity: Identity, folder: Path, *arguments: str) -> Iterator[str]:
    """Run `cci serve` and yield its URL."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("AZURE_", "CCI_"))}
    environment |= {"AZURE_AUTHORITY_HOST": identity.url, "CCI_READY_SESSIONS": "0"}
    with subprocess.Popen(
        [sys.executable, "-m", "cci_plugins", "serve", "--port", "0", "--json", *arguments],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield json.loads(process.stdout.readline())["endpoint"]
        finally:
            process.terminate()


@pytest.mark.full  # tests/unit/cli/test_serve_messages.py has its options
async def test_the_command_serves_the_embedded_pool_to_those_who_sign_in(identity, tmp_path):
    pytest.importorskip("jupyter_client")
    pytest.importorskip("typer")
    options = ("--entra", TENANT, "--audience", AUDIENCE, "--caller", ALICE)
    with anyio.fail_after(90), command(identity, tmp_path, *options) as url:
        async with CodeInterpreter.azure(
            url, credential=identity.sign(), audience=AUDIENCE
        ) as interpreter:
            session = interpreter.session("chat")
            await session.run_code("x = 41")
            assert (await session.run_code("x + 1")).results[0].text == "42"
        assert (await post(url, identity.sign(oid=BOB))).status_code == 403

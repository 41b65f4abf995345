"""The gateway's container, as the template starts it: the same command and environment, here.

Where Azure itself would be, the managed identity answers as it does in Container Apps.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from tests.integration._azure import listening

from .snapshots import ROOT, load

pytest.importorskip("mcp")

pytestmark = pytest.mark.slow

SECRETS = {
    "serveKey": "planted-serve-key-0123456789",
    "sessionSecret": "planted-session-secret-0123456789",
}
APP = load("custom-gateway").one("Microsoft.App/containerApps")
CONTAINER = APP.body["properties"]["template"]["containers"][0]
LIMIT = 60
TOKEN = "planted-token-of-the-identity"


class Identity:
    """The endpoint that Container Apps gives an app for its managed identity."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []
        self.app = Starlette(routes=[Route("/msi/token", self._token)])

    async def _token(self, request: Request) -> JSONResponse:
        assert request.headers["x-identity-header"] == "of-this-app"
        query = request.query_params
        self.asked.append((query["client_id"], query["resource"]))
        return JSONResponse(
            {
                "access_token": TOKEN,
                "expires_on": str(int(time.time()) + 3600),
                "resource": query["resource"],
                "token_type": "Bearer",
                "client_id": query["client_id"],
            }
        )


class Gateway(NamedTuple):
    """A running gateway: where, the process, and the identity that it asked."""

    url: str
    process: subprocess.Popen[str]
    identity: Identity


def environment(identity: str) -> dict[str, str]:
    secrets = {
        one["name"]: SECRETS[re.findall(r"parameters\('(\w+)'\)", one["value"])[-1]]
        for one in APP.body["properties"]["configuration"]["secrets"]
    }
    given = {each["name"]: each.get("value") for each in CONTAINER["env"]}
    given |= {e["name"]: secrets[e["secretRef"]] for e in CONTAINER["env"] if "secretRef" in e}
    return given | {
        "AZURE_SESSION_POOL_ENDPOINT": "https://pool.invalid",
        "IDENTITY_ENDPOINT": f"{identity}/msi/token",
        "IDENTITY_HEADER": "of-this-app",
        "PATH": os.environ["PATH"],
        "PYTHONPATH": f"{ROOT / 'src'}",
    }


@pytest.fixture
def gateway(tmp_path: Any) -> Iterator[Gateway]:
    pytest.importorskip("azure.identity")
    arguments = list(CONTAINER["args"])
    for option, value in (("--host", "127.0.0.1"), ("--port", "0")):
        arguments[arguments.index(option) + 1] = value
    with listening((identity := Identity()).app) as address:
        process = subprocess.Popen(
            [sys.executable, "-m", "cci_plugins", *arguments, "--json"],
            cwd=tmp_path,
            env=environment(address),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        try:
            yield Gateway(_announced(process), process, identity)
        finally:
            process.kill()
            process.communicate(timeout=LIMIT)


def _announced(process: subprocess.Popen[str]) -> str:
    """The endpoint that the gateway prints."""
    assert process.stdout is not None
    printed = []
    for line in process.stdout:
        if line.startswith("{"):
            return str(json.loads(line)["endpoint"])
        printed.append(line)
    raise AssertionError("".join(printed))


def test_it_answers_its_probes_asks_for_the_key_and_prints_no_secret(gateway: Gateway) -> None:
    message = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
    with httpx.Client(base_url=gateway.url.removesuffix("/mcp"), timeout=LIMIT) as client:
        for probe in CONTAINER["probes"]:
            assert client.get(probe["httpGet"]["path"]).status_code == 200
        assert client.post("/mcp", json=message).status_code == 401
        key = {"x-ms-apikey": SECRETS["serveKey"], "accept": "application/json, text/event-stream"}
        tools = client.post("/mcp", json=message, headers=key).raise_for_status().json()
    names = {tool["name"] for tool in tools["result"]["tools"]}
    identity = environment("")["AZURE_CLIENT_ID"]
    assert gateway.identity.asked == [(identity, "https://dynamicsessions.io")]
    assert "runPythonCodeInRemoteEnvironment" in names
    gateway.process.terminate()
    printed, _ = gateway.process.communicate(timeout=LIMIT)
    shown = gateway.url + printed
    assert [secret for secret in [TOKEN, *SECRETS.values()] if secret in shown] == []


def test_its_ports_are_the_image_s() -> None:
    ingress = APP.body["properties"]["configuration"]["ingress"]
    ports = {probe["httpGet"]["port"] for probe in CONTAINER["probes"]} | {ingress["targetPort"]}
    assert ports == {6000}
    dockerfile = (ROOT / "infra" / "container" / "Dockerfile").read_text(encoding="utf-8")
    assert "EXPOSE 6000" in dockerfile
    assert f'ENTRYPOINT ["{CONTAINER["command"][0]}"' in dockerfile


def test_only_its_https_address_is_open() -> None:
    ingress = APP.body["properties"]["configuration"]["ingress"]
    assert (ingress["external"], ingress["allowInsecure"]) == (True, False)

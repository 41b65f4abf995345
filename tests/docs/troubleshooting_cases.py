"""Cases of the troubleshooting page: settings in files, the network, and sign-in of a server."""

from __future__ import annotations

import base64
import json
import tempfile
from pathlib import Path
from typing import Any

import anyio
import pytest

from cci_plugins import CodeInterpreter as AsyncCodeInterpreter
from cci_plugins import ErrorInfo, Execution
from cci_plugins.cli.serve_sign_in import build_sign_in
from cci_plugins.common import settings as settings_module
from cci_plugins.common.settings import Settings
from cci_plugins.pools.base import Capabilities
from cci_plugins.pools.network_notes import add_network_note
from cci_plugins.sync import CodeInterpreter

from .cases import happens, record_log

TENANT = "11111111-2222-3333-4444-555555555555"
AUDIENCE = "api://code-interpreter"


@happens("CCI_PYTHON in ./.env is read only when you name that file")
def _(_: object, monkeypatch: pytest.MonkeyPatch) -> object:
    return _read_env_file("CCI_PYTHON=./python", monkeypatch)


@happens(
    "AZURE_SESSION_POOL_MCP_ENDPOINT in ./.env gets the environment's AZURE_SESSION_POOL_MCP_KEY "
    "only when you name that file"
)
def _(_: object, monkeypatch: pytest.MonkeyPatch) -> object:
    monkeypatch.setenv("AZURE_SESSION_POOL_MCP_KEY", "a-key")
    return _read_env_file("AZURE_SESSION_POOL_MCP_ENDPOINT=https://pool.example/mcp", monkeypatch)


def _read_env_file(line: str, monkeypatch: pytest.MonkeyPatch) -> object:
    with tempfile.TemporaryDirectory() as folder, monkeypatch.context() as inside:
        inside.chdir(folder)
        Path(".env").write_text(f"{line}\n", encoding="utf-8")
        return Settings.read()


@happens("CCI_TIMEOUT in ./.env may be above 3,600 only when you name that file")
def _(_: object, monkeypatch: pytest.MonkeyPatch) -> object:
    return _read_env_file("CCI_TIMEOUT=4000", monkeypatch)


@happens("... in ./.env may contain the environment's ... only when you name that file")
def _(_: object, monkeypatch: pytest.MonkeyPatch) -> object:
    monkeypatch.setenv("A_SECRET", "secret")
    return _read_env_file("AZURE_SESSION_POOL_MCP_KEY=key-${A_SECRET}", monkeypatch)


@happens(
    "... in ./.env is not a host of Azure's own, so it gets a token of your sign-in only when you "
    "name that file"
)
def _(_: object, monkeypatch: pytest.MonkeyPatch) -> object:
    with tempfile.TemporaryDirectory() as folder, monkeypatch.context() as inside:
        inside.chdir(folder)
        Path(".env").write_text("AZURE_SESSION_POOL_ENDPOINT=https://x.example\n")
        return AsyncCodeInterpreter.from_env()


@happens("cannot read the settings of ...: ...")
def _(*_: object) -> object:
    return Settings.read(env_file="missing.env")


@happens("MCP_SERVER_URL is ignored: it is not the URL of a session pool")
def _(_: object, monkeypatch: pytest.MonkeyPatch) -> object:
    monkeypatch.setenv("MCP_SERVER_URL", "https://mcp.example/mcp")
    settings_module._note_ignored_url.cache_clear()
    with record_log() as records:
        Settings.read()
    return records[0].getMessage()


@happens("No module named ...")
def _(interpreter: CodeInterpreter, _: object) -> object:
    error = interpreter.run_code("import a_package_that_is_missing").error
    return None if error is None else error.message


@happens("... is not installed and cannot be: the session has no network")
def _(*_: object) -> object:
    return _add_note("ModuleNotFoundError", "No module named 'polars'")


@happens("pip cannot install packages here: the session has no network")
def _(*_: object) -> object:
    return _add_note("CalledProcessError", "No module named pip")


@happens("the session has no network; the host can upload the data, or allow hosts with CCI_EGRESS")
def _(*_: object) -> object:
    return _add_note("gaierror", "[Errno -3] Temporary failure in name resolution")


@happens("the pool cannot be reached (...)")
def _(*_: object) -> object:
    with CodeInterpreter.azure("http://127.0.0.1:1/mcp", key="k" * 32) as interpreter:
        return interpreter.run_code("1")


@happens("--entra ... needs the audience of the tokens")
def _(*_: object) -> object:
    return build_sign_in(TENANT, None, None)


@happens("... works only with sign-in")
def _(*_: object) -> object:
    return build_sign_in(None, [AUDIENCE], None)


@happens("... is not the id of a tenant")
def _(*_: object) -> object:
    return build_sign_in("example.onmicrosoft.com", [AUDIENCE], None)


@happens("the sign-in address ... is not an https URL")
def _(_: object, monkeypatch: pytest.MonkeyPatch) -> object:
    monkeypatch.setenv("AZURE_AUTHORITY_HOST", "http://login.example")
    return build_sign_in(TENANT, [AUDIENCE], None)


@happens("every identity of the tenant ... that gets a token for ... is accepted")
def _(_: object, monkeypatch: pytest.MonkeyPatch) -> object:
    from cci_plugins.cli import console

    warnings: list[str] = []
    monkeypatch.setattr(console, "print_warning", warnings.append)
    build_sign_in(TENANT, [AUDIENCE], None)
    return warnings[0]


@happens("The token is not accepted: ...")
def _(*_: object) -> object:
    return _present("not-a-token")


@happens("The token is valid, but the identity is not on the list of callers")
def _(_: object, monkeypatch: pytest.MonkeyPatch) -> object:
    sign_in = pytest.importorskip("cci_plugins.server.sign_in")

    async def find_key(*_: object) -> None:
        return None

    claims = {"oid": "22222222-2222-3333-4444-555555555555"}
    monkeypatch.setattr(sign_in.EntraSignIn, "_find_key", find_key)
    monkeypatch.setattr(sign_in.EntraSignIn, "_decode", lambda *_: claims)
    return _present(_build_token(), callers=[TENANT])


@happens("The token cannot be checked now: the tenant's keys cannot be fetched")
def _(*_: object) -> object:
    return _present(_build_token(), authority="http://127.0.0.1:1")


def _add_note(name: str, message: str) -> object:
    execution = Execution(error=ErrorInfo(name=name, message=message, traceback=message))
    return add_network_note(execution, Capabilities(egress=False)).notes


def _build_token() -> str:
    """Return a token of Entra's form, which nobody signed."""
    header = json.dumps({"alg": "RS256", "kid": "key", "typ": "JWT"}).encode()
    return ".".join(base64.urlsafe_b64encode(part).decode() for part in (header, b"{}", b"x"))


def _present(token: str, **options: Any) -> str:
    """Return how a gateway with `--entra` answers a request with a token."""
    guard = pytest.importorskip("cci_plugins.server.guard")
    sign_in = guard.EntraSignIn(TENANT, audiences=[AUDIENCE], **options)
    response = anyio.run(guard._check_token, sign_in, token)
    return str(json.loads(response.body)["error"]["message"])

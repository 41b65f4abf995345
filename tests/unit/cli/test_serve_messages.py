"""What `cci serve` prints about its key, its port and the sign-in."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("cci_plugins.server")

from cci_plugins.cli import app as cli
from cci_plugins.cli import serve as serve_command
from cci_plugins.cli.client_setup import Endpoint, format_vscode_config
from cci_plugins.common.limits import Limits

URL = "http://127.0.0.1:54321/mcp"
TENANT = "11111111-2222-3333-4444-555555555555"


def listener(host: str = "127.0.0.1", *, key: str | None) -> serve_command._Listener:
    return serve_command._Listener(
        host, 0, key, key or "unused", as_json=False, limits=Limits(), trusted_proxies=[]
    )


def test_a_server_without_a_key_names_its_port_and_the_tool_that_it_lacks(
    capsys: pytest.CaptureFixture[str],
) -> None:
    listener(key=None).warn_if_exposed(URL)
    printed = " ".join(capsys.readouterr().err.split())
    assert "anyone who reaches 127.0.0.1 port 54321 can run code" in printed
    assert "without a key the tool execute_code is not offered" in printed


@pytest.mark.parametrize(("host", "warns"), [("127.0.0.1", False), ("0.0.0.0", True)])
def test_a_server_with_a_key_warns_of_other_machines_only(
    host: str, capsys: pytest.CaptureFixture[str], *, warns: bool
) -> None:
    listener(host, key="a-key-of-the-server").warn_if_exposed(URL)
    assert ("is not encrypted" in capsys.readouterr().err) is warns


def test_a_client_of_a_server_without_a_key_is_not_asked_for_one() -> None:
    with_key = json.loads(format_vscode_config(Endpoint(URL, "key", "")))
    without = json.loads(format_vscode_config(Endpoint(URL, "unused", "", needs_key=False)))
    assert with_key["inputs"]
    assert without == {"servers": {"code-interpreter": {"type": "http", "url": URL}}}


@pytest.mark.parametrize(("callers", "warns"), [((), True), (("--caller", TENANT), False)])
def test_a_server_that_everybody_of_a_tenant_may_call_says_so(
    callers: tuple[str, ...],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    *,
    warns: bool,
) -> None:
    given: dict[str, object] = {}
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CCI_SERVE_KEY", "a-key-of-the-server")
    monkeypatch.setattr(serve_command, "_serve_pool", lambda *_, **more: given.update(more))
    assert cli.start(["serve", "--entra", TENANT, "--audience", "api://x", *callers]) == 0
    assert ("every identity of the tenant" in " ".join(capsys.readouterr().err.split())) is warns
    assert given["rest"] is False
    assert repr(given["sign_in"]) == f"EntraSignIn({TENANT!r}, audiences=['api://x'])"


def test_an_option_for_every_proxy_must_be_an_address(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.start(["serve", "--port", "0", "--trusted-proxy", "proxy.example"]) == 3
    printed = " ".join(capsys.readouterr().err.split())
    assert "'proxy.example' is not the address or network of a proxy" in printed

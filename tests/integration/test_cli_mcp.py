"""Tests of `cci mcp` as a client starts it, and of the MCP sessions of `cci serve`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from ._command import Command
from .test_cli_serve import environment, ready, serving
from .test_mcp_execute_code import INITIALIZE, call

pytest.importorskip("typer")
pytest.importorskip("cci_plugins.server")

LIMIT = 60
PLANTED = "planted-secret-0123456789abcdef"


@pytest.mark.quick("claude-mcpServers")
@pytest.mark.parametrize(("client", "key"), [("vscode", "servers"), ("claude", "mcpServers")])
def test_the_printed_configuration_starts_a_server(
    command: Command, client: str, key: str, tmp_path: Path
) -> None:
    done = command("mcp", "--print-config", client, "--isolation", "auto")
    assert done.returncode == 0, done.stderr
    server = json.loads(done.stdout)[key]["code-interpreter"]
    assert "--isolation" in server["args"]
    with subprocess.Popen(
        [server["command"], *server["args"]],
        cwd=tmp_path,
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        try:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(INITIALIZE + call(2, "6 * 7"))
            process.stdin.flush()
            assert json.loads(process.stdout.readline())["result"]["serverInfo"]
            answer = json.loads(process.stdout.readline())["result"]
            assert answer["content"][0]["text"] == "42"
            process.communicate(timeout=LIMIT)
        finally:
            process.kill()


def test_sessions_of_a_pool_get_the_variables_of_the_environment(tmp_path: Path) -> None:
    with serving("--emulate", "platform", "--json", cwd=tmp_path) as behind:
        pool = ready(behind)
        variables = environment(
            AZURE_SESSION_POOL_MCP_ENDPOINT=pool["endpoint"],
            AZURE_SESSION_POOL_MCP_KEY=pool["key"],
            CCI_SESSION_ENV_CITY="Bonn",
        )
        with subprocess.Popen(
            [sys.executable, "-m", "cci_plugins", "mcp"],
            cwd=tmp_path,
            env=variables,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        ) as process:
            try:
                assert process.stdin is not None
                assert process.stdout is not None
                process.stdin.write(INITIALIZE + call(2, "import os; os.environ['CITY']"))
                process.stdin.flush()
                process.stdout.readline()
                answer = json.loads(process.stdout.readline())["result"]
                assert answer["content"][0]["text"] == "'Bonn'"
            finally:
                process.kill()


def test_a_missing_client_is_not_an_error(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "cci_plugins", "mcp"],
        cwd=tmp_path,
        env=environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=LIMIT,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, b"")


def test_half_a_configuration_is_an_error_on_standard_error(command: Command) -> None:
    done = command("mcp", AZURE_SESSION_POOL_MCP_KEY=PLANTED)
    assert (done.returncode, done.stdout) == (3, "")
    assert "AZURE_SESSION_POOL_MCP_ENDPOINT is not set" in done.stderr
    assert PLANTED not in done.stderr


def test_keys_of_the_environment_reach_neither_code_nor_log(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "cci_plugins", "--debug", "mcp"]
    secrets = {
        "CCI_SERVE_KEY": PLANTED,
        "CCI_SESSION_SECRET": PLANTED,
        "AZURE_STORAGE_KEY": PLANTED,
    }
    with subprocess.Popen(
        command,
        cwd=tmp_path,
        env=environment(**secrets),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        try:
            assert process.stdin is not None
            assert process.stdout is not None
            code = "import os; print(dict(os.environ)); print(open('/proc/self/environ').read())"
            process.stdin.write(INITIALIZE + call(2, code))
            process.stdin.flush()
            seen = process.stdout.readline() + process.stdout.readline()
            out, err = process.communicate(timeout=LIMIT)
        finally:
            process.kill()
    assert b"PATH" in seen
    assert PLANTED.encode() not in seen + out + err


@pytest.mark.quick("no key")
@pytest.mark.parametrize(
    ("options", "has_sessions"), [((), True), (("--no-key",), False)], ids=["key", "no key"]
)
def test_serve_has_mcp_sessions_if_it_requires_a_key(
    *, options: tuple[str, ...], has_sessions: bool, tmp_path: Path
) -> None:
    import httpx

    with serving("--json", *options, cwd=tmp_path) as process:
        facts = ready(process)
        headers = {"x-ms-apikey": facts["key"]}
        initialize = {"jsonrpc": "2.0", "id": 1, "method": "initialize"}
        with httpx.Client(headers=headers, timeout=LIMIT) as http:
            initialized = http.post(facts["endpoint"], json=initialize)
            assert ("mcp-session-id" in initialized.headers) is has_sessions
            if has_sessions:
                http.headers["mcp-session-id"] = initialized.headers["mcp-session-id"]
            list_tools = {"jsonrpc": "2.0", "id": 2, "method": "tools/list"}
            tools = http.post(facts["endpoint"], json=list_tools).json()["result"]["tools"]
            assert ("execute_code" in [tool["name"] for tool in tools]) is has_sessions

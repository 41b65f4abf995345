"""`cci serve` as a process, and `cci run` with its pool. What is refused needs no process."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil
import pytest

from ._command import Command, Done

pytest.importorskip("cci_plugins.server")

LIMIT = 60
PING = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}


def environment(**more: str) -> dict[str, str]:
    skipped = ("AZURE_", "MCP_", "CCI_SERVE")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(skipped)}
    return kept | {"NO_COLOR": "1"} | more


@contextmanager
def serving(*arguments: str, cwd: Path, **more: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "cci_plugins", "serve", "--port", "0", *arguments]
    with subprocess.Popen(
        command,
        cwd=cwd,
        env=environment(**more),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def read_until(process: subprocess.Popen[str], last: str) -> str:
    """Return standard output up to the line that begins with `last`."""
    assert process.stdout is not None
    text = ""
    while True:
        if "\n" not in text:
            assert select.select([process.stdout], [], [], LIMIT)[0], "no output in time"
        line = process.stdout.readline()
        assert line, process.stderr and process.stderr.read()
        text += line
        if line.startswith(last):
            return text


def ready(process: subprocess.Popen[str]) -> dict[str, str]:
    return json.loads(read_until(process, "{"))


def status_of(url: str, key: str) -> int:
    headers = {"x-ms-apikey": key, "content-type": "application/json"}
    headers["accept"] = "application/json, text/event-stream"
    request = urllib.request.Request(url, json.dumps(PING).encode(), headers)
    try:
        with urllib.request.urlopen(request, timeout=LIMIT) as response:
            return response.status
    except urllib.error.HTTPError as error:
        error.close()
        return error.code


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A server of the embedded pool in a process of its own."""
    with serving("--json", cwd=tmp_path_factory.mktemp("served")) as process:
        yield ready(process)


def run(command: Command, facts: dict[str, str], *arguments: str) -> Done:
    """Run `cci run` in this process, with a served pool."""
    return command(
        "run",
        *arguments,
        AZURE_SESSION_POOL_MCP_ENDPOINT=facts["endpoint"],
        AZURE_SESSION_POOL_MCP_KEY=facts["key"],
    )


def test_a_named_session_keeps_its_variables_between_calls(
    command: Command, served: dict[str, str]
) -> None:
    assert served["isolation"]
    assert run(command, served, "--session", "alice", "x = 41") == (0, "", "")
    assert run(command, served, "--session", "alice", "x + 1").stdout == "42\n"
    other = run(command, served, "--session", "bob", "x")
    assert other.returncode == 1
    assert "NameError" in other.stderr
    unnamed = run(command, served, "'x' in dir()")
    assert unnamed.stdout == "False\n"


def test_a_chart_and_a_file_come_from_the_served_pool(
    command: Command, served: dict[str, str], tmp_path: Path
) -> None:
    code = (
        "import matplotlib.pyplot as plt\nplt.plot([1, 2])\nplt.show()\n"
        "open('out.txt', 'w').write('done');"
    )
    done = run(command, served, code, "--download", "*.txt")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "image-1.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "out.txt").read_text() == "done"


def test_a_wrong_key_exits_with_4_and_a_dead_server_with_5(
    command: Command, served: dict[str, str]
) -> None:
    refused = run(command, served | {"key": "not-the-key-of-this-server"}, "1")
    assert refused.returncode == 4, refused.stderr
    assert refused.stderr.startswith("error: ")
    with socket.socket() as bound:  # it does not listen, so connections are refused
        bound.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{bound.getsockname()[1]}/mcp"
        unreachable = run(command, served | {"endpoint": endpoint}, "1")
    assert unreachable.returncode == 5, unreachable.stderr
    assert "Traceback" not in unreachable.stderr


def test_it_prints_what_to_paste_and_the_key_only_as_data(tmp_path: Path) -> None:
    with serving(cwd=tmp_path) as process:
        data = read_until(process, "}")
        endpoint = re.search(r'^export AZURE_SESSION_POOL_MCP_ENDPOINT="(.*)"$', data, re.MULTILINE)
        key = re.search(r'^export AZURE_SESSION_POOL_MCP_KEY="(.*)"$', data, re.MULTILINE)
        assert endpoint
        assert key
        setup = json.loads(data[data.index("{") :])
        server = setup["servers"]["code-interpreter"]
        assert (server["type"], server["url"]) == ("http", endpoint[1])
        assert data.count(key[1]) == 1, "the key is shown once"
        assert status_of(endpoint[1], key[1]) == 200
        assert status_of(endpoint[1], "wrong") == 401
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=LIMIT)
    assert process.returncode == 0, stderr
    assert "isolation: " in stderr
    assert key[1] not in stderr


def test_a_key_from_the_environment_is_used_and_not_repeated(tmp_path: Path) -> None:
    key = "a-key-of-my-own-choice"
    with serving(cwd=tmp_path, CCI_SERVE_KEY=key) as process:
        data = read_until(process, "}")
        endpoint = re.search(r'ENDPOINT="(.*)"$', data, re.MULTILINE)
        assert endpoint
        assert 'KEY="$CCI_SERVE_KEY"' in data
        assert status_of(endpoint[1], key) == 200
        process.send_signal(signal.SIGTERM)
        _, stderr = process.communicate(timeout=LIMIT)
    assert process.returncode == 0
    assert key not in data + stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_every_process_ends_with_the_server(
    command: Command, tmp_path: Path, number: signal.Signals
) -> None:
    with serving("--json", cwd=tmp_path) as process:
        run(command, ready(process), "--session", "alice", "x = 1")
        children = psutil.Process(process.pid).children(recursive=True)
        assert children
        process.send_signal(number)
        process.communicate(timeout=LIMIT)
    _, alive = psutil.wait_procs(children, timeout=LIMIT)
    assert alive == []


def test_an_address_that_is_taken_is_a_configuration_error(
    command: Command, served: dict[str, str]
) -> None:
    port = served["endpoint"].split(":")[2].split("/")[0]
    refused = command("serve", "--port", port)
    assert refused.returncode == 3
    assert refused.stderr.splitlines()[-3:] == [
        f"error: cannot listen on 127.0.0.1 port {port}: Address already in use",
        "",
        "hint: choose another port, or --port 0 for a free one",
    ]


def test_a_weak_key_is_refused(command: Command) -> None:
    refused = command("serve", "--port", "0", "--api-key", "short")
    assert refused.returncode == 3
    assert refused.stderr.startswith("error: the key must have at least 16")


def test_without_a_key_every_client_is_admitted_with_a_warning(
    command: Command, tmp_path: Path
) -> None:
    with serving("--json", "--no-key", cwd=tmp_path) as process:
        facts = ready(process)
        assert status_of(facts["endpoint"], "any") == 200
        assert run(command, facts, "40 + 2").stdout == "42\n"
        process.send_signal(signal.SIGTERM)
        _, stderr = process.communicate(timeout=LIMIT)
    assert "warning: no key is required: anyone who reaches 127.0.0.1" in stderr


@pytest.mark.parametrize(
    ("arguments", "variables", "named"),
    [
        (["--api-key", "a-key-of-my-own-choice"], {}, "option --api-key"),
        ([], {"CCI_SERVE_KEY": "a-key-of-my-own-choice"}, "variable CCI_SERVE_KEY"),
    ],
)
def test_a_key_and_no_key_exclude_each_other(
    command: Command, arguments: list[str], variables: dict[str, str], named: str
) -> None:
    refused = command("serve", "--port", "0", "--no-key", *arguments, **variables)
    assert refused.returncode == 3
    assert refused.stderr.startswith(f"error: --no-key cannot be combined with the {named}")


def test_sessions_run_on_the_interpreter_that_is_named(command: Command, tmp_path: Path) -> None:
    missing = str(tmp_path / "no-such-python")
    refused = command("serve", "--port", "0", CCI_PYTHON=missing)
    assert refused.returncode == 3
    assert refused.stderr.startswith(f"error: {missing} is not a Python interpreter that runs")


def test_listening_for_others_warns(tmp_path: Path) -> None:
    with serving("--json", "--host", "0.0.0.0", cwd=tmp_path) as process:
        assert ready(process)["endpoint"].startswith("http://127.0.0.1:")
        process.send_signal(signal.SIGTERM)
        _, stderr = process.communicate(timeout=LIMIT)
    assert "warning: listening on 0.0.0.0" in stderr


@pytest.mark.quick("custom --container executions")
@pytest.mark.parametrize(
    "arguments",
    [("platform",), ("managed",), ("custom",), ("custom", "--container", "executions")],
    ids=" ".join,
)
def test_an_emulated_pool_prints_the_variables_that_select_it(
    command: Command, arguments: tuple[str, ...], tmp_path: Path
) -> None:
    with serving("--emulate", *arguments, cwd=tmp_path) as process:
        last = "export " + (
            "AZURE_SESSION_POOL_MCP_KEY" if arguments == ("platform",) else "CCI_ACCESS_TOKEN"
        )
        data = read_until(process, last)
        variables = dict(re.findall(r'^export (\w+)="(.*)"$', data, re.MULTILINE))
        assert len(variables) == 2
        code = "import matplotlib.pyplot as plt\nplt.plot([1, 2])\nplt.show()\n6 * 7"
        done = command("run", code, **variables)
    assert (done.returncode, done.stdout) == (0, "42\n"), done.stderr
    assert (tmp_path / "image-1.png").read_bytes().startswith(b"\x89PNG")


def test_an_emulated_pool_prints_its_endpoint_as_json_and_keeps_to_its_sessions(
    tmp_path: Path,
) -> None:
    options = ("--emulate", "custom", "--json", "--sessions", "1", "--cooldown", "600")
    with serving(*options, cwd=tmp_path) as process:
        pool = ready(process)
        assert not pool["endpoint"].endswith("/mcp")
        url = f"{pool['endpoint']}/executions?api-version=2025-10-02-preview&identifier="
        headers = {"authorization": f"Bearer {pool['key']}"}
        assert httpx.post(f"{url}one-session", headers=headers, json={"code": "1"}).is_success
        refused = httpx.post(f"{url}another", headers=headers, json={"code": "1"})
        assert refused.status_code == 429


def test_a_gateway_serves_a_custom_pool(command: Command, tmp_path: Path) -> None:
    with serving("--emulate", "custom", "--json", cwd=tmp_path) as behind:
        pool = ready(behind)
        variables = {
            "AZURE_SESSION_POOL_ENDPOINT": pool["endpoint"].removesuffix("/mcp"),
            "CCI_ACCESS_TOKEN": pool["key"],
            "CCI_SERVE_KEY": "a-key-of-the-gateway",
            "CCI_SESSION_ENV_CITY": "Bonn",
        }
        with serving("--pool", "custom", "--json", cwd=tmp_path, **variables) as process:
            facts = ready(process) | {"key": "a-key-of-the-gateway"}
            code = "import os; print('streamed', os.environ['CITY']); 6 * 7"
            done = run(command, facts, code)
            assert (done.returncode, done.stdout) == (0, "streamed Bonn\n42\n"), done.stderr
            assert status_of(facts["endpoint"], "another-key-of-somebody") == 401


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--fault-rate", "0.5"), "add --emulate"),
        (("--sessions", "2"), "set CCI_SESSIONS"),
        (("--cooldown", "9"), "set CCI_COOLDOWN"),
        (("--emulate", "platform", "--container", "executions"), "--emulate custom"),
        (("--emulate", "custom", "--no-key"), "leave --no-key out"),
        (("--pool", "custom"), "AZURE_SESSION_POOL_ENDPOINT"),
        (("--pool", "custom", "--emulate", "custom"), "drop one of them"),
    ],
    ids=" ".join,
)
def test_options_that_do_not_fit_together_are_refused(
    command: Command, arguments: tuple[str, ...], expected: str
) -> None:
    refused = command("serve", "--port", "0", *arguments)
    assert refused.returncode == 3, refused.stderr
    assert expected in refused.stderr
    assert "Traceback" not in refused.stderr

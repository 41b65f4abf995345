"""`cci provision` as a command, signed in by a fake of Azure's command line."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import anyio
import anyio.from_thread
import anyio.lowlevel
import anyio.to_thread
import psutil
import pytest

from cci_plugins.pools.local.pool import LocalSessionPool

from ._cloud import Fault, Running, role_gate, running
from ._cloud.values import ARM_TOKEN, DATA_TOKEN, POOL_KEY, ROTATED_KEY, SECRETS, SUBSCRIPTION
from ._command import run_command
from ._emulated import emulated
from ._provision import GROUP

pytestmark = pytest.mark.anyio

LIMIT = 90
AZ = """#!{python} -IS
import json, sys, time
tokens = json.load(open({path!r}))
if sys.argv[1:3] == ["account", "show"]:
    print(json.dumps({{"id": tokens["default"]}}))
    sys.exit()
token = tokens["data" if "https://dynamicsessions.io" in sys.argv else "arm"]
print(json.dumps({{"accessToken": token, "expires_on": int(time.time()) + 3600}}))
"""


class Command:
    """The command, in its own folder."""

    def __init__(self, cloud: Running, folder: Path) -> None:
        self.cloud, self.folder = cloud.cloud, folder / "work"
        self.folder.mkdir()
        tokens, az = folder / "tokens.json", folder / "az"
        tokens.write_text(
            json.dumps({"arm": ARM_TOKEN, "data": DATA_TOKEN, "default": SUBSCRIPTION})
        )
        az.write_text(AZ.format(python=sys.executable, path=str(tokens)))
        az.chmod(az.stat().st_mode | stat.S_IXUSR)
        self.environment = {
            "PATH": f"{folder}:{os.environ['PATH']}",
            "HOME": str(folder),
            "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
            "AZURE_TOKEN_CREDENTIALS": "AzureCliCredential",
            "CCI_ARM_ENDPOINT": cloud.url,
            "SSL_CERT_FILE": str(cloud.ca),
            "COLUMNS": "200",
        }
        self.seen: list[str] = []

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "cci_plugins", *arguments]
        return subprocess.Popen(
            command,
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str) -> tuple[int, str, str]:
        """Return exit code, stdout and stderr. Record command lines that other users can see."""
        with self.start(*arguments) as process:
            while process.poll() is None:
                self._look(process.pid)
                try:
                    out, err = process.communicate(timeout=0.05)
                    break
                except subprocess.TimeoutExpired:
                    continue
            else:
                out, err = process.communicate(timeout=LIMIT)
        self.seen += [out, err]
        return process.returncode, out, err

    def _look(self, pid: int) -> None:
        try:
            process = psutil.Process(pid)
            for one in (process, *process.children(recursive=True)):
                self.seen.append(" ".join(one.cmdline()))
        except psutil.Error:
            pass

    def run_here(self, *arguments: str) -> tuple[int, str, str]:
        """Run the command in this process."""
        code, out, err = run_command(arguments, self.folder, self.environment)
        self.seen += [out, err]
        return code, out, err

    async def __call__(
        self, *arguments: str, group: str = "provision", new_process: bool = False
    ) -> tuple[int, str, str]:
        arguments = (group, *arguments) if group else arguments
        run = self.run if new_process else self.run_here
        with anyio.fail_after(LIMIT):
            return await anyio.to_thread.run_sync(partial(run, *arguments))


@pytest.fixture
def cci(tmp_path: Path) -> Iterator[Command]:
    with running(tmp_path) as cloud:
        yield Command(cloud, tmp_path)
        assert cloud.cloud.wrong == []


WHERE = ("--resource-group", GROUP)
QUICK = (*WHERE, "--yes", "--polling", "0.01")


async def test_up_show_rotate_and_down(cci: Command) -> None:
    env = cci.folder / ".env"
    env.write_text("OTHER=kept\n")
    async with emulated(LocalSessionPool(), partial(role_gate, cci.cloud), kind="platform") as pool:
        cci.cloud.data_plane = pool.url
        code, out, err = await cci("up", *QUICK, "--json", new_process=True)
        assert code == 0, err
        facts = json.loads(out)
        assert facts["environment"]["AZURE_SESSION_POOL_ENDPOINT"] == pool.url
        assert "the pool ran 1+1" in err
        assert env.stat().st_mode & 0o777 == 0o600
        assert env.read_text().startswith("OTHER=kept\n")
        code, out, err = await cci("run", "6 * 7", group="")
        assert (code, out) == (0, "42\n"), err
        seen = "".join((*cci.seen, env.read_text()))
        assert [secret for secret in SECRETS if secret in seen] == []
        writes = len(cci.cloud.writes)
        code, out, err = await cci("up", *QUICK, "--write-key")
        assert code == 0, err
        assert len(cci.cloud.writes) == writes
        assert f"AZURE_SESSION_POOL_ENDPOINT={pool.url}\n" in out
        assert POOL_KEY in env.read_text()
    code, out, err = await cci("show", *WHERE)
    assert code == 0, err
    assert "session pool\tccipool" in out
    assert (await cci("rotate-key", *WHERE))[0] == 0
    assert cci.cloud.key == ROTATED_KEY
    code, _, err = await cci("down", *WHERE)
    assert code == 3
    assert "add --yes" in err
    code, out, err = await cci("down", *QUICK, "--json")
    assert code == 0, err
    assert json.loads(out)["left"] == []
    assert cci.cloud.resources == {}
    seen = "".join(cci.seen)
    assert [secret for secret in SECRETS if secret in seen] == []


async def test_a_plan_changes_nothing(cci: Command) -> None:
    code, out, err = await cci("up", *WHERE, "--kind", "custom", "--gateway", "--plan")
    assert code == 0, err
    assert "+ session pool ccipool" in out
    assert "AcrPull for the identity" in out
    code, out, _ = await cci("up", *WHERE, "--plan", "--json")
    assert {one["action"] for one in json.loads(out)["resources"]} == {"create"}
    assert cci.cloud.writes == []


async def test_the_default_subscription_of_az_is_used_and_shown(cci: Command) -> None:
    cci.cloud.subscriptions.append(("99999999-0000-0000-0000-000000000009", "Production"))
    code, out, err = await cci("up", *WHERE, "--plan")
    assert code == 0, err
    assert f"subscription {SUBSCRIPTION}, region eastus" in out


async def test_a_plan_needs_no_sign_in_and_names_what_to_install(cci: Command) -> None:
    cci.environment["PATH"] = "/nowhere"
    code, out, err = await cci("up", *WHERE, "--kind", "custom", "--plan")
    assert code == 0, err
    assert "? session pool ccipool" in out
    assert "not signed in" in out
    code, _, err = await cci("show", *WHERE)
    assert code == 4
    assert "install Azure's command line" in err


async def test_ctrl_c_prints_how_to_continue(cci: Command) -> None:
    reached = anyio.Event()
    loop_token = anyio.lowlevel.current_token()
    cci.cloud.on_write = lambda number: (
        anyio.from_thread.run_sync(reached.set, token=loop_token) if number == 4 else None
    )
    cci.cloud.looks = 3
    with cci.start("provision", "up", *QUICK, "--env-file", "x.env") as process:
        with anyio.fail_after(LIMIT):
            await reached.wait()
        process.send_signal(signal.SIGINT)
        _, err = await anyio.to_thread.run_sync(process.communicate)
    assert process.returncode == 130
    assert "run the same command again" in err
    assert "Traceback" not in err
    assert not (cci.folder / "x.env").exists()


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("up", "--yes"), "AZURE_RESOURCE_GROUP"),
        (("up", *WHERE), "--yes"),
        (("up", *QUICK, "--gateway"), "--kind custom"),
        (("up", *QUICK, "--tag", "odd"), "--tag NAME=VALUE"),
        (("up", *QUICK, "--name", "Not Valid"), "--name"),
        (("up", *QUICK, "--kind", "custom", "--ready-sessions", "10"), "--ready-sessions"),
        (("show", *WHERE, "--subscription", "mine"), "--subscription"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_wrong_options_are_named(cci: Command, arguments: tuple[str, ...], named: str) -> None:
    code, _, err = cci.run_here("provision", *arguments)
    assert code == 3, err
    assert named in err
    assert "Traceback" not in err
    assert cci.cloud.writes == []


async def test_a_refusal_is_an_error_with_a_hint(cci: Command) -> None:
    code, _, err = await cci("up", *QUICK, "--location", "mars")
    assert code == 6
    assert "hint: use another region" in err
    cci.environment["PATH"] = "/nowhere"
    code, _, err = await cci("show", *WHERE, "--subscription", SUBSCRIPTION)
    assert code == 4
    assert "az login" in err


@pytest.mark.full
def test_on_a_terminal_up_asks_and_no_stops_it(cci: Command) -> None:
    code, err = at_a_terminal(cci, "up", *WHERE, "--polling", "0.01", answer=b"n\n")
    assert "+ session pool ccipool" in err
    assert "Contributor on the resource group" in err
    assert "apply this plan?" in err
    assert code == 130
    assert cci.cloud.writes == []


def test_on_a_terminal_progress_is_shown_and_down_asks(cci: Command) -> None:
    cci.cloud.add_group(GROUP)
    cci.cloud.data_plane = "http://127.0.0.1:9"
    cci.cloud.faults.append(Fault("PUT", "managementpolicies", code="Stop"))
    code, err = at_a_terminal(cci, "up", *WHERE, "--polling", "0.01", answer=b"y\n")
    assert code == 6
    assert "created storage account" in err
    assert "creating session pool" in err  # next to the spinner
    code, err = at_a_terminal(cci, "down", *WHERE, "--polling", "0.01", answer=b"y\n")
    assert code == 0, err
    assert "remove these 2 resources" in err
    assert list(cci.cloud.resources) == [
        f"/subscriptions/{SUBSCRIPTION}/resourcegroups/{GROUP}".lower()
    ]


def at_a_terminal(cci: Command, *arguments: str, answer: bytes) -> tuple[int, str]:
    """Run the command on its own terminal and answer its question."""
    command = [sys.executable, "-m", "cci_plugins", "provision", *arguments]
    terminal, command_side = pty.openpty()
    process = subprocess.Popen(
        command,
        cwd=cci.folder,
        env={**cci.environment, "TERM": "xterm"},
        stdin=command_side,
        stdout=command_side,
        stderr=command_side,
        start_new_session=True,
    )
    os.close(command_side)
    guard = threading.Timer(LIMIT, process.kill)
    guard.start()
    seen, asked = b"", False
    try:
        while chunk := _read(terminal):
            seen += chunk
            if not asked and b"? [y/N]" in seen:
                asked = True
                os.write(terminal, answer)
        return process.wait(LIMIT), re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", seen.decode())
    finally:
        guard.cancel()
        process.kill()
        process.wait(LIMIT)
        os.close(terminal)


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 4096)
    except OSError:  # the other end was closed
        return b""


async def test_compute_and_secrets_are_options_and_no_value_is_on_a_command_line(
    cci: Command,
) -> None:
    custom = ("up", *QUICK, "--kind", "custom")
    size = ("--cpu", "2", "--memory", "4Gi", "--env", "REGION=north", "--secret", "API_TOKEN")
    code, _, err = await cci(*custom, *size)
    assert code != 0
    assert "the secret API_TOKEN has no value" in err
    assert "hint: set the variable API_TOKEN" in err
    code, _, err = await cci(*custom, "--secret", "API_TOKEN=planted-on-the-command-line")
    assert code != 0
    assert "planted-on" not in err
    assert cci.cloud.resources == {}
    code, out, _ = await cci("up", *WHERE, "--kind", "custom", *size, "--logs", "--plan", "--json")
    assert code == 0  # a plan needs no secret
    assert any("2 CPU and 4Gi" in line for line in json.loads(out)["billed"])
    cci.environment["API_TOKEN"] = "planted-value-of-the-secret"
    cci.cloud.everything_registered()
    with cci.start("provision", *custom, *size) as process:
        while process.poll() is None:
            pools = cci.cloud.of_type("Microsoft.App/sessionPools")
            if pools and pools[0]["properties"]["provisioningState"] == "Succeeded":
                process.kill()  # before it runs code in the pool, which is not there
            cci._look(process.pid)
            await anyio.sleep(0.05)
    (pool,) = cci.cloud.of_type("Microsoft.App/sessionPools")
    assert pool["properties"]["secrets"] == [
        {"name": "api-token", "value": cci.environment["API_TOKEN"]}
    ]
    code, out, _ = await cci("show", *WHERE)
    assert code == 0
    assert "session size\t2 CPU, 4Gi" in out
    assert "session variables\tREGION, API_TOKEN" in out
    code, out, _ = await cci("show", *WHERE, "--json")
    shown = json.loads(out)["deployment"]
    assert (shown["cpu"], shown["memory"], shown["secrets"]) == (2, "4Gi", ["API_TOKEN"])
    seen = " ".join(one for one in cci.seen if "planted-on" not in one)
    assert cci.environment["API_TOKEN"] not in seen

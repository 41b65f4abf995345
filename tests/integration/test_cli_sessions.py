"""`cci sessions` and `cci notebook` with a real server, and what they never show."""

import base64
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import nbformat
import pytest

from cci_plugins.cli.app import start

from ._command import Command, Done

pytest.importorskip("cci_plugins.server")

LIMIT = 90
KEY = "a-key-of-the-console-tests"
SECRET = "planted-secret-of-a-session"
VERSION = "2025-10-02-preview"
HOSTILE = r"""
import sys
print("\x1b]0;owned\x07\x1b[2Jred \x9b31m \u202egpj.exe <script>alert(1)</script>")
print("run 99 succeeded")
print("\x1b[31mwarning", file=sys.stderr)
from IPython.display import HTML, display
display(HTML("<img src=x onerror=alert(1)>"))
raise ValueError("\x1b[5mblink")
"""
TICKS = """
import os, time
print("first", flush=True)
while not os.path.exists("seen"): time.sleep(0.01)
print("second")
"the end"
"""


def environment(**more: str) -> dict[str, str]:
    skipped = ("AZURE_", "MCP_", "CCI_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(skipped)}
    return kept | {"NO_COLOR": "1", "CCI_READY_SESSIONS": "0", "CCI_SERVE_KEY": KEY} | more


@contextmanager
def serving(folder: Path, *arguments: str) -> Iterator[str]:
    command = [sys.executable, "-m", "cci_plugins", "serve", "--port", "0", "--json", *arguments]
    with subprocess.Popen(
        command, cwd=folder, env=environment(), stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            yield json.loads(process.stdout.readline())["endpoint"]
        finally:
            process.kill()


class Console:
    """A server with a console, and all that the command line printed about it."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder, self.url = folder, url
        self.printed = ""
        base = url.removesuffix("/mcp")
        self.http = httpx.Client(base_url=base, headers={"x-ms-apikey": KEY}, timeout=LIMIT)

    def cci(self, command: Command, *arguments: str, **more: str) -> Done:
        done = command(*arguments, CCI_SERVE_KEY=KEY, **more)
        self.printed += done.stdout + done.stderr
        return done

    def ask(self, command: Command, *arguments: str) -> Done:
        return self.cci(command, *arguments, "--server", self.url)

    def run(self, session: str, **body: object) -> None:
        query = {"api-version": VERSION, "identifier": session}
        self.http.post("/executions", params=query, json=body).raise_for_status()

    def upload(self, session: str, name: str) -> None:
        query = {"api-version": VERSION, "identifier": session}
        self.http.post("/files", params=query, files={"file": (name, b"")}).raise_for_status()


@pytest.fixture(scope="module")
def console(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Console]:
    folder = tmp_path_factory.mktemp("console")
    with serving(folder, "--console") as url:
        served = Console(folder, url)
        with served.http:
            served.run("hostile-1", code=HOSTILE)
            served.run("hostile-1", shellCommand="echo from the shell > note.txt; cat note.txt")
            yield served


def test_every_session_is_listed_with_its_runs(command: Command, console: Console) -> None:
    settings = {
        "AZURE_SESSION_POOL_MCP_ENDPOINT": console.url,
        "AZURE_SESSION_POOL_MCP_KEY": KEY,
        "SESSION_VALUE": SECRET,
    }
    code = f"import os\nprint(os.environ['SESSION_VALUE'], {SECRET!r})"
    done = console.cci(
        command, "run", code, "--session", "mine", "--env", "SESSION_VALUE", **settings
    )
    assert done.stdout == "[redacted] [redacted]\n", done.stderr
    listed = console.cci(command, "sessions", "list", **settings)
    head, *rows = listed.stdout.splitlines()
    assert head.split() == ["SESSION", "STATE", "RUNS", "LAST", "USED", "ENDS"]
    cells = {row.split()[0]: row.split()[1:3] for row in rows}
    assert cells["hostile-1"] == ["idle", "2"]
    (mine,) = (name for name in cells if name.startswith("cci-"))
    facts = json.loads(console.ask(command, "sessions", "list", "--json").stdout)
    assert {one["identifier"] for one in facts} >= {"hostile-1", mine}
    shown = console.ask(command, "sessions", "show", mine).stdout
    assert "  > print(os.environ['SESSION_VALUE'], '[redacted]')" in shown
    assert "  | [redacted] [redacted]\n" in shown


def test_hostile_output_is_escaped_and_cannot_pass_for_ours(
    command: Command, console: Console
) -> None:
    shown = console.ask(command, "sessions", "show", "hostile-1").stdout
    assert not set(shown) - {"\n"} & {chr(code) for code in [*range(32), *range(127, 160), 0x202E]}
    assert r"  | \x1b]0;owned\x07\x1b[2Jred \x9b31m \u202egpj.exe" in shown
    assert "  | run 99 succeeded\n" in shown
    assert "\nrun 99" not in shown
    assert r"  ! \x1b[31mwarning" in shown
    assert r"ValueError: \x1b[5mblink" in shown
    assert "  > !echo from the shell > note.txt; cat note.txt\n  | from the shell\n" in shown
    assert "  | [text/html]\n" in shown
    facts = console.ask(command, "sessions", "show", "hostile-1", "--json").stdout
    assert "\x1b" not in facts
    first, second = json.loads(facts)
    assert (first["status"], second["status"], second["entry"]) == ("failed", "succeeded", "rest")


def test_files_and_the_notebook_are_those_of_the_session(
    command: Command, console: Console, tmp_path: Path
) -> None:
    assert console.ask(command, "sessions", "files", "hostile-1").stdout.split() == [
        *("BYTES", "NAME"),
        *("15", "note.txt"),
    ]
    target = tmp_path / "what-ran.ipynb"
    done = console.ask(command, "notebook", "hostile-1", "--output", str(target))
    assert done.returncode == 0, done.stderr
    notebook = nbformat.read(target, as_version=4)
    nbformat.validate(notebook)
    assert [cell.source.splitlines()[-1] for cell in notebook.cells] == [
        r'raise ValueError("\x1b[5mblink")',
        "!echo from the shell > note.txt; cat note.txt",
    ]
    again = console.ask(command, "notebook", "hostile-1", "--output", str(target))
    assert (again.returncode, "add --overwrite" in again.stderr) == (2, True)


def test_a_run_is_watched_while_it_runs_until_its_session_ends(
    command: Command, console: Console
) -> None:
    console.run("watched-1", code="1")
    watch = [sys.executable, "-m", "cci_plugins", "sessions", "watch", "watched-1"]
    with subprocess.Popen(
        [*watch, "--server", console.url],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        lines: list[str] = []
        try:
            while not lines or "succeeded" not in lines[-1]:
                lines.append(process.stdout.readline())
            runner = threading.Thread(
                target=console.run, args=("watched-1",), kwargs={"code": TICKS}
            )
            runner.start()
            while "| first" not in lines[-1]:  # the code runs until this line was seen
                lines.append(process.stdout.readline())
            console.upload("watched-1", "seen")
            while "| 'the end'" not in lines[-1]:
                lines.append(process.stdout.readline())
            runner.join(LIMIT)
            ended = console.ask(command, "sessions", "end", "watched-1")
            assert (ended.returncode, ended.stderr) == (0, "ended watched-1\n")
            process.wait(LIMIT)  # `communicate` would leave out what `readline` has read ahead
            rest, messages = process.stdout.read(), process.stderr.read()
        finally:
            process.kill()
    assert "| second" in [line.strip() for line in lines]
    assert rest.startswith("run ")
    assert "the session has ended" in messages
    assert process.returncode == 0
    refused = console.ask(command, "sessions", "end", "watched-1")
    assert refused.returncode == 5
    assert "the session 'watched-1' has ended, or never existed" in refused.stderr


def test_errors_name_the_next_step(
    console: Console, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in [name for name in os.environ if name.startswith(("AZURE_", "MCP_", "CCI_"))]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(console.folder)
    for arguments, code, text in (
        (("sessions", "show", "nobody-1", "--server", console.url), 5, "cci sessions list"),
        (("sessions", "files", "nobody-1", "--server", console.url), 5, "cci sessions list"),
        (("sessions", "watch", "nobody-1", "--server", console.url), 5, "cci sessions list"),
        (("notebook", "nobody-1", "--server", console.url), 5, "cci sessions list"),
        (("sessions", "list", "--server", console.url, "--key", "not-the-key"), 4, "HTTP 401"),
        (("sessions", "list", "--server", "http://127.0.0.1:1"), 5, "cannot be reached"),
        (("sessions", "list"), 3, "cci serve --console"),
        (("serve", "--console", "--no-key"), 3, "--console needs a key"),
        (("serve", "--console", "--emulate", "platform"), 3, "an emulated pool has no console"),
    ):
        monkeypatch.setenv("CCI_SERVE_KEY", KEY)
        if "--no-key" in arguments:
            monkeypatch.delenv("CCI_SERVE_KEY")
        assert start(arguments) == code, arguments
        printed = capsys.readouterr()
        assert text in printed.err, (arguments, printed.err)
        assert printed.out == ""


def test_no_key_and_no_secret_was_printed(console: Console) -> None:
    assert KEY not in console.printed
    assert SECRET not in console.printed
    assert base64.b64encode(SECRET.encode()).decode() not in console.printed

"""`cci mcp --mount`: copies of a folder of the user in the client's session."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ._command import Command
from .test_cli_serve import environment
from .test_mcp_execute_code import INITIALIZE, call

pytest.importorskip("typer")
pytest.importorskip("cci_plugins.server")

LIMIT = 110
LIST = json.dumps({"jsonrpc": "2.0", "id": 9, "method": "tools/list"}).encode() + b"\n"
FILES = (
    "import pathlib; open('sales.csv', 'a').write('!'); "
    "print(sorted(str(p) for p in pathlib.Path().rglob('*') if p.is_file()))"
)


def talk(cwd: Path, *arguments: str, requests: bytes, count: int) -> tuple[dict[int, Any], str]:
    """Return this many results of a server by their ids, and what it wrote to standard error."""
    results: dict[int, Any] = {}
    with subprocess.Popen(
        [sys.executable, "-m", "cci_plugins", "mcp", *arguments],
        cwd=cwd,
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        try:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(INITIALIZE + requests)
            process.stdin.flush()
            while len(results) < count:
                answer = json.loads(process.stdout.readline())
                if "id" in answer:
                    results[answer["id"]] = answer.get("result", answer)
            _, errors = process.communicate(timeout=LIMIT)
        finally:
            process.kill()
    return results, errors.decode()


def test_the_session_gets_copies_of_the_folder_and_of_nothing_else(tmp_path: Path) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("outside")
    folder = tmp_path / "data"
    (folder / "sub").mkdir(parents=True)
    (folder / "sales.csv").write_text("price")
    (folder / "sub" / "more.csv").write_text("1")
    (folder / "inside.csv").symlink_to(folder / "sales.csv")
    (folder / "out.txt").symlink_to(secret)
    (folder / "outside").symlink_to(tmp_path)
    (folder / ".env").write_text("KEY=1")
    (folder / ".hidden").mkdir()
    (folder / ".hidden" / "a.txt").write_text("1")

    requests = LIST + call(2, FILES)
    answers, errors = talk(tmp_path, "--mount", "data", requests=requests, count=3)
    tools = answers[9]["tools"]
    assert [tool["name"] for tool in tools] == ["execute_code"]
    assert "inside.csv, sales.csv, sub/more.csv" in tools[0]["description"]
    text = answers[2]["content"][0]["text"]
    assert "['inside.csv', 'sales.csv', 'sub/more.csv']" in text
    assert (folder / "sales.csv").read_text() == "price"
    assert "copies of 3 files (11 bytes) of data go into the session\n" in errors


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--mount", "missing"), "missing is not a folder"),
        (("--mount", "file.txt"), "file.txt is not a folder"),
    ],
)
def test_a_folder_that_cannot_be_mounted_is_an_error_at_the_start(
    command: Command, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    (tmp_path / "file.txt").write_text("1")
    done = command("mcp", *arguments)
    assert (done.returncode, done.stdout) == (3, "")
    assert message in done.stderr


def test_all_tools_are_offered_on_request(tmp_path: Path) -> None:
    answers, _ = talk(tmp_path, "--all-tools", requests=LIST, count=2)
    names = [tool["name"] for tool in answers[9]["tools"]]
    assert names[0] == "execute_code"
    assert "launchShell" in names

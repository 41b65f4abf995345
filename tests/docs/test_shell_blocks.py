"""Every shell block of the documentation runs, or contains commands that exist."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from .blocks import ROOT, Block, blocks, first_of_each_page

LIMIT = 60
_KNOWN = re.compile(
    r"(pip install|cci (run|serve|mcp|doctor|provision (up|show|down|rotate-key))"
    r"|cci foundry (connect|disconnect)"
    r"|cci (notebook|sessions (list|show|watch|files|end)) "
    r"|az (login$|(deployment )?group|feature|provider)|export [A-Z_]+=|make \w+$|sudo apt install)"
)


def transcript(block: Block) -> list[tuple[str, str]]:
    """Return the commands of a block and the output of each."""
    parts = re.split(r"^\$ ", block.text, flags=re.MULTILINE)
    assert parts[0] == "", f"{block.place} does not begin with a command"
    return [(part.partition("\n")[0], part.partition("\n")[2]) for part in parts[1:]]


def run_transcript(
    block: Block, programs: Path, folder: Path, limit: float = LIMIT
) -> Iterator[tuple[str, list[str], list[str]]]:
    """Run the commands of a block. Yield each, the lines that it printed, and those it should.

    Args:
        block: The block.
        programs: Folder that comes first on PATH.
        folder: Where the commands run.
        limit: Longest time of a command, in seconds.
    """
    with tempfile.TemporaryDirectory() as home:  # some commands change the user's settings
        homes = dict.fromkeys(("HOME", "APPDATA", "XDG_CONFIG_HOME"), home)
        path = f"{programs}:{os.environ['PATH']}"
        for command, expected in transcript(block):
            done = subprocess.run(
                ["/bin/sh", "-c", command],
                cwd=folder,
                env=os.environ | homes | {"PATH": path, "NO_COLOR": "1"},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=limit,
                check=False,
            )
            lines = [line for line in done.stdout.splitlines() if "isolation" not in line]
            yield command, lines, expected.splitlines()


@pytest.fixture
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with `cci` and `python` that run this interpreter."""
    folder = tmp_path_factory.mktemp("bin")
    for name, arguments in (("cci", "-m cci_plugins "), ("python", "")):
        program = folder / name
        program.write_text(f'#!/bin/sh\nexec {sys.executable} {arguments}"$@"\n')
        program.chmod(0o755)
    return folder


@pytest.mark.parametrize("block", first_of_each_page("console"))
def test_a_transcript_prints_its_expected_output(block: Block, path: Path, tmp_path: Path) -> None:
    for command, printed, expected in run_transcript(block, path, tmp_path):
        assert printed == expected, command


@pytest.mark.parametrize("block", blocks("sh"), ids=lambda block: block.place)
def test_a_command_names_existing_extras_and_targets(block: Block) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for line in block.text.replace("\\\n", "").splitlines():
        assert _KNOWN.match(line.strip()), f"{block.place}: {line}"
        for named in re.findall(r"(?:cci-plugins|\.)\[([\w,-]+)\]", line):
            assert set(named.split(",")) <= set(extras), line
        if line.startswith("make "):
            assert line.split()[1] in targets, line


@pytest.mark.parametrize("block", blocks("json"), ids=lambda block: block.place)
def test_a_json_block_is_valid_json(block: Block) -> None:
    json.loads(block.text)


def test_every_block_has_a_language_that_is_tested() -> None:
    known = {"python", "console", "dockerfile", "sh", "json", "text"}
    assert {block.kind for block in blocks()} <= known

"""The command `cci` in the process of the tests. A process of its own takes a second to begin."""

from __future__ import annotations

import io
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pytest

from cci_plugins.cli import app

OF_POOLS = ("AZURE_", "CCI_", "MCP_")


class Done(NamedTuple):
    """What a command returned and printed."""

    returncode: int
    stdout: str
    stderr: str


@dataclass
class Command:
    """Runs `cci` in a folder, without the settings of this process's pools."""

    folder: Path
    monkeypatch: pytest.MonkeyPatch
    capsys: pytest.CaptureFixture[str]

    def __call__(self, *arguments: str, stdin: str = "", **variables: str) -> Done:
        with self.monkeypatch.context() as patch:
            for name in [name for name in os.environ if name.startswith(OF_POOLS)]:
                if name != "CCI_ISOLATION":
                    patch.delenv(name)
            for name, value in {"NO_COLOR": "1", **variables}.items():
                patch.setenv(name, value)
            patch.chdir(self.folder)
            patch.setattr(sys, "stdin", io.StringIO(stdin))
            self.capsys.readouterr()
            code = app.start(arguments)
            return Done(code, *self.capsys.readouterr())

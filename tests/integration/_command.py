"""The command `cci` in the process of the tests. A process of its own takes a second to begin."""

from __future__ import annotations

import io
import logging
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import chdir, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

import pytest

from cci_plugins.cli import app

OF_POOLS = ("AZURE_", "CCI_", "MCP_")


@contextmanager
def unchanged_loggers() -> Iterator[None]:
    """Undo what the command does to loggers, which `caplog` of later tests reads."""
    loggers = [logging.getLogger(name) for name in ("cci_plugins", "azure")]
    before = [(list(logger.handlers), logger.propagate) for logger in loggers]
    try:
        yield
    finally:
        for logger, state in zip(loggers, before, strict=True):
            logger.handlers, logger.propagate = state


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
        with self.monkeypatch.context() as changes, unchanged_loggers():
            for name in [name for name in os.environ if name.startswith(OF_POOLS)]:
                if name != "CCI_ISOLATION":
                    changes.delenv(name)
            for name, value in {"NO_COLOR": "1", **variables}.items():
                changes.setenv(name, value)
            changes.chdir(self.folder)
            changes.setattr(sys, "stdin", io.StringIO(stdin))
            self.capsys.readouterr()
            code = app.start(arguments)
            return Done(code, *self.capsys.readouterr())


def run_command(arguments: Sequence[str], folder: Path, environment: Mapping[str, str]) -> Done:
    """Run the command with this environment alone, in any thread, but one at a time."""
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2))
    with (
        patch.dict(os.environ, environment, clear=True),
        chdir(folder),
        redirect_stdout(out),
        redirect_stderr(err),
        unchanged_loggers(),
    ):
        code = app.start(arguments)
    return Done(code, *(stream.buffer.getvalue().decode() for stream in (out, err)))

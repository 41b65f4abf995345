"""Run a sample: in a process of its own, or in this one, where a framework is imported once."""

from __future__ import annotations

import io
import logging
import os
import runpy
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SAMPLES = ROOT / "samples"
Done = subprocess.CompletedProcess[str]


def run(*command: str, cwd: Path, given: str = "", **variables: str) -> Done:
    """Run Python with these arguments in a new process."""
    kept = {name: value for name, value in os.environ.items() if "OPENAI" not in name}
    return subprocess.run(
        [sys.executable, *command],
        capture_output=True,
        check=False,
        cwd=cwd,
        env={**kept, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}", "NO_COLOR": "1", **variables},
        input=given,
        text=True,
        timeout=280,
    )


def run_here(*command: str, cwd: Path, given: str = "", **variables: str) -> Done:
    """Run the same script or module in this process, as `__main__`.

    Its warnings are errors, as those of a test are.
    """
    printed, warned = io.StringIO(), io.StringIO()
    levels = [(logger, logger.level) for logger in map(logging.getLogger, (None, "cci_plugins"))]
    before = set(sys.modules)
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if "OPENAI" in name]:
            patch.delenv(name)
        for name, value in {"NO_COLOR": "1", **variables}.items():
            patch.setenv(name, value)
        patch.chdir(cwd)
        patch.setattr(sys, "stdin", io.StringIO(given))
        patch.setattr(sys, "argv", [command[-1]])
        patch.syspath_prepend(str(cwd if command[0] == "-m" else SAMPLES))
        try:
            with redirect_stdout(printed), redirect_stderr(warned):
                code = _run_as_main(*command)
        finally:
            for logger, level in levels:
                logger.setLevel(level)
            for name in set(sys.modules) - before:  # the scripts' own `models`
                if Path(getattr(sys.modules[name], "__file__", None) or "/").parent == SAMPLES:
                    del sys.modules[name]
    return subprocess.CompletedProcess(command, code, printed.getvalue(), warned.getvalue())


def _run_as_main(*command: str) -> int:
    """Run the program, and return what its process would return."""
    try:
        if command[0] == "-m":
            runpy.run_module(command[1], run_name="__main__")
        else:
            runpy.run_path(command[0], run_name="__main__")
    except SystemExit as ended:
        if isinstance(ended.code, str):
            sys.stderr.write(f"{ended.code}\n")
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    return 0

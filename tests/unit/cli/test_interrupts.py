"""Ctrl-C at moments in which Python alone would print a traceback, or swallow it."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

pytest.importorskip("typer")

from cci_plugins.cli.interrupts import defer_interrupt, ignore_interrupt

# presses Ctrl-C when a module is looked for, and may swallow it as importlib's callbacks do
PROGRAM = """
import os, signal, sys
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            sys.meta_path.remove(self)
            try:
                os.kill(os.getpid(), signal.SIGINT)
                (lambda: None)()
            except KeyboardInterrupt:
                if not {swallows}:
                    raise
sys.meta_path.insert(0, Finder())
from cci_plugins.cli import main
main({arguments!r})
"""
VERSION, RUN = ["--version"], ["run", "print(1)", "--isolation", "process"]


def run_program(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=folder,
        check=False,
    )


@pytest.mark.parametrize("swallows", [False, True])
@pytest.mark.parametrize(
    ("module", "arguments"),
    [
        ("typer", VERSION),
        ("cci_plugins.cli.foundry", VERSION),
        ("cci_plugins.sync", RUN),  # the embedded pool starts meanwhile
    ],
)
def test_ctrl_c_while_modules_load_ends_the_command(
    module: str, arguments: list[str], tmp_path: Path, *, swallows: bool
) -> None:
    pytest.importorskip("jupyter_client")
    code = PROGRAM.format(module=module, arguments=arguments, swallows=swallows)
    done = run_program(code, tmp_path)
    assert (done.returncode, done.stdout) == (130, ""), done.stderr
    assert "error: interrupted" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_interrupt_is_raised_after_the_block() -> None:
    steps = []

    def work() -> None:
        with defer_interrupt():
            signal.raise_signal(signal.SIGINT)
            steps.append("went on")

    with pytest.raises(KeyboardInterrupt):
        work()
    assert steps == ["went on"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_what_another_owner_does_at_ctrl_c_stays() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with defer_interrupt():
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
        signal.signal(signal.SIGINT, before)
        thread = threading.Thread(target=ignore_interrupt)  # it may not set a handler
        thread.start()
        thread.join()
        assert signal.getsignal(signal.SIGINT) is before
        ignore_interrupt()
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_second_ctrl_c_does_not_disturb_the_end(tmp_path: Path) -> None:
    code = """
import atexit, os, signal
def press():
    os.kill(os.getpid(), signal.SIGINT)
    print("ended")
atexit.register(press)
from cci_plugins.cli import main
main(["--version"])
"""
    done = run_program(code, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("ended\n")

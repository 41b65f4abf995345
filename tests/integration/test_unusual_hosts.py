"""Applications on unusual hosts: the embedded pool works there, or says why it does not."""

from __future__ import annotations

import json
import os
import shutil
import site
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import cci_plugins

if sys.platform != "linux":
    pytest.skip("these hosts run Linux", allow_module_level=True)

pytestmark = pytest.mark.slow

LIMIT = 100
SOURCE = str(Path(cci_plugins.__file__).parents[1])
PACKAGES = site.getsitepackages()[0]
APP = """
import asyncio, json, os, signal, sys
if "ignore-children" in sys.argv:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
from cci_plugins import CodeInterpreter
from cci_plugins.errors import CodeInterpreterError
from cci_plugins.pools.local.pool import LocalSessionPool

CODE = '''
import os, subprocess, sys
print(os.getuid())
subprocess.run([sys.executable, "-c", "import zmq"], check=True)
'''

def count_zombies():
    count = 0
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/stat") as file:
                state, parent = file.read().rpartition(")")[2].split()[:2]
            count += state == "Z" and int(parent) == os.getpid()
        except OSError:
            pass
    return count

async def main():
    pool = LocalSessionPool(isolation=sys.argv[1], ready_sessions=0, preload=())
    try:
        async with CodeInterpreter(pool) as interpreter:
            execution = await interpreter.run_code(CODE)
            found = {"uid": execution.stdout.strip(), "error": repr(execution.error)}
            if "end" in sys.argv:
                await interpreter.session("other").run_code("import os; os._exit(3)")
        await asyncio.sleep(0.1)
        found["zombies"] = count_zombies()
    except CodeInterpreterError as error:
        found = {"raised": str(error), "hint": error.hint}
    print(json.dumps(found))

asyncio.run(main())
"""


@pytest.fixture(params=["bwrap", "landlock"])
def backend(request: pytest.FixtureRequest) -> str:
    if request.param == "bwrap" and shutil.which("bwrap") is None:
        pytest.skip("bubblewrap is not installed")
    return str(request.param)


def run_app(*arguments: str, before: tuple[str, ...] = (), **variables: str) -> dict[str, Any]:
    """Run the application in a process of its own and return what it found."""
    python = variables.pop("python", sys.executable)
    done = subprocess.run(
        [*before, python, "-c", APP, *arguments],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)  # type: ignore[no-any-return]


def require_unshare(*options: str) -> tuple[str, ...]:
    command = ("unshare", *options)
    if shutil.which("unshare") is None:
        pytest.skip("unshare is not installed")
    tried = subprocess.run([*command, "true"], capture_output=True, check=False, timeout=LIMIT)
    if tried.returncode != 0:
        pytest.skip("namespaces are refused here")
    return command


def assert_worked(found: dict[str, Any]) -> None:
    assert found.get("error") == "None", found
    assert found["uid"].isdigit()
    assert found["zombies"] == 0


@pytest.mark.quick("bwrap")
def test_a_user_whose_home_is_the_root_folder(backend: str) -> None:
    assert_worked(run_app(backend, HOME="/"))


@pytest.mark.full
def test_packages_on_the_python_path(backend: str, tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"],
        check=True,
        timeout=LIMIT,
    )
    path = f"{SOURCE}:{PACKAGES}"
    assert_worked(run_app(backend, python=f"{tmp_path}/venv/bin/python", PYTHONPATH=path))


@pytest.mark.quick("landlock")
def test_packages_that_pip_installed_for_the_user(backend: str, tmp_path: Path) -> None:
    folder = tmp_path / "lib" / f"python3.{sys.version_info.minor}"
    folder.mkdir(parents=True)
    folder.joinpath("site-packages").symlink_to(PACKAGES)
    python = os.path.realpath(sys.executable)
    assert_worked(run_app(backend, python=python, PYTHONPATH=SOURCE, PYTHONUSERBASE=str(tmp_path)))


def test_an_interpreter_without_a_kernel_is_named(tmp_path: Path) -> None:
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run(
        [sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"],
        check=True,
        timeout=LIMIT,
    )
    app = APP.replace("preload=()", f"preload=(), python={str(python)!r}")
    done = subprocess.run(
        [sys.executable, "-c", app, "auto"],
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    found = json.loads(done.stdout)
    assert found["raised"] == f"{python} has no ipykernel"
    assert "pip install" in found["hint"]


def test_root_of_a_user_namespace_with_one_user_id(backend: str) -> None:
    found = run_app(backend, before=require_unshare("-U", "-r"))
    if backend == "bwrap":
        assert_worked(found)
    else:
        assert "maps no user id for a session" in found["raised"]
        assert "another user than root" in found["hint"]


@pytest.mark.quick("bwrap")
def test_an_application_that_is_process_1_keeps_no_zombies(backend: str) -> None:
    before = require_unshare("-p", "-f", "--mount-proc")
    assert_worked(run_app(backend, "end", before=before))


@pytest.mark.quick("bwrap")
def test_an_application_that_ignores_its_children(backend: str) -> None:
    found = run_app(backend, "ignore-children")
    assert "ignores SIGCHLD" in found["raised"]
    assert "SIG_DFL" in found["hint"]

"""The session container: its Dockerfile, carried out in a clean Debian, and what then runs."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from packaging.requirements import Requirement

if sys.platform != "linux":
    pytest.skip("the image is a Linux one", allow_module_level=True)

import fcntl

from . import _container

pytestmark = [pytest.mark.full, pytest.mark.timeout(900), pytest.mark.anyio]

ROOT = Path(__file__).parents[2]
FILES = ROOT / "infra" / "container"
SECRET = "only-for-the-server"
TIERS = {"landlock": _container.USUAL_RIGHTS, "bwrap": _container.ALL_RIGHTS}
_LOCKED = re.compile(r"^([\w.-]+)==([\w.]+)", re.MULTILINE)
QUERY = {"identifier": "conversation-1", "api-version": "2025-10-02-preview"}


@pytest.fixture(scope="module")
def image() -> Iterator[Any]:
    from ._dockerfile import Build

    cache = ROOT / ".cache" / "image"
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield Build(FILES / "Dockerfile", context=ROOT, cache=cache).run()


@pytest.fixture(scope="module", params=TIERS)
def container(image: Any, request: pytest.FixtureRequest) -> Iterator[_container.Container]:
    tier = request.param
    with _container.running(image, rights=TIERS[tier], env={"SECRET": SECRET}) as container:
        if f"isolation: {tier}" not in container.words:
            pytest.skip(f"{tier} does not hold on this machine: {container.words}")
        yield container


async def run(container: _container.Container, code: str) -> Any:
    """Run code as a client does whose conversation the pool sent to this container."""
    from cci_plugins.pools.azure.mcp_pool import PlatformSessionPool

    endpoint = f"{container.url}/mcp?identifier={QUERY['identifier']}"
    async with PlatformSessionPool(endpoint, key="the-platform-took-it") as pool:
        return await pool.execute("conversation-1", code, timeout=timedelta(seconds=60))


def test_the_dockerfile_is_well_formed() -> None:
    hadolint = shutil.which("hadolint", path=f"{Path(sys.executable).parent}") or "hadolint"
    done = subprocess.run(
        [hadolint, FILES / "Dockerfile"], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout) == (0, "")


def test_the_lock_has_what_the_extras_ask_for() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = [*extras["dependencies"]]
    for extra in ("azure", "cli", "local", "serve"):
        asked += extras["optional-dependencies"][extra]
    locked = dict(
        re.findall(r"^([\w.-]+)==([\w.]+)", (FILES / "server.lock").read_text(), re.MULTILINE)
    )
    for requirement in map(Requirement, asked):
        if requirement.name != "ipykernel":
            version = locked.get(requirement.name, "0")
            assert version in requirement.specifier, f"{requirement}: run make image-lock"


def test_every_package_for_sessions_is_pinned() -> None:
    lines = (FILES / "requirements.txt").read_text().splitlines()
    packages = [line for line in lines if line and not line.startswith("#")]
    assert [line for line in packages if "==" not in line] == []


def test_sessions_have_the_pkg_resources_that_other_clients_import() -> None:
    lines = (FILES / "requirements.txt").read_text().splitlines()
    (pinned,) = [line.split()[0] for line in lines if line.startswith("setuptools")]
    assert int(pinned.removeprefix("setuptools==").partition(".")[0]) < 82  # which dropped it


def test_it_ends_as_root_on_the_port_of_the_platform(image: Any) -> None:
    assert (image.user, image.ports) == ("0", (6000,))


def test_the_wheel_brings_the_files_of_the_image(image: Any) -> None:
    (package,) = (image.tree / "opt/cci/lib").glob("python3*/site-packages/cci_plugins")
    shipped = package / "infra" / "container" / "Dockerfile"
    assert shipped.read_bytes() == (FILES / "Dockerfile").read_bytes()


def test_its_probe_and_its_own_health_check_answer(container: _container.Container) -> None:
    assert httpx.get(f"{container.url}/health").status_code == 200
    checked = container.run(container.image.health)
    assert (checked.returncode, checked.stderr) == (0, "")


def test_it_speaks_mcp_under_the_name_of_any_pool(container: _container.Container) -> None:
    with httpx.Client(headers={"host": "eastus.dynamicsessions.io"}) as client:

        def ask(method: str, **params: Any) -> Any:
            message = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
            answer = client.post(f"{container.url}/mcp", params=QUERY, json=message)
            return answer.raise_for_status().json()["result"]

        assert ask("initialize")["serverInfo"]["version"]
        tools = {tool["name"] for tool in ask("tools/list")["tools"]}
        assert "runPythonCodeInRemoteEnvironment" in tools


def test_it_can_sign_in_to_azure_for_the_gateway(container: _container.Container) -> None:
    said = container.run(["/opt/cci/bin/python", "-c", "import azure.identity"])
    assert (said.returncode, said.stderr) == (0, "")


async def test_code_runs_in_it_and_keeps_its_variables(container: _container.Container) -> None:
    assert (await run(container, "x = 1 + 1\nx")).text == "2"
    assert (await run(container, "x + 1")).text == "3"


def test_its_rest_api_answers_under_the_name_of_any_pool(container: _container.Container) -> None:
    answer = httpx.post(
        f"{container.url}/executions",
        params=QUERY | {"identifier": "by-rest"},
        headers={"host": "eastus.dynamicsessions.io"},
        json={"code": "6 * 7", "timeoutInSeconds": 60},
        timeout=60,
    )
    assert answer.is_success, answer.text
    assert answer.json()["result"]["executionResult"] == 42


async def test_a_chart_arrives_as_an_image(container: _container.Container) -> None:
    done = await run(container, "import matplotlib.pyplot as plt\nplt.plot([1, 2])\nplt.show()")
    assert done.error is None
    assert any("image/png" in result.data for result in done.results)


async def test_files_come_and_go_by_the_name_that_models_know(
    container: _container.Container,
) -> None:
    place = {"base_url": container.url, "params": QUERY | {"identifier": "with-files"}}
    async with httpx.AsyncClient(**place) as client:
        sent = await client.post("/files", files={"file": ("in.csv", b"a,b\n1,2\n")})
        assert sent.is_success, sent.text
        code = "import pandas as pd; pd.read_csv('/mnt/data/in.csv').to_excel('/mnt/data/out.xlsx')"
        done = await client.post("/executions", json={"code": code}, timeout=60)
        assert done.json()["status"] == "Succeeded", done.text
        made = await client.get("/files/out.xlsx/content")
    assert made.content.startswith(b"PK")


async def test_every_package_for_sessions_can_be_imported(
    container: _container.Container,
) -> None:
    code = (
        "import matplotlib, numpy, openpyxl, pandas, PIL, pyarrow, scipy, seaborn, sklearn, sympy\n"
        "import tabulate, sys; print(sys.prefix)"
    )
    done = await run(container, code)
    assert (done.error, done.stdout) == (None, "/opt/session\n")


async def test_sessions_are_nobody_and_see_nothing_of_the_server(
    container: _container.Container,
) -> None:
    code = f"""
import os, pathlib
found = [] if os.getuid() and os.geteuid() and os.getgid() else ["root"]
found += [name for name, value in os.environ.items() if {SECRET!r} in value]
paths = ["/etc/shadow", "/root", "/opt/cci", "/opt/cci/bin/cci", "/opt/cci/pyvenv.cfg"]
paths += [f"/proc/{{pid}}/{{file}}" for pid in range(1, 200) for file in ("environ", "mem")]
for path in paths:
    try:
        if os.path.isdir(path):
            os.listdir(path)
        else:
            with open(path, "rb") as file:
                if {SECRET!r}.encode() not in file.read(100_000) and path.startswith("/proc"):
                    continue
        found.append(path)
    except OSError:
        pass
for path in ("/opt/session/new", "/usr/new", "/opt/cci/new"):
    try:
        pathlib.Path(path).write_text("x")
        found.append(path)
    except OSError:
        pass
print(found)
"""
    done = await run(container, code)
    assert (done.error, done.stdout) == (None, "[]\n")


@pytest.mark.parametrize("tier", TIERS)
async def test_sigterm_ends_it_soon_and_leaves_nothing(image: Any, tier: str) -> None:
    with _container.running(image, rights=TIERS[tier], env={}) as container:
        await run(container, "x = 1")
        inside = psutil.Process(container._pid).children(recursive=True)
        assert inside
        code, seconds = container.stop()
    assert (code, [child for child in inside if child.is_running()]) == (0, [])
    assert seconds < 10

"""Every sample runs, offline, and prints a value that was computed in its session."""

from __future__ import annotations

import json
import os
import re
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import nbformat
import pytest
from samples import demo, models, penguins
from tests.integration._wheels import find_installers
from tests.samples.running import ROOT, run, run_here

from cci_plugins import CodeInterpreter, Execution, LocalSessionPool

POWERS = [str(2**100), str(2**50)]
EXPECTED = {
    "01_plain_python.py": ["344", "saved"],
    "02_plain_python_sync.py": ["42"],
    "03_files.py": ["15241 bytes", "data.zip is", "5,676 tables/Dream.csv", "saved out/tables.zip"],
    "04_excel.py": ["Gentoo 123 5076", "saved out/penguins.xlsx"],
    "05_langchain.py": POWERS,
    "06_langgraph.py": ["78498 primes", "There are 78498."],
    "07_semantic_kernel.py": POWERS,
    "08_agent_framework.py": [*POWERS, "['penguins.csv']"],
    "09_openai_agents.py": ["run it?", *POWERS],
    "10_approval.py": ["run it?", "42"],
    "11_test_your_agent.py": ["passed"],
    "13_next_day.py": ["saved ['gentoo.txt',", "those of run-1", "124 of 344 penguins"],
    "14_packages.py": ["allows penguin-units", "{'penguin-units': '1.0'}", "11.2 pounds"],
    "15_long_run.py": ["1 of 5: pi is about", "pi is 3.14", "cancelled: True"],
}
# The guides' examples and the tests of the adapters run these frameworks in each test run.
LIKE_A_GUIDE = {"07_semantic_kernel.py", "08_agent_framework.py", "09_openai_agents.py"}
# A process of their own is what these show: the least that a user starts, and two processes.
ALONE = {"01_plain_python.py", "13_next_day.py"}
WITH_FOUNDRY = {"12_foundry_agent.py"}  # tests/integration/test_foundry.py runs it


def test_every_sample_has_an_expectation() -> None:
    assert {path.name for path in (ROOT / "samples").glob("[0-9]*.py")} == set(
        EXPECTED
    ) | WITH_FOUNDRY
    for name in {*EXPECTED, *WITH_FOUNDRY}:
        assert (ROOT / "samples" / name).read_text().count("\n") <= 45


def test_the_samples_are_numbered_without_holes_and_listed() -> None:
    names = sorted(path.name for path in (ROOT / "samples").glob("[0-9]*.py"))
    assert [int(name[:2]) for name in names] == list(range(1, len(names) + 1))
    readme = (ROOT / "samples" / "README.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| \[(\d\d_\w+\.py)\]\(\1\)", readme, re.MULTILINE) == names


@pytest.mark.slow
@pytest.mark.quick(*(name for name in EXPECTED if name not in LIKE_A_GUIDE))
@pytest.mark.parametrize("name", EXPECTED)
def test_the_sample_runs_without_a_key(name: str, tmp_path: Path) -> None:
    if name == "04_excel.py":
        pytest.importorskip("openpyxl")
    if name == "14_packages.py":
        find_installers()  # skips the test if there are none
    start = run if name in ALONE else run_here
    done = start(str(ROOT / "samples" / name), cwd=tmp_path, given="y\n" * 2)
    assert done.returncode == 0, done.stderr
    for text in EXPECTED[name]:
        assert text in done.stdout


@pytest.mark.slow
@pytest.mark.full
def test_the_files_sample_makes_a_link_where_storage_is_configured(tmp_path: Path) -> None:
    for module in ("trustme", "azure.storage.blob"):
        pytest.importorskip(module)
    from tests.integration._azurite import CONTAINER, KEY, running_azurite

    with running_azurite(tmp_path) as azurite:
        done = run(
            str(ROOT / "samples" / "03_files.py"),
            cwd=tmp_path,
            AZURE_STORAGE_ACCOUNT=azurite.url,
            AZURE_STORAGE_CONTAINER=CONTAINER,
            AZURE_STORAGE_KEY=KEY,
            CCI_STORAGE_CA_FILE=str(azurite.ca),
        )
        assert done.returncode == 0, done.stderr
        context = ssl.create_default_context(cafile=str(azurite.ca))
        with urlopen(done.stdout.split()[-1], context=context) as answer:
            assert answer.read() == (tmp_path / "out" / "Dream.csv").read_bytes()


@pytest.mark.slow
def test_the_demo_answers_with_computed_numbers_and_saves_charts_and_notebooks(
    tmp_path: Path,
) -> None:
    done = run("-m", "samples.demo", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    for text in ("Gentoo penguins are the heaviest: 5076.0 g", "1375.4 g", "0.871", "4653 g"):
        assert text in done.stdout
    assert "Warning" not in done.stderr
    assert done.stderr == ""
    for name in ("langgraph", "semantic-kernel"):
        chart = tmp_path / "demo-output" / f"{name}-chart-1.png"
        assert chart.read_bytes().startswith(b"\x89PNG")
        notebook = nbformat.read(tmp_path / "demo-output" / f"{name}.ipynb", as_version=4)
        nbformat.validate(notebook)
        assert any("image/png" in output.get("data", {}) for output in notebook.cells[1].outputs)
    page = (tmp_path / "demo-output" / "index.html").read_text()
    assert "demo-output/index.html" in done.stdout
    assert page.count('src="data:image/png;base64,') == 2
    for text in ("Gentoo penguins are the heaviest: 5076.0 g", "r = 0.871 over", "body_mass_g"):
        assert text in page


@pytest.mark.slow
@pytest.mark.full
@pytest.mark.parametrize(
    "arguments",
    [("platform",), ("managed",), ("custom",), ("custom", "--container", "executions")],
    ids=" ".join,
)
def test_the_demo_runs_unchanged_on_each_kind_of_azure_pool(
    arguments: tuple[str, ...], tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "cci_plugins", "serve", "--port", "0", "--json", "--emulate"]
    with subprocess.Popen([*command, *arguments], stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            facts = json.loads(server.stdout.readline())
            endpoint, key = facts["endpoint"], facts["key"]
            if arguments == ("platform",):
                variables = {"MCP_ENDPOINT": endpoint, "MCP_KEY": key}
                variables = {f"AZURE_SESSION_POOL_{k}": value for k, value in variables.items()}
            else:
                variables = {"AZURE_SESSION_POOL_ENDPOINT": endpoint.removesuffix("/mcp")}
                variables["CCI_ACCESS_TOKEN"] = key
            done = run("-m", "samples.demo", cwd=tmp_path, **variables)
        finally:
            server.terminate()
    assert done.returncode == 0, done.stdout + done.stderr
    for text in ("Gentoo penguins are the heaviest: 5076.0 g", "1375.4 g", "0.871", "4653 g"):
        assert text in done.stdout
    for name in ("langgraph", "semantic-kernel"):
        chart = tmp_path / "demo-output" / f"{name}-chart-1.png"
        assert chart.read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
@pytest.mark.full
def test_the_demo_fails_when_the_sandbox_does(tmp_path: Path) -> None:
    """The answers come from the tool's results, so a broken pool makes the demo fail."""
    done = run("-m", "samples.demo", cwd=tmp_path, CCI_TIMEOUT="0.1")
    assert done.returncode == 1
    assert "FAILED" in done.stdout, done.stderr


class Forgetful(LocalSessionPool):
    """Starts a new session for every run, and uploads the data again."""

    async def execute(self, session_id: str, code: str, **options: Any) -> Execution:
        async def data() -> AsyncIterator[bytes]:
            yield demo.DATA.read_bytes()

        await self.delete_session(session_id)
        await self.upload(session_id, demo.DATA.name, data())
        return await super().execute(session_id, code, **options)


@pytest.mark.slow
@pytest.mark.anyio
@pytest.mark.quick("langgraph")
@pytest.mark.parametrize(
    ("connect", "agent"),
    [
        (models.open_langchain_model, demo.langgraph_agent),
        (models.open_semantic_kernel_service, demo.semantic_kernel_agent),
    ],
    ids=["langgraph", "semantic-kernel"],
)
async def test_the_demo_fails_when_a_variable_of_the_first_question_is_gone(
    connect: Callable[[], AbstractAsyncContextManager[Any]],
    agent: Callable[[CodeInterpreter, Any], Awaitable[bool]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(demo, "OUTPUT", tmp_path)
    for name in [name for name in os.environ if name.startswith(("OPENAI_", "AZURE_OPENAI_"))]:
        monkeypatch.delenv(name)
    with models.serve_model(penguins.SCRIPT):
        async with CodeInterpreter(Forgetful()) as interpreter, connect() as model:
            assert not await agent(interpreter, model)
    printed = capsys.readouterr().out
    assert "NameError" in printed
    assert "I could not find my answer" in printed


@pytest.mark.full
def test_a_half_configured_azure_model_is_an_error_and_not_the_script(tmp_path: Path) -> None:
    endpoint = "https://example.invalid"
    done = run("-m", "samples.demo", cwd=tmp_path, AZURE_OPENAI_ENDPOINT=endpoint)
    assert done.returncode == 1
    missing = "AZURE_OPENAI_API_KEY, AZURE_OPENAI_CHAT_DEPLOYMENT_NAME"
    assert done.stderr == f"error: Azure OpenAI is only half configured\n\nhint: set {missing}\n"


def test_the_data_is_complete_and_has_its_licence() -> None:
    rows = demo.DATA.read_text().splitlines()
    assert rows[0].split(",")[:4] == ["species", "island", "bill_length_mm", "bill_depth_mm"]
    assert len(rows) == 1 + 344
    assert "CC0 1.0" in demo.DATA.with_name("README.md").read_text()

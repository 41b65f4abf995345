"""Every page works with its own install lines, in an environment of its own.

For each page, a virtual environment gets what the page's `pip install` lines name, with a wheel of
this checkout in place of the dot. Then the page's blocks run in it. A page without such lines is
for readers of Get started, and runs in that environment.
"""

from __future__ import annotations

import ast
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cci_plugins.testing import Script, ScriptedModel, Turn

from .blocks import PAGES, ROOT, Block, blocks
from .test_python_blocks import expected_output
from .test_shell_blocks import run_transcript

pytestmark = [pytest.mark.pages, pytest.mark.timeout(600)]

LIMIT = 300
START = "docs/get-started.md"
# Blocks that talk to a fake in the process of the test run in test_python_blocks.py. Here, only
# their imports are checked.
_NEEDS_FAKE = re.compile(r"AZURE_STORAGE_ACCOUNT|foundry|AZURE_SESSION_POOL|provisioning")
_INSTALL = re.compile(r"^pip install .*$", re.MULTILINE)


def _find_uv() -> str | None:
    own = ROOT / ".hatch" / "bin" / "uv"
    return shutil.which("uv") or (str(own) if own.exists() else None)


def _list_pages() -> list[str]:
    names = {block.place.rpartition(":")[0] for block in blocks("python", "console")}
    return [name for page in PAGES if (name := page.relative_to(ROOT).as_posix()) in names]


def _read_install_lines(page: str) -> tuple[str, ...]:
    return tuple(_INSTALL.findall((ROOT / page).read_text(encoding="utf-8")))


def _list_blocks(page: str, kind: str) -> list[Block]:
    return [block for block in blocks(kind) if block.place.rpartition(":")[0] == page]


@pytest.fixture(scope="module")
def uv() -> str:
    program = _find_uv()
    if program is None:
        pytest.skip("uv is not installed: run make test-rest, which brings it")
    return program


@pytest.fixture(scope="module")
def wheel(uv: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel of this checkout once."""
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [uv, "build", "--wheel", "--quiet", "--out-dir", folder, ROOT], check=True, timeout=LIMIT
    )
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def make_environment(
    uv: str, wheel: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[tuple[str, ...]], Path]:
    """Return a function that gives the Python of the environment of some install lines.

    Pages with the same lines share one environment.
    """
    pythons: dict[tuple[str, ...], Path] = {}

    def make(lines: tuple[str, ...]) -> Path:
        if lines not in pythons:
            folder = tmp_path_factory.mktemp("environment") / "venv"
            pythons[lines] = _make_environment(uv, wheel, folder, lines)
        return pythons[lines]

    return make


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Iterator[ScriptedModel]:
    """Serve a model to the blocks, which find it by the variables of OpenAI's client."""
    turn = Turn("6 * 7", "6 * 7", r"(?P<n>\d+)", "It is {n}.")
    with ScriptedModel(Script((turn,))) as served:
        monkeypatch.setenv("OPENAI_BASE_URL", served.url)
        monkeypatch.setenv("OPENAI_API_KEY", served.key)
        monkeypatch.setenv("AZURE_OPENAI_ENDPOINT", "https://resource.openai.azure.com")
        monkeypatch.setenv("AZURE_OPENAI_API_KEY", served.key)
        monkeypatch.setenv("OPENAI_API_VERSION", "2025-04-01-preview")
        yield served


def _make_environment(uv: str, wheel: Path, folder: Path, lines: tuple[str, ...]) -> Path:
    subprocess.run([uv, "venv", "--quiet", folder], check=True, timeout=LIMIT)
    python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    for line in lines:
        packages = [re.sub(r"^\.(?=\[|$)", str(wheel), part) for part in shlex.split(line)[2:]]
        command = [uv, "pip", "install", "--quiet", "--python", python, *packages]
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, check=False)
        assert done.returncode == 0, f"{line}: {done.stderr}"
    return python


@pytest.mark.parametrize("page", _list_pages())
@pytest.mark.usefixtures("model")
def test_a_page_works_with_its_own_install_lines(
    page: str, make_environment: Callable[[tuple[str, ...]], Path], tmp_path: Path
) -> None:
    lines = _read_install_lines(page) or _read_install_lines(START)
    assert lines, f"{page} does not explain how to install what it uses"
    python = make_environment(lines)
    faults = [_run_block(python, block) for block in _list_blocks(page, "python")]
    faults += [_type(python, block, tmp_path) for block in _list_blocks(page, "console")]
    assert not any(faults), "\n\n".join(filter(None, faults))


def _run_block(python: Path, block: Block) -> str | None:
    """Run a Python block, or its imports. Return what went wrong."""
    is_whole = not _NEEDS_FAKE.search(block.text)
    source = block.text if is_whole else _get_imports(block.text)
    done = subprocess.run(
        [python, "-c", source], capture_output=True, text=True, timeout=LIMIT, check=False
    )
    if done.returncode:
        return f"{block.place}: {done.stderr}"
    if is_whole and done.stdout.splitlines() != expected_output(block.text):
        return f"{block.place} printed {done.stdout!r}"
    return None


def _get_imports(source: str) -> str:
    imports = [
        node for node in ast.parse(source).body if isinstance(node, ast.Import | ast.ImportFrom)
    ]
    return "\n".join(map(ast.unparse, imports))


def _type(python: Path, block: Block, folder: Path) -> str | None:
    """Type the commands of a transcript. Return what went wrong."""
    for command, printed, expected in run_transcript(block, python.parent, folder, LIMIT):
        if printed != expected:
            return f"{block.place}: {command} printed {printed}"
    return None

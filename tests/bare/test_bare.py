"""With no extra installed the package imports, and each missing one is named with its pip line."""

from __future__ import annotations

import importlib
import importlib.util
import subprocess
import sys

import pytest

from cci_plugins import CodeInterpreter, Execution
from cci_plugins.errors import ConfigurationError
from cci_plugins.testing import FakeSessionPool

NEEDS = {
    "local": ("ipykernel", "cci_plugins.pools.local.pool"),
    "agent-framework": ("agent_framework", "cci_plugins.agent_framework"),
    "deepagents": ("deepagents", "cci_plugins.deepagents"),
    "foundry": ("openai", "cci_plugins.foundry"),
    "langchain": ("langchain_core", "cci_plugins.langchain"),
    "openai-agents": ("agents", "cci_plugins.openai_agents"),
    "semantic-kernel": ("semantic_kernel", "cci_plugins.semantic_kernel"),
    "serve": ("mcp", "cci_plugins.server"),
}


@pytest.mark.anyio
async def test_the_core_works_without_any_extra() -> None:
    async with CodeInterpreter(FakeSessionPool(Execution(stdout="x"))) as interpreter:
        assert (await interpreter.run_code("print('x')")).stdout == "x"


@pytest.mark.parametrize("extra", NEEDS)
def test_a_missing_extra_is_named_with_its_pip_line(extra: str) -> None:
    package, module = NEEDS[extra]
    if importlib.util.find_spec(package) is not None:
        pytest.skip(f"{package} is installed here")
    with pytest.raises(ConfigurationError) as caught:
        importlib.import_module(module)
    assert caught.value.hint == f'pip install "cci-plugins[{extra}]"'


def test_the_command_without_its_extra_prints_one_line() -> None:
    if importlib.util.find_spec("typer") is not None:
        pytest.skip("typer is installed here")
    run = subprocess.run(
        [sys.executable, "-m", "cci_plugins", "run", "1"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 3
    assert 'pip install "cci-plugins[cli]"' in run.stderr
    assert "Traceback" not in run.stderr

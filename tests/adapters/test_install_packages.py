"""The tool `install_packages`, in the requests that each framework really sends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest

from cci_plugins import ApprovalRequest, CodeInterpreter, Decision, Execution, ToolOptions
from cci_plugins.testing import FakeSessionPool, Script, ScriptedCall, ScriptedModel, Steps
from cci_plugins.tools import install_packages

from .conftest import FRAMEWORKS

pytestmark = [pytest.mark.anyio, pytest.mark.slow]
CASES = [name for name in FRAMEWORKS if not name.endswith("responses")]


class PackagePool(FakeSessionPool):
    """A pool that has every package."""

    capabilities = replace(FakeSessionPool.capabilities, packages=True)

    def __init__(self) -> None:
        super().__init__(Execution(stdout="imported"))
        self.installed: list[tuple[str, ...]] = []

    async def install_packages(self, session_id: str, packages: Sequence[str]) -> Mapping[str, str]:
        del session_id
        self.installed.append(tuple(packages))
        return dict.fromkeys(packages, "1.0")


def decide(results: Sequence[str]) -> ScriptedCall | str:
    """Ask for a package that is denied, for one that is not, and import it."""
    calls = [
        ScriptedCall("install_packages", {"packages": ["denied"]}),
        ScriptedCall("install_packages", {"packages": ["polars", "duckdb"]}),
        ScriptedCall("execute_code", {"code": "import polars"}),
    ]
    return calls[len(results)] if len(results) < len(calls) else " | ".join(results)


async def approve(request: ApprovalRequest) -> Decision:
    return Decision("deny" if "denied" in request.packages else "allow")


@pytest.mark.parametrize("name", CASES)
async def test_a_model_installs_packages_that_the_application_approves(name: str) -> None:
    pool = PackagePool()
    options = ToolOptions(install_packages=True)
    given: Any = {"tool": {"options": options}} if name == "langchain" else {"options": options}
    ask: Any = FRAMEWORKS[name]
    async with CodeInterpreter(pool, approve=approve) as interpreter:
        with ScriptedModel(Script((Steps("install", decide),))) as model:
            answer = await ask(interpreter, model, name, "install", **given)
    assert answer == (
        "The packages were not installed: the user did not approve it. | "
        "Installed: polars 1.0, duckdb 1.0. The next run can import them. | imported"
    )
    assert pool.installed == [("polars", "duckdb")]
    shown = {
        tool["function"]["name"].rpartition("-")[2]: tool["function"]
        for tool in model.requests[0][1]["tools"]
    }
    assert sorted(shown) == ["execute_code", "install_packages"]
    parameters = shown["install_packages"]["parameters"]
    expected = install_packages.PARAMETERS["properties"]["packages"]
    packages = parameters["properties"]["packages"]
    assert {key: packages[key] for key in expected} == expected
    assert parameters["required"] == ["packages"]

"""A Foundry agent checks a run that takes longer than Foundry waits."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cci_plugins import ApprovalRequest, Decision
from cci_plugins.errors import CodeInterpreterError
from cci_plugins.pools.local.pool import LocalSessionPool

from ._foundry import MODEL, Call, Running, Turn, project_of, running_foundry
from ._server import KEY, serving

foundry = pytest.importorskip("cci_plugins.foundry", exc_type=CodeInterpreterError)

pytestmark = [pytest.mark.anyio, pytest.mark.slow]
CODE = "import time\nprint('begun', flush=True)\ntime.sleep(0.9)\nprint('total', 42)"


def model(_: str) -> Turn:
    """Launch, run, and check the run until its result is there."""
    environment = json.loads((yield Call("launchShell", {})))["environmentId"]
    arguments = {"environmentId": environment, "pythonCode": CODE}
    answer = json.loads((yield Call("runPythonCodeInRemoteEnvironment", arguments)))
    checks = 0
    while answer["status"] == "Running":
        arguments = {"environmentId": environment, "run": answer["run"], "action": "wait"}
        answer, checks = json.loads((yield Call("check_run", arguments))), checks + 1
    return f"It printed {answer['stdout'].split()} after {'some' if checks else 'no'} checks."


@pytest.fixture
def running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Running]:
    with running_foundry(tmp_path, model, monkeypatch) as found:
        yield found


async def test_an_agent_checks_a_long_run_and_nobody_is_asked_to_approve_that(
    running: Running,
) -> None:
    from cci_plugins.server import SignedEnvironments

    asked: list[str] = []

    async def approve(request: ApprovalRequest) -> Decision:
        asked.append(request.code)
        return Decision("allow")

    project: Any = project_of(running)
    pool = LocalSessionPool(ready_sessions=0, preload=())
    environments = SignedEnvironments(b"a secret that every replica has, too")
    async with serving(pool, environments=environments, rest=False, wait=0.5) as url:
        connection = await foundry.connect(project, endpoint=url, key=KEY)
        tool = foundry.code_interpreter_tool(connection, check_runs=True, require_approval="always")
        agent = await foundry.create_agent(
            "analyst", model=MODEL, tool=tool, check_runs=True, project=project
        )
        reply = await foundry.run(agent, "How many?", approve=approve)
    assert reply.text == "It printed ['begun', 'total', '42'] after some checks."
    assert asked == [CODE]
    (definition,) = running.fake.agents["analyst"].values()
    assert "check_run" in definition["tools"][0]["allowed_tools"]
    assert "Call check_run with action wait" in definition["instructions"]
    assert "must end within 100 seconds" not in definition["instructions"]


def test_a_toolbox_names_check_run_as_its_other_tools() -> None:
    from cci_plugins.foundry.tool_names import INSTRUCTIONS, get_instructions
    from cci_plugins.foundry.toolboxes import add_toolbox_label

    assert get_instructions(check_runs=False) == INSTRUCTIONS
    text = add_toolbox_label(get_instructions(check_runs=True))
    assert "Call code_interpreter___check_run with action wait" in text

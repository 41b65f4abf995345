"""Runs longer than `ToolOptions.wait`, in the requests that each framework really sends."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from cci_plugins import CodeInterpreter, Session, ToolOptions
from cci_plugins.testing import Script, ScriptedCall, ScriptedModel, Steps
from cci_plugins.tools import check_run

from .conftest import FRAMEWORKS, ask_langchain, ask_openai_agents

pytestmark = [pytest.mark.anyio, pytest.mark.slow]
LONG = (
    "import os, time\nprint('begun', flush=True)\n"
    "while not os.path.exists('go'): time.sleep(0.01)\nprint('done')\n6 * 7"
)
STILL = re.compile(
    r"\[run-\d is still running after \d+ s\. Call check_run with action .*\]\nbegun"
)
REFUSED = "was not run: run-1 is still running"


def build_decide_long(session: Session) -> Callable[[Sequence[str]], ScriptedCall | str]:
    """Run long code, try more code meanwhile, then wait for the result, and ask once more."""

    def decide(results: Sequence[str]) -> ScriptedCall | str:
        if not results:
            return ScriptedCall("execute_code", {"code": LONG})
        is_running = results[-1].startswith("[run-1 is still running")
        if "its result was returned before" in results[-1]:
            return f"It is {results[-2]}"
        if not any(map(STILL.match, results)):  # what it printed comes a moment later
            return ScriptedCall("check_run", {"action": "look"}) if is_running else results[-1]
        if is_running and not any(REFUSED in result for result in results):
            return ScriptedCall("execute_code", {"code": "raise SystemExit"})
        if REFUSED in results[-1]:
            asyncio.run(session.files.upload(b"", name="go"))  # the run ends now
            is_running = True
        return ScriptedCall("check_run", {"action": "wait" if is_running else "look"})

    return decide


def decide_stop(results: Sequence[str]) -> ScriptedCall | str:
    """Run code without an end, and stop it."""
    endless = "print('begun', flush=True)\nwhile True: pass"
    if not results:
        return ScriptedCall("execute_code", {"code": endless})
    if not any("begun" in result for result in results):
        return ScriptedCall("check_run", {"action": "look"})
    if STILL.match(results[-1]):
        return ScriptedCall("check_run", {"action": "stop"})
    return f"It was {results[-1]}"


async def ask_with_tools(name: str, *given: Any, options: ToolOptions) -> str:
    """Ask, with both tools in the framework's own way."""
    interpreter, model, key, question = given
    ask: Any = FRAMEWORKS[name]
    if name.startswith("langchain"):
        return await ask_langchain(
            *given,
            tool={"options": options},
            use_responses_api=name.endswith("responses"),
            checks_runs=True,
        )
    if name.startswith("openai-agents"):
        responses = name.endswith("responses")
        return await ask_openai_agents(*given, responses=responses, options=options)
    if name == "agent-framework-responses":
        ask = FRAMEWORKS["agent-framework"]
        return str(await ask(*given, responses=True, options=options))
    return str(await ask(interpreter, model, key, question, options=options))


CASES = [
    pytest.param(name, marks=pytest.mark.full if name.endswith("responses") else ())
    for name in FRAMEWORKS
    if name != "semantic-kernel-responses"  # that agent cannot do several rounds in one turn
]


@pytest.mark.quick("langchain", "semantic-kernel")
@pytest.mark.parametrize("name", CASES)
async def test_a_model_waits_for_a_long_run_and_stops_another(
    name: str, warm: CodeInterpreter
) -> None:
    for key in ("long", "stop"):  # so that the kernel runs already
        await warm.session(f"{key}-{name}").run_code("1")
    decide_long = build_decide_long(warm.session(f"long-{name}"))
    script = Script((Steps("compute", decide_long), Steps("loop", decide_stop)))
    options = ToolOptions(wait=0.6)
    with ScriptedModel(script) as model:
        answer = await ask_with_tools(name, warm, model, f"long-{name}", "compute", options=options)
        assert answer == "It is [run-1 has ended: it succeeded]\nbegun\ndone\n42", answer
        answer = await ask_with_tools(name, warm, model, f"stop-{name}", "loop", options=options)
        assert answer.startswith("It was [run-1 has ended: it failed]\nbegun\nKeyboardInter"), (
            answer
        )
    session = warm.session(f"stop-{name}")
    assert (await session.run_code("1 + 1")).text == "2"
    shown = {
        tool.get("function", tool)["name"].rpartition("-")[2]: tool.get("function", tool)
        for tool in model.requests[0][1]["tools"]
    }
    assert sorted(shown) == ["check_run", "execute_code"]
    action = shown["check_run"]["parameters"]["properties"]["action"]
    assert {
        "type": action["type"],
        "enum": action["enum"],
        "description": action["description"],
    } == (check_run.PARAMETERS["properties"]["action"])

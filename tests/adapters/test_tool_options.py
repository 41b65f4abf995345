"""Options of the tool, the same in every adapter, in the requests that are really sent."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any

import pytest

from cci_plugins import CodeInterpreter, Execution, OutputEvent, ToolOptions
from cci_plugins.common import packages
from cci_plugins.errors import ConfigurationError
from cci_plugins.sync import CodeInterpreter as SyncCodeInterpreter
from cci_plugins.testing import FakeSessionPool, ScriptedModel
from cci_plugins.tools import execute_code

from .conftest import ask_agent_framework, ask_langchain, ask_openai_agents, ask_semantic_kernel
from .test_what_the_model_sees import PNG, result_seen

pytestmark = pytest.mark.anyio

Asks = Any


async def _langchain(*given: Any, on_output: Any = None, **options: Any) -> str:
    return await ask_langchain(*given, tool={"on_output": on_output, **options})


ADAPTERS: dict[str, Asks] = {
    "agent-framework": ask_agent_framework,
    "langchain": _langchain,
    "openai-agents": ask_openai_agents,
    "semantic-kernel": ask_semantic_kernel,
}


@pytest.fixture(params=ADAPTERS)
def ask(request: pytest.FixtureRequest) -> Asks:
    return ADAPTERS[request.param]


def description_seen(model: ScriptedModel) -> str:
    (shown,) = model.requests[0][1]["tools"]
    return str(shown.get("function", shown)["description"])


@pytest.mark.slow
async def test_the_description_names_the_packages_of_the_embedded_pool(
    ask: Asks, warm: CodeInterpreter, scripted: Callable[..., ScriptedModel]
) -> None:
    model = scripted(("go", "1"))
    await ask(warm, model, "known", "go")
    description = description_seen(model)
    assert description.startswith(execute_code.DESCRIPTION)
    assert "Installed: numpy, pandas, " in description
    assert set(warm.known_packages) <= set(await warm.packages())


@pytest.mark.slow
async def test_the_application_chooses_packages_instructions_and_budget(
    ask: Asks, warm: CodeInterpreter, scripted: Callable[..., ScriptedModel]
) -> None:
    model = scripted(("go", "print('x' * 5000)"))
    options = ToolOptions(
        packages=["mine"], instructions="Amounts are in euros.", output_characters=300
    )
    await ask(warm, model, "options", "go", options=options)
    assert f"{execute_code.DESCRIPTION} Installed: mine." in description_seen(model)
    assert "Amounts are in euros." in json.dumps(model.requests[0][1])
    assert len(result_seen(model)) <= 300


@pytest.mark.slow
async def test_runs_beyond_the_budget_of_a_turn_are_not_run(
    ask: Asks, warm: CodeInterpreter, scripted: Callable[..., ScriptedModel]
) -> None:
    model = scripted(("go", "n = globals().get('n', 0) + 1\nn"))
    key = f"turns-{ask.__name__}"
    with warm.use_session(key, max_runs=1) as session:
        await ask(warm, model, key, "go")
        assert result_seen(model) == "1"
        await ask(warm, model, key, "go")
        assert result_seen(model).startswith(
            "The code was not run: the runs of this turn are used up (1)"
        )
        assert (await session.run_code("n")).text == "1"  # the host's own run does not count
    with warm.use_session(key, max_runs=1):
        await ask(warm, model, key, "go")
        assert result_seen(model) == "2"


@pytest.mark.slow
async def test_use_session_comes_before_the_frameworks_thread(
    ask: Asks, warm: CodeInterpreter, scripted: Callable[..., ScriptedModel]
) -> None:
    model = scripted(("go", "mine = 42"))
    key = f"of-the-host-{ask.__name__}"
    given = (
        key if ask is ask_semantic_kernel else "of-the-framework"
    )  # Semantic Kernel has no thread id
    with warm.use_session(key) as session:
        await ask(warm, model, given, "go")
        assert (await session.run_code("mine")).text == "42"


@pytest.mark.slow
async def test_output_arrives_while_code_runs(
    ask: Asks, warm: CodeInterpreter, scripted: Callable[..., ScriptedModel]
) -> None:
    model = scripted(("go", "print('output')"))
    events: list[OutputEvent] = []
    await ask(warm, model, "output", "go", on_output=events.append)
    assert "".join(event.text for event in events) == "output\n"


def _images(model: ScriptedModel, role: str) -> list[str]:
    """The images in messages of a role, as the last request of Chat Completions has them."""
    parts = [
        part
        for message in model.requests[-1][1]["messages"]
        if message["role"] == role and isinstance(message["content"], list)
        for part in message["content"]
    ]
    return [part["image_url"]["url"] for part in parts if part["type"] == "image_url"]


async def _shown_by_langchain(*given: Any) -> str:
    from cci_plugins.langchain import ImagesAsUserMessages

    return await ask_langchain(
        *given, tool={"images": "inline"}, middleware=(ImagesAsUserMessages(),)
    )


async def _shown_by_semantic_kernel(*given: Any) -> str:
    return await ask_semantic_kernel(*given, show=True)


async def _shown_by_openai_agents(*given: Any) -> str:
    return await ask_openai_agents(*given, images="inline", show=True)


async def _shown_by_agent_framework(*given: Any) -> str:
    return await ask_agent_framework(*given, images="user_message")


SHOWING: dict[str, Asks] = {
    "agent-framework": _shown_by_agent_framework,
    "langchain": _shown_by_langchain,
    "openai-agents": _shown_by_openai_agents,
    "semantic-kernel": _shown_by_semantic_kernel,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SHOWING)
async def test_images_reach_the_model_as_a_message_of_the_user(
    name: str, warm: CodeInterpreter, scripted: Callable[..., ScriptedModel]
) -> None:
    model = scripted(("go", PNG))
    assert await SHOWING[name](warm, model, "shown", "go") == "seen"
    (image,) = _images(model, "user")
    assert image.startswith("data:image/png;base64,iVBORw0KGgo")
    assert result_seen(model) == "[image 1: image/png, shown to the user]"
    roles = [message["role"] for message in model.requests[-1][1]["messages"]]
    assert set(roles[roles.index("tool") + 1 :]) == {"user"}


@pytest.mark.slow
async def test_langchain_attaches_images_to_results_of_the_responses_api(
    warm: CodeInterpreter, scripted: Callable[..., ScriptedModel]
) -> None:
    model = scripted(("go", PNG))
    options = {"tool": {"images": "inline"}, "use_responses_api": True}
    await ask_langchain(warm, model, "inline", "go", **options)
    items = model.requests[-1][1]["input"]
    (output,) = (item["output"] for item in items if item.get("type") == "function_call_output")
    assert [part["type"] for part in output] == ["input_text", "input_image"]
    assert output[1]["image_url"].startswith("data:image/png;base64,iVBORw0KGgo")


async def test_packages_keep_the_given_order() -> None:
    description = execute_code.build_description(
        ToolOptions(packages={"zlib": "1", "numpy": "2"}), None
    )
    assert description.endswith("Installed: zlib, numpy.")
    many = ToolOptions(packages=[f"p{number}" for number in range(50)])
    assert execute_code.build_description(many, None).endswith("p39 and 10 more.")


async def test_a_pool_without_known_packages_adds_no_sentence() -> None:
    async with CodeInterpreter(FakeSessionPool()) as interpreter:
        assert (
            execute_code.build_description(ToolOptions(), interpreter) == execute_code.DESCRIPTION
        )


@pytest.mark.slow
def test_packages_without_await() -> None:
    with SyncCodeInterpreter.local() as interpreter:
        found = interpreter.packages()
        assert next(iter(found)) == interpreter.known_packages[0] == "numpy"
        assert found["ipykernel"]


def test_invalid_bounds_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="at least 200"):
        ToolOptions(output_characters=10)
    with pytest.raises(ConfigurationError, match=r"packages is a string \("):
        ToolOptions(packages="numpy")
    interpreter = CodeInterpreter(FakeSessionPool())
    with (
        pytest.raises(ConfigurationError, match="max_runs is negative"),
        interpreter.use_session("a", max_runs=-1),
    ):
        pass


async def _ran(interpreter: CodeInterpreter, times: int) -> list[bool]:
    replies = await asyncio.gather(*(execute_code.call(interpreter, "1") for _ in range(times)))
    return sorted(not reply.failed for reply in replies)


async def test_a_bound_holds_for_calls_at_once_and_for_all_that_is_inside() -> None:
    async with CodeInterpreter(FakeSessionPool()) as interpreter:
        with interpreter.use_session("a", max_runs=3):
            with interpreter.use_session("b", max_runs=1):
                assert await _ran(interpreter, 2) == [False, True]
            with interpreter.use_session("b", max_runs=10):
                assert await _ran(interpreter, 4) == [False, False, True, True]
            assert await _ran(interpreter, 1) == [False]
        with interpreter.use_session("a", max_runs=0):
            assert await _ran(interpreter, 1) == [False]
        assert await _ran(interpreter, 1) == [True]


async def test_a_generator_may_leave_a_session_in_another_context() -> None:
    async with CodeInterpreter(FakeSessionPool()) as interpreter:

        async def answers() -> AsyncGenerator[str]:
            with interpreter.use_session("a", max_runs=1) as session:
                yield session.key

        answering = answers()
        assert await anext(answering) == "a"
        await asyncio.create_task(answering.aclose())  # as a web server does when a client leaves


def test_the_first_of_two_versions_is_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder, version in (("first", "9.0"), ("second", "10.0")):
        made = tmp_path / folder / f"made_up-{version}.dist-info"
        made.mkdir(parents=True)
        (made / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: Made_Up\nVersion: {version}\n"
        )
    monkeypatch.setattr(sys, "path", [str(tmp_path / name) for name in ("first", "second")])
    exec(packages.LIST_CODE, {})  # as a session does
    assert packages.parse_packages(capsys.readouterr().out) == {"made-up": "9.0"}


def test_images_of_a_tool_with_another_name_are_shown_too() -> None:
    from langchain_core.messages import ToolMessage

    from cci_plugins.langchain import images_as_user_messages

    image = {"type": "image", "base64": "iVBORw0KGgo=", "mime_type": "image/png"}
    result = ToolMessage([image], tool_call_id="1", name="python", artifact=Execution())
    foreign = ToolMessage([image], tool_call_id="2", name="other")
    mine, others, shown = images_as_user_messages([result, foreign])
    assert (mine.content, others.content) == ([], [image])
    assert image in shown.content

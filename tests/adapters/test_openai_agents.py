"""The tool for the OpenAI Agents SDK: images, approval, conversations, arguments, streaming."""

from __future__ import annotations

import asyncio
import copy
import json
import logging
from base64 import b64encode
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest
from agents import (
    Agent,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    RunConfig,
    Runner,
    RunState,
    SQLiteSession,
    ToolCallOutputItem,
)
from agents.tool_context import ToolContext
from openai import AsyncOpenAI

from cci_plugins import (
    ApprovalRequest,
    CodeInterpreter,
    Decision,
    Execution,
    Limits,
    OutputEvent,
    Result,
)
from cci_plugins.openai_agents import code_interpreter_tool, images_as_user_messages
from cci_plugins.testing import FakeSessionPool, ScriptedModel

from .conftest import ask_openai_agents

pytestmark = pytest.mark.anyio

PNG = b"\x89PNG\r\n\x1a\nrest"
URI = f"data:image/png;base64,{b64encode(PNG).decode()}"
NAMED = "[image 1: image/png, shown to the user]"
PICTURE = Execution(
    results=(Result({"image/png": b64encode(PNG).decode(), "text/plain": "<Figure>"}),)
)
QUIET = RunConfig(tracing_disabled=True)
MODELS = [OpenAIChatCompletionsModel, OpenAIResponsesModel]
Scripted = Callable[..., ScriptedModel]


@asynccontextmanager
async def agent_of(
    model: ScriptedModel, interpreter: CodeInterpreter, make: Any, **options: Any
) -> AsyncIterator[Agent[Any]]:
    async with AsyncOpenAI(base_url=model.url, api_key="none-needed") as client:
        tools: Any = [code_interpreter_tool(interpreter, **options)]
        yield Agent("analyst", model=make("scripted", client), tools=tools)


async def keys_used(
    pool: FakeSessionPool, *contexts: ToolContext[Any], **options: Any
) -> list[str]:
    """The session of each call that one tool gets in these contexts."""
    async with CodeInterpreter(pool) as interpreter:
        execute_code = code_interpreter_tool(interpreter, **options)
        for context in contexts:
            await execute_code.on_invoke_tool(context, '{"code": "1"}')
        return [session_id for session_id, _ in pool.calls]


def context_of(context: object, group_id: str | None = None) -> ToolContext[Any]:
    config = RunConfig(group_id=group_id)
    about = {"tool_name": "execute_code", "tool_call_id": "1", "tool_arguments": "{}"}
    return ToolContext(context, **about, run_config=config)


async def test_a_run_item_has_the_text_and_the_whole_execution(scripted: Scripted) -> None:
    execution = Execution(stdout="x" * 20_000)
    async with CodeInterpreter(FakeSessionPool(execution)) as interpreter:
        async with agent_of(scripted(("go", "1")), interpreter, OpenAIResponsesModel) as agent:
            result = await Runner.run(agent, "go", run_config=QUIET)
    (item,) = [item for item in result.new_items if isinstance(item, ToolCallOutputItem)]
    assert item.output.execution is execution
    assert len(item.output) <= Limits().output_characters
    assert not item.output.failed
    saved = json.dumps(result.to_state().to_json())
    assert "x" * Limits().output_characters not in saved, "the state has the text only"
    assert copy.deepcopy(item.output).execution == execution


@pytest.mark.parametrize("responses", [False, True])
async def test_images_are_named_unless_asked_for(scripted: Scripted, *, responses: bool) -> None:
    model = scripted(("go", "1"))
    async with CodeInterpreter(FakeSessionPool(PICTURE)) as interpreter:
        await ask_openai_agents(interpreter, model, "a", "go", responses=responses)
    sent = json.dumps(model.requests[-1][1])
    assert NAMED in sent
    assert "data:image" not in sent


async def test_inline_images_are_part_of_the_result_where_the_api_takes_them(
    scripted: Scripted,
) -> None:
    model = scripted(("go", "1"))
    async with CodeInterpreter(FakeSessionPool(PICTURE)) as interpreter:
        async with agent_of(model, interpreter, OpenAIResponsesModel, images="inline") as agent:
            result = await Runner.run(agent, "go", run_config=QUIET)
    output = model.requests[-1][1]["input"][-1]["output"]
    assert output == [
        {"type": "input_text", "text": NAMED},
        {"type": "input_image", "image_url": URI},
    ]
    (item,) = [item for item in result.new_items if isinstance(item, ToolCallOutputItem)]
    assert item.output.execution is PICTURE
    assert str(item.output) == NAMED


@pytest.mark.parametrize("responses", [False, True])
async def test_images_can_follow_as_a_message_of_the_user(
    scripted: Scripted, *, responses: bool
) -> None:
    model = scripted(("go", "1"))
    async with CodeInterpreter(FakeSessionPool(PICTURE)) as interpreter:
        reply = await ask_openai_agents(
            interpreter, model, "a", "go", responses=responses, show=True, images="inline"
        )
    assert reply == "seen"
    _, body = model.requests[-1]
    *_, result, shown = body.get("messages") or body["input"]
    assert NAMED in json.dumps(result)
    assert "data:image" not in json.dumps(result)
    assert shown["role"] == "user"
    assert URI in json.dumps(shown)


async def test_too_many_images_are_counted_not_sent() -> None:
    pool = FakeSessionPool(Execution(results=PICTURE.results * 25))
    async with CodeInterpreter(pool) as interpreter:
        execute_code = code_interpreter_tool(interpreter, images="inline")
        output = await execute_code.on_invoke_tool(context_of(None, "a"), '{"code": "1"}')
    assert len([part for part in output if part.type == "image"]) == 20
    assert output[-1].text == "[images not attached, for their number or size: 5]"


@pytest.mark.parametrize("approved", [True, False])
@pytest.mark.parametrize("make", MODELS)
async def test_the_sdk_asks_before_the_code_runs_and_the_wait_survives_a_restart(
    scripted: Scripted, make: Any, *, approved: bool
) -> None:
    pool = FakeSessionPool(Execution(stdout="forty-two"))
    model = scripted(("go", "6 * 7"))
    async with CodeInterpreter(pool) as interpreter:
        async with agent_of(model, interpreter, make, needs_approval=True) as agent:
            context = {"session_id": "alice"}
            result = await Runner.run(agent, "go", context=context, run_config=QUIET)
            assert len(result.interruptions) == 1
            assert pool.calls == []
            saved = result.to_state().to_string()
            state = await RunState.from_string(agent, saved)
            (waiting,) = state.get_interruptions()
            state.approve(waiting) if approved else state.reject(waiting)
            result = await Runner.run(agent, state, run_config=QUIET)
    assert result.final_output == "seen"
    assert [code for _, code in pool.calls] == (["6 * 7"] if approved else [])
    assert ("forty-two" in json.dumps(model.requests[-1][1])) is approved


async def test_approval_can_depend_on_the_code(scripted: Scripted) -> None:
    async def risky(_: object, arguments: dict[str, Any], __: str) -> bool:
        return "import" in arguments["code"]

    pool = FakeSessionPool()
    model = scripted(("safe", "1"), ("risky", "import os"))
    async with CodeInterpreter(pool) as interpreter:
        async with agent_of(
            model, interpreter, OpenAIResponsesModel, needs_approval=risky
        ) as agent:
            assert not (await Runner.run(agent, "safe", run_config=QUIET)).interruptions
            assert (await Runner.run(agent, "risky", run_config=QUIET)).interruptions
    assert [code for _, code in pool.calls] == ["1"]


async def test_the_interpreters_own_approver_is_asked_too(scripted: Scripted) -> None:
    async def approve(request: ApprovalRequest) -> Decision:
        return Decision("deny", reason=f"no {request.code}")

    pool = FakeSessionPool()
    model = scripted(("go", "1"))
    async with CodeInterpreter(pool, approve=approve) as interpreter:
        await ask_openai_agents(interpreter, model, "a", "go")
    assert pool.calls == []
    assert "did not approve it: no 1" in json.dumps(model.requests[-1][1])


async def test_a_conversation_is_named_by_the_context_in_several_ways() -> None:
    ids = await keys_used(
        FakeSessionPool(),
        context_of({"session_id": "alice"}),
        context_of({"thread_id": "alice"}),
        context_of(SimpleNamespace(conversation_id="alice")),
        context_of(None, group_id="alice"),
        context_of({"session_id": "alice"}, group_id="bob"),
        context_of({"session_id": ""}, group_id="alice"),
    )
    assert len(set(ids)) == 1


async def test_ids_need_not_be_text() -> None:
    one, number = UUID(int=1), 0
    pool = FakeSessionPool()
    contexts = [context_of({"session_id": one}), context_of({"session_id": str(one)})]
    ids = await keys_used(pool, *contexts, context_of({"session_id": number}))
    assert ids[0] == ids[1] != ids[2]


async def test_session_key_comes_first_and_use_session_second() -> None:
    pool = FakeSessionPool()
    async with CodeInterpreter(pool) as interpreter:
        plain = code_interpreter_tool(interpreter)
        named = code_interpreter_tool(interpreter, session_key=lambda run: run.context["tenant"])
        context = context_of({"tenant": "alice", "session_id": "bob"})
        with interpreter.use_session("carol"):
            await named.on_invoke_tool(context, '{"code": "1"}')
            await plain.on_invoke_tool(context, '{"code": "1"}')
        used = [session_id for session_id, _ in pool.calls]
        assert used == [interpreter.session(key).id for key in ("alice", "carol")]


async def test_an_unnamed_conversation_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "cci_plugins"):
        ids = await keys_used(FakeSessionPool(), context_of(None), context_of(object()))
    assert caplog.text.count("no conversation was named") == 1
    assert len(set(ids)) == 1


@pytest.mark.parametrize("arguments", ["", "{", "[]", "{}", '{"code": 1}', "null", '"1"'])
async def test_invalid_arguments_are_reported_and_run_nothing(arguments: str) -> None:
    pool = FakeSessionPool()
    async with CodeInterpreter(pool) as interpreter:
        execute_code = code_interpreter_tool(interpreter)
        reply = await execute_code.on_invoke_tool(context_of(None, "a"), arguments)
    assert "the arguments must be a JSON object" in str(reply)
    assert reply.failed
    assert pool.calls == []


async def test_a_session_of_the_sdk_keeps_text_and_no_python_objects(scripted: Scripted) -> None:
    model = scripted(("go", "1"), ("more", "2"))
    session = SQLiteSession("alice")
    async with CodeInterpreter(FakeSessionPool(Execution(stdout="42"))) as interpreter:
        async with agent_of(model, interpreter, OpenAIResponsesModel) as agent:
            for question in ("go", "more"):
                await Runner.run(agent, question, session=session, run_config=QUIET)
    kept = json.dumps(await session.get_items())
    session.close()
    assert kept.count('"output": "42"') == 2
    assert "Execution" not in kept


@pytest.mark.slow
async def test_output_arrives_while_the_code_runs(
    warm: CodeInterpreter, scripted: Scripted
) -> None:
    events: list[OutputEvent] = []
    model = scripted(
        ("go", "print('first', flush=True); import time; time.sleep(0.3); print('last')")
    )
    await ask_openai_agents(warm, model, "output", "go", on_output=events.append)
    assert [event.text for event in events if event.text.strip()][:1] == ["first\n"]
    assert len(events) > 1
    await warm.session("output").delete()


async def test_the_sdks_own_time_out_stops_the_code(scripted: Scripted) -> None:
    class Endless(FakeSessionPool):
        cancelled = False

        async def execute(self, *_: object, **__: object) -> Execution:  # type: ignore[override]
            try:
                await asyncio.sleep(60)
            finally:
                self.cancelled = True
            raise AssertionError

    pool, model = Endless(), scripted(("go", "1"))
    async with CodeInterpreter(pool) as interpreter:
        async with agent_of(model, interpreter, OpenAIResponsesModel) as agent:
            agent.tools[0].timeout_seconds = 0.2  # type: ignore[union-attr]
            await Runner.run(agent, "go", run_config=QUIET)
    assert pool.cancelled
    assert "timed out" in json.dumps(model.requests[-1][1])


async def test_history_of_other_tools_is_left_alone() -> None:
    from agents.run_config import CallModelData, ModelInputData

    image = {"type": "input_image", "image_url": URI}
    items: Any = [
        {"role": "user", "content": "go"},
        {"type": "function_call", "name": "camera", "call_id": "1", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "1", "output": [image]},
    ]
    data = ModelInputData(input=items, instructions="x")
    agent: Agent[Any] = Agent("analyst")
    assert images_as_user_messages(CallModelData(data, agent, None)) == data

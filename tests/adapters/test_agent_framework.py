"""The Agent Framework provider and tool: images, approval, sessions, mounted files, streaming."""

from __future__ import annotations

import json
import logging
from base64 import b64encode
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from agent_framework import Agent, AgentSession, Content, FunctionInvocationContext, Message
from agent_framework.openai import OpenAIChatClient, OpenAIChatCompletionClient
from openai import AsyncOpenAI

from cci_plugins import (
    ApprovalRequest,
    CodeInterpreter,
    Decision,
    Execution,
    Limits,
    OutputEvent,
    Result,
    ToolOptions,
)
from cci_plugins.agent_framework import CodeInterpreterProvider, FileMount, code_interpreter_tool
from cci_plugins.errors import ConfigurationError, UnsafeNameError
from cci_plugins.testing import FakeSessionPool, ScriptedModel

from .conftest import ask_agent_framework

pytestmark = pytest.mark.anyio

PNG = b"\x89PNG\r\n\x1a\nrest"
JPEG = b"\xff\xd8\xffrest"
NAMED = "[image 1: image/png, shown to the user]\n[image 2: image/jpeg, shown to the user]"
Scripted = Callable[..., ScriptedModel]


def picture(media_type: str, data: bytes) -> Result:
    return Result({media_type: b64encode(data).decode(), "text/plain": "<Figure>"})


PICTURES = Execution(results=(picture("image/png", PNG), picture("image/jpeg", JPEG)))


@asynccontextmanager
async def agent_of(
    model: ScriptedModel,
    provider: CodeInterpreterProvider | None,
    make: Any = OpenAIChatCompletionClient,
    **options: Any,
) -> AsyncIterator[Agent]:
    async with AsyncOpenAI(base_url=model.url, api_key="none-needed") as client:
        providers = [] if provider is None else [provider]
        chat = make(model="scripted", async_client=client)
        yield Agent(chat, context_providers=providers, **options)


async def called(pool: FakeSessionPool, **options: Any) -> list[Content]:
    """What the tool answers, with the default conversation of an agent session."""
    async with CodeInterpreter(pool) as interpreter:
        return await invoke(code_interpreter_tool(interpreter, **options))


async def invoke(execute_code: Any, session_id: str | None = "a") -> list[Content]:
    session = AgentSession(session_id=session_id) if session_id else None
    context = FunctionInvocationContext(execute_code, {"code": "1"}, session)
    return list(await execute_code.invoke(context=context))


async def tool_of(provider: CodeInterpreterProvider) -> Any:
    """The tool that a provider gives an agent."""
    from agent_framework import SessionContext

    context = SessionContext(input_messages=[])
    await provider.before_run(agent=None, session=None, context=context, state={})
    return context.tools[0]


async def test_the_application_gets_the_whole_execution_with_the_text(scripted: Scripted) -> None:
    execution = Execution(stdout="x" * 20_000)
    model = scripted(("go", "1"))
    async with CodeInterpreter(FakeSessionPool(execution)) as interpreter:
        async with agent_of(model, CodeInterpreterProvider(interpreter)) as agent:
            reply = await agent.run("go")
    (result,) = [
        content
        for message in reply.messages
        for content in message.contents
        if content.type == "function_result"
    ]
    (item,) = result.items or ()
    assert len(str(item.text)) <= Limits().output_characters
    assert item.raw_representation is execution


@pytest.mark.parametrize("make", [OpenAIChatClient, OpenAIChatCompletionClient])
async def test_images_are_named_unless_asked_for(scripted: Scripted, make: Any) -> None:
    model = scripted(("go", "1"))
    async with CodeInterpreter(FakeSessionPool(PICTURES)) as interpreter:
        async with agent_of(model, CodeInterpreterProvider(interpreter), make) as agent:
            await agent.run("go")
    sent = json.dumps(model.requests[-1][1])
    assert "[image 2: image/jpeg, shown to the user]" in sent
    assert "data:image" not in sent


async def test_inline_images_are_part_of_the_result_where_the_api_takes_them(
    scripted: Scripted,
) -> None:
    model = scripted(("go", "1"))
    async with CodeInterpreter(FakeSessionPool(PICTURES)) as interpreter:
        await ask_agent_framework(interpreter, model, "a", "go", responses=True, images="inline")
    output = model.requests[-1][1]["input"][-1]["output"]
    assert output[0] == {"type": "input_text", "text": NAMED}
    assert [part["image_url"] for part in output[1:]] == [
        f"data:image/png;base64,{b64encode(PNG).decode()}",
        f"data:image/jpeg;base64,{b64encode(JPEG).decode()}",
    ]


@pytest.mark.parametrize("responses", [False, True])
async def test_images_can_follow_as_a_message_of_the_user(
    scripted: Scripted, *, responses: bool
) -> None:
    model = scripted(("go", "1"), ("more", "2"))
    make = OpenAIChatClient if responses else OpenAIChatCompletionClient
    async with CodeInterpreter(FakeSessionPool(PICTURES)) as interpreter:
        provider = CodeInterpreterProvider(interpreter, images="user_message")
        async with agent_of(model, provider, make) as agent:
            session = agent.create_session()
            await agent.run("go", session=session)
            _, body = model.requests[-1]
            restored = AgentSession.from_dict(json.loads(json.dumps(session.to_dict())))
            assert (await agent.run("more", session=restored)).text == "seen"
    sent = body.get("messages") or body["input"]
    (at,) = [i for i, each in enumerate(sent) if "tool_call_id" in each or "output" in each]
    assert (sent[at].get("content") or sent[at]["output"]) == NAMED
    after = sent[at + 1 :]
    assert {each["role"] for each in after} == {"user"}
    assert json.dumps(after).count("data:image/") == 2
    again = model.requests[-1][1]
    if not responses:  # else the service keeps the earlier messages
        roles = [each["role"] for each in again["messages"]]
        assert roles[:3] == ["user", "assistant", "tool"]
        assert json.dumps(again).count("data:image/png") == 2, "once for each run of the code"


async def test_the_history_keeps_images_in_the_result_they_came_with(scripted: Scripted) -> None:
    model = scripted(("go", "1"))
    async with CodeInterpreter(FakeSessionPool(PICTURES)) as interpreter:
        provider = CodeInterpreterProvider(interpreter, images="user_message")
        async with agent_of(model, provider) as agent:
            reply = await agent.run("go")
    assert [message.role for message in reply.messages] == ["assistant", "tool", "assistant"]
    assert [item.type for item in reply.messages[1].contents[0].items or ()] == [
        "text",
        "data",
        "data",
    ]


@pytest.mark.parametrize(
    ("options", "kinds", "missing"),
    [
        ({"max_output_files": 1}, ["image/jpeg"], 1),
        ({"max_output_file_bytes": 8}, ["image/jpeg"], 1),
        ({"max_output_total_bytes": 12}, ["image/jpeg"], 1),
        ({}, ["image/png", "image/jpeg"], 0),
    ],
)
async def test_attached_images_have_bounds(
    options: dict[str, int], kinds: list[str], missing: int
) -> None:
    async with CodeInterpreter(FakeSessionPool(PICTURES)) as interpreter:
        provider = CodeInterpreterProvider(interpreter, images="inline", **options)  # type: ignore[arg-type]
        contents = await invoke(await tool_of(provider))
    assert [content.media_type for content in contents if content.type == "data"] == kinds
    expected = [f"[images not attached, for their number or size: {missing}]"] if missing else []
    assert [content.text for content in contents[1:] if content.type == "text"] == expected


@pytest.mark.parametrize("data", [b"<html>", b"", b"\x89PNX"])
async def test_what_only_claims_to_be_an_image_is_not_attached(data: bytes) -> None:
    pool = FakeSessionPool(Execution(results=(picture("image/png", data),)))
    (content,) = await called(pool, images="inline")
    assert content.type == "text"


@pytest.mark.parametrize("approved", [True, False])
@pytest.mark.parametrize("make", [OpenAIChatClient, OpenAIChatCompletionClient])
async def test_the_framework_asks_before_the_code_runs(
    scripted: Scripted, make: Any, *, approved: bool
) -> None:
    pool = FakeSessionPool(Execution(stdout="forty-two"))
    model = scripted(("go", "6 * 7"))
    async with CodeInterpreter(pool) as interpreter:
        provider = CodeInterpreterProvider(interpreter, approval_mode="always_require")
        async with agent_of(model, provider, make) as agent:
            session = agent.create_session()
            reply = await agent.run("go", session=session)
            (request,) = reply.user_input_requests
            assert request.function_call is not None
            assert request.function_call.parse_arguments() == {"code": "6 * 7"}
            assert pool.calls == []
            answer = Message("user", [request.to_function_approval_response(approved)])
            reply = await agent.run(answer, session=session)
    assert reply.text == "seen"
    assert [code for _, code in pool.calls] == (["6 * 7"] if approved else [])
    assert ("forty-two" in json.dumps(model.requests[-1][1])) is approved


async def test_the_interpreters_own_approver_is_asked_too(scripted: Scripted) -> None:
    async def approve(request: ApprovalRequest) -> Decision:
        return Decision("allow", code=f"{request.code} + 1")

    pool = FakeSessionPool()
    async with CodeInterpreter(pool, approve=approve) as interpreter:
        await ask_agent_framework(interpreter, scripted(("go", "1")), "a", "go")
    assert [code for _, code in pool.calls] == ["1 + 1"]


async def test_use_session_lets_agents_share_one_session(scripted: Scripted) -> None:
    pool = FakeSessionPool()
    model = scripted(("go", "1"))
    async with CodeInterpreter(pool) as interpreter:
        await ask_agent_framework(interpreter, model, "alone", "go")
        with interpreter.use_session("shared"):
            await ask_agent_framework(interpreter, model, "one", "go")
            await ask_agent_framework(interpreter, model, "other", "go")
    alone, one, other = (session_id for session_id, _ in pool.calls)
    assert one == other != alone


async def test_runs_without_a_session_are_separate(scripted: Scripted) -> None:
    pool = FakeSessionPool()
    async with CodeInterpreter(pool) as interpreter:
        async with agent_of(scripted(("go", "1")), CodeInterpreterProvider(interpreter)) as agent:
            await agent.run("go")
            await agent.run("go")
    assert len({session_id for session_id, _ in pool.calls}) == 2


async def test_a_bare_tool_without_a_session_warns_once(
    scripted: Scripted, caplog: pytest.LogCaptureFixture
) -> None:
    pool = FakeSessionPool()
    model = scripted(("go", "1"))
    async with CodeInterpreter(pool) as interpreter:
        tools = [code_interpreter_tool(interpreter)]
        async with agent_of(model, None, tools=tools) as agent:
            with caplog.at_level(logging.WARNING, "cci_plugins"):
                await agent.run("go")
                await agent.run("go")
            assert caplog.text.count("the agent has no session") == 1
            await agent.run("go", session=agent.create_session())
    assert len({session_id for session_id, _ in pool.calls}) == 2


async def test_invalid_arguments_are_reported_to_the_model_and_run_nothing() -> None:
    pool = FakeSessionPool()
    async with CodeInterpreter(pool) as interpreter:
        execute_code = code_interpreter_tool(interpreter)
        for arguments in ({}, {"code": 1}, {"code": "1", "session_id": "victim"}):
            with pytest.raises(TypeError):
                await execute_code.invoke(arguments=arguments)
    assert pool.calls == []


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "data" / "deep").mkdir(parents=True)
    (tmp_path / "sales.csv").write_text("price\n3\n")
    (tmp_path / "data" / "deep" / "b.csv").write_text("b\n")
    (tmp_path / "data" / "link").symlink_to("/etc/hostname")
    return tmp_path


@pytest.mark.slow
async def test_mounted_files_exist_and_the_instructions_name_them(
    folder: Path, warm: CodeInterpreter, scripted: Scripted
) -> None:
    code = (
        "import os\nprint(open('in/s.csv').read(), os.path.exists('in/link'))\n"
        "print(open('in/deep/b.csv').read())"
    )
    model = scripted(("go", code))
    mounts = [FileMount(folder / "sales.csv", "/mnt/data/in/s.csv"), (folder / "data", "in")]
    options = {"file_mounts": mounts, "options": ToolOptions(instructions="Be brief.")}
    await ask_agent_framework(warm, model, "mounts", "go", **options)
    system = model.requests[0][1]["messages"][0]
    assert system["role"] == "system"
    assert "in/deep/b.csv, in/s.csv" in json.dumps(system)
    assert "Be brief." in json.dumps(system)
    assert "price\\n3\\n False\\nb" in json.dumps(model.requests[-1][1])
    await warm.session("mounts").delete()


async def test_files_are_mounted_once_in_each_session(folder: Path) -> None:
    class Counting(FakeSessionPool):
        def __init__(self) -> None:
            super().__init__()
            self.names: list[str] = []

        async def upload(self, session_id: str, name: str, content: Any) -> Any:
            self.names.append(name)
            return await super().upload(session_id, name, content)

    pool = Counting()
    async with CodeInterpreter(pool) as interpreter:
        provider = CodeInterpreterProvider(interpreter, file_mounts=str(folder / "sales.csv"))
        execute_code = await tool_of(provider)
        for session_id in ("a", "a", "b"):
            await invoke(execute_code, session_id)
        assert [file.name for file in await interpreter.session("b").files.list()] == ["sales.csv"]
    assert pool.names == ["sales.csv", "sales.csv"]


async def test_a_failed_mount_shows_no_host_path_to_the_model(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pool = FakeSessionPool()
    async with CodeInterpreter(pool) as interpreter:
        provider = CodeInterpreterProvider(interpreter, file_mounts=folder / "sales.csv")
        (folder / "sales.csv").unlink()
        with caplog.at_level(logging.WARNING, "cci_plugins"):
            (content,) = await invoke(await tool_of(provider))
    assert "was not run" in str(content.text)
    assert str(folder) not in str(content.text)
    assert str(folder) in caplog.text
    assert pool.calls == []


def test_invalid_mounts_are_refused_at_once(folder: Path) -> None:
    make = partial(CodeInterpreterProvider, CodeInterpreter(FakeSessionPool()))
    with pytest.raises(ConfigurationError, match="the file or folder does not exist"):
        make(file_mounts=folder / "missing.csv")
    with pytest.raises(UnsafeNameError):
        make(file_mounts=(folder / "sales.csv", "../sales.csv"))


@pytest.mark.slow
async def test_output_arrives_while_the_code_runs(
    warm: CodeInterpreter, scripted: Scripted
) -> None:
    events: list[OutputEvent] = []
    model = scripted(
        ("go", "print('first', flush=True); import time; time.sleep(0.3); print('last')")
    )
    await ask_agent_framework(warm, model, "output", "go", on_output=events.append)
    assert [event.text for event in events if event.text.strip()][:1] == ["first\n"]
    assert len(events) > 1
    await warm.session("output").delete()

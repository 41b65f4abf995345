"""Uses the public API as an application would; only type-checked, never run."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import assert_type

from cci_plugins import (
    ApprovalRequest,
    CodeInterpreter,
    Decision,
    Execution,
    FileInfo,
    HostTool,
    Limits,
    LocalSessionPool,
    OutputEvent,
    SandboxLimits,
    Session,
    ToolCall,
    ToolCallRequest,
    foundry,
    sync,
)
from cci_plugins.errors import CodeInterpreterError
from cci_plugins.foundry import sync as foundry_sync
from cci_plugins.testing import FakeSessionPool, FakeTools, check_session_pool


async def approve(request: ApprovalRequest) -> Decision:
    return Decision("deny" if "rm" in request.code else "allow", reason="no")


def listen(event: OutputEvent) -> None:
    assert_type(event.text, str)


async def awaited() -> None:
    pool = LocalSessionPool(limits=SandboxLimits(processes=10), cooldown=timedelta(minutes=5))
    async with CodeInterpreter(pool, approve=approve, limits=Limits()) as interpreter:
        session = interpreter.session("alice")
        assert_type(session, Session)
        execution = await session.run_code("1", timeout=timedelta(seconds=1), on_output=listen)
        assert_type(execution, Execution)
        assert_type(execution.raise_for_error(), Execution)
        assert_type(await session.files.upload(b"", name="x"), FileInfo)
        assert_type(await session.files.list(), Sequence[FileInfo])
        assert_type(await session.files.download("x"), bytes)
        with interpreter.use_session("bob") as other:
            assert_type(other, Session)
    assert_type(await check_session_pool(FakeSessionPool()), dict[str, str | None])


async def in_the_cloud(interpreter: CodeInterpreter) -> None:
    connection = await foundry.connect(foundry.Project.from_env(), pool="id")
    agent = await foundry.create_agent("a", tool=foundry.code_interpreter_tool(connection))
    environment = await foundry.open_environment(interpreter)
    assert_type(await environment.files.upload(b"", name="x"), FileInfo)
    reply = await foundry.run(agent, "?", approve=approve, environment=environment)
    assert_type(reply, foundry.Reply)
    assert_type(reply.calls, tuple[foundry.ToolCall, ...])
    assert_type(foundry_sync.run(agent, "?", previous=reply), foundry.Reply)
    assert_type(await foundry.delete_agent(agent), bool)


async def approve_call(request: ToolCallRequest) -> Decision:
    assert_type(request.name, str)
    return Decision("allow")


async def with_host_tools(interpreter: CodeInterpreter) -> None:
    tool = HostTool(
        "double", "Double it.", {"type": "object"}, lambda a: 2 * a, needs_approval=True
    )
    execution = await interpreter.run_code("1", tools=[tool], approve_tool=approve_call)
    assert_type(execution.tool_calls, tuple[ToolCall, ...])

    async def program(code: str, tools: FakeTools) -> Execution:
        await tools.acall("double", a=code)
        return Execution()

    assert_type(FakeSessionPool(program, Execution()), FakeSessionPool)


def blocking() -> None:
    with sync.CodeInterpreter.local() as interpreter:
        assert_type(interpreter.run_code("1", on_output=listen), Execution)
        assert_type(interpreter.session("a").files.list(), Sequence[FileInfo])
        try:
            interpreter.session("a").delete()
        except CodeInterpreterError as error:
            assert_type(error.hint, str | None)

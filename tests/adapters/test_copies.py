"""A deep copy of an adapter's tool works, and shares the interpreter with its sessions."""

from __future__ import annotations

import queue
from copy import copy, deepcopy
from json import dumps

import pytest
from agent_framework import AgentSession, FunctionInvocationContext, FunctionTool
from agents import FunctionTool as OpenAiTool
from agents.tool_context import ToolContext

from cci_plugins import CodeInterpreter, Execution
from cci_plugins import agent_framework as agent_framework_adapter
from cci_plugins import openai_agents as openai_agents_adapter
from cci_plugins.deepagents import CodeInterpreterSandbox
from cci_plugins.langchain import CodeInterpreterTool, CodeInterpreterToolkit
from cci_plugins.models import OutputEvent
from cci_plugins.semantic_kernel import CodeInterpreterPlugin
from cci_plugins.sync import CodeInterpreter as SyncCodeInterpreter
from cci_plugins.testing import FakeSessionPool

pytestmark = pytest.mark.anyio


async def call_agent_framework(tool: FunctionTool) -> str:
    context = FunctionInvocationContext(tool, {"code": "1"}, AgentSession(session_id="alice"))
    (content,) = await tool.invoke(context=context)
    return str(content.text)


async def call_openai_agents(tool: OpenAiTool) -> str:
    arguments = dumps({"code": "1"})
    context = ToolContext(
        {"session_id": "alice"},
        tool_name="execute_code",
        tool_call_id="1",
        tool_arguments=arguments,
    )
    return str(await tool.on_invoke_tool(context, arguments))


async def test_a_deep_copy_of_every_tool_shares_the_interpreter_and_the_listener() -> None:
    pool, events = FakeSessionPool(Execution(stdout="hi\n")), queue.Queue[OutputEvent]()
    async with CodeInterpreter(pool) as interpreter:
        langchain = CodeInterpreterTool(interpreter=interpreter, on_output=events.put)
        plugin = CodeInterpreterPlugin(interpreter, on_output=events.put)
        framework = agent_framework_adapter.code_interpreter_tool(interpreter, on_output=events.put)
        openai = openai_agents_adapter.code_interpreter_tool(interpreter, on_output=events.put)
        config = {"configurable": {"thread_id": "alice"}}
        replies = [
            str(await deepcopy(langchain).ainvoke({"code": "1"}, config)),
            str(await deepcopy(plugin).execute_code("1", session_id="alice")),
            await call_agent_framework(deepcopy(framework)),
            await call_openai_agents(deepcopy(openai)),
        ]
    assert [reply.strip() for reply in replies] == ["hi"] * 4
    assert len({session_id for session_id, _ in pool.calls}) == 1
    assert events.qsize() == 4


async def test_a_deep_copy_of_a_toolkit_provider_sandbox_or_interpreter_works() -> None:
    interpreter = CodeInterpreter(FakeSessionPool())
    blocking = SyncCodeInterpreter(FakeSessionPool())
    for each in (interpreter, blocking):
        assert copy(each) is deepcopy(each) is each
    toolkit = deepcopy(CodeInterpreterToolkit(interpreter=interpreter))
    assert toolkit.interpreter is interpreter
    assert all(deepcopy(tool) for tool in toolkit.get_tools())
    provider = agent_framework_adapter.CodeInterpreterProvider(interpreter, file_mounts=__file__)
    assert deepcopy(provider).source_id == provider.source_id
    sandbox = CodeInterpreterSandbox(interpreter, session_key="alice")
    assert deepcopy(sandbox).id == sandbox.id

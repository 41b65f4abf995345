"""Comparison of each framework's tool with `session.run_code`, on one warm session."""

from __future__ import annotations

import json

from agent_framework import AgentSession, FunctionInvocationContext
from agents.tool_context import ToolContext
from semantic_kernel import Kernel
from semantic_kernel.functions import KernelArguments

from cci_plugins import CodeInterpreter, LocalSessionPool, agent_framework, openai_agents
from cci_plugins.langchain import CodeInterpreterTool
from cci_plugins.semantic_kernel import CodeInterpreterPlugin
from cci_plugins.tools.execute_code import NAME

from .measure import Call, Ratio, in_turns

CODE = "1+1"
KEY = "bench"
AIM = 1.15


async def measure(rounds: int = 200) -> list[Ratio]:
    """Run `1+1` through every adapter, in turns with a direct call of the same session."""
    async with CodeInterpreter(LocalSessionPool(ready_sessions=0, preload=())) as interpreter:

        async def direct() -> None:
            assert (await interpreter.session(KEY).run_code(CODE)).text == "2"

        ratios = []
        for name, call in build_calls(interpreter).items():
            await interpreter.session(KEY).delete()  # IPython warns after a thousand results
            ours, theirs = await in_turns(call, direct, rounds=rounds)
            ratios.append(Ratio(f"1+1 by the {name} tool", ours, theirs, "session.run_code", AIM))
        return ratios


def build_calls(interpreter: CodeInterpreter) -> dict[str, Call]:
    """Build a call of each framework's tool as the framework itself makes it."""
    execute_code = agent_framework.code_interpreter_tool(interpreter)
    conversation = AgentSession(session_id=KEY)
    langchain = CodeInterpreterTool(interpreter=interpreter)
    config = {"configurable": {"thread_id": KEY}}
    function_tool = openai_agents.code_interpreter_tool(interpreter)
    arguments = json.dumps({"code": CODE})
    plugin = Kernel().add_plugin(CodeInterpreterPlugin(interpreter), "code_interpreter")[NAME]
    kernel = Kernel()

    async def call_agent_framework() -> None:
        context = FunctionInvocationContext(execute_code, {"code": CODE}, conversation)
        (content,) = await execute_code.invoke(context=context)
        assert content.text == "2"

    async def call_langchain() -> None:
        assert await langchain.ainvoke({"code": CODE}, config) == "2"  # type: ignore[arg-type]

    async def call_openai_agents() -> None:
        context = ToolContext(
            {"session_id": KEY}, tool_name=NAME, tool_call_id="1", tool_arguments=arguments
        )
        assert str(await function_tool.on_invoke_tool(context, arguments)) == "2"

    async def call_semantic_kernel() -> None:
        kernel_arguments = KernelArguments(code=CODE, session_id=KEY)
        assert str(await kernel.invoke(plugin, kernel_arguments)) == "2"

    return {
        "Agent Framework": call_agent_framework,
        "LangChain": call_langchain,
        "OpenAI Agents": call_openai_agents,
        "Semantic Kernel": call_semantic_kernel,
    }

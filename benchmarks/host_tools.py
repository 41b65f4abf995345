"""A call of a host tool from a session, compared with the same call by the framework itself."""

from __future__ import annotations

import json
import statistics
import time

from agent_framework import Agent, FunctionTool
from agent_framework.openai import OpenAIChatCompletionClient
from agents import FunctionTool as AgentsTool
from agents import function_tool
from agents.tool_context import ToolContext
from langchain_core.tools import tool
from openai import AsyncOpenAI
from semantic_kernel import Kernel
from semantic_kernel.functions import KernelArguments, kernel_function

from cci_plugins import CodeInterpreter, LocalSessionPool, openai_agents
from cci_plugins.agent_framework import CodeInterpreterProvider
from cci_plugins.langchain import CodeInterpreterTool
from cci_plugins.semantic_kernel import CodeInterpreterPlugin
from cci_plugins.testing import ScriptedModel
from cci_plugins.tools.execute_code import NAME

from .measure import Call, Ratio

CALLS = 100
BOUND = 3.0  # milliseconds that a call from a session may take more
CODE = f"""
from time import perf_counter as now
def measure():
    started = now()
    assert tools.add(a=40, b=2) == 42
    return (now() - started) * 1000
sorted(measure() for _ in range({CALLS}))[{CALLS // 2}]
"""
ARGUMENTS = {"a": 40, "b": 2}


async def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


async def measure() -> list[Ratio]:
    """Return what a call from a session takes more than a plain call, for each framework."""
    async with CodeInterpreter(LocalSessionPool(ready_sessions=0, preload=())) as interpreter:
        rows = {
            "LangChain": await measure_langchain(interpreter),
            "Semantic Kernel": await measure_semantic_kernel(interpreter),
            "Agent Framework": await measure_agent_framework(interpreter),
            "OpenAI Agents": await measure_openai_agents(interpreter),
        }
    return [
        Ratio(f"a host call by {name}, more than a plain call", max(more, 0.0), BOUND, "3 ms", 1.0)
        for name, more in rows.items()
    ]


async def measure_call(call: Call) -> float:
    """Return the median time of a call in milliseconds."""
    times = []
    for _ in range(CALLS):
        started = time.perf_counter()
        await call()
        times.append((time.perf_counter() - started) * 1000)
    return statistics.median(times)


async def measure_langchain(interpreter: CodeInterpreter) -> float:
    plain = tool(add)
    host = CodeInterpreterTool(interpreter=interpreter, tools=[plain])
    ours = float(await host.ainvoke({"code": CODE}))
    return ours - await measure_call(lambda: plain.ainvoke(ARGUMENTS))


async def measure_semantic_kernel(interpreter: CodeInterpreter) -> float:
    kernel = Kernel()
    function = kernel.add_function("numbers", kernel_function(add))
    plugin = CodeInterpreterPlugin(interpreter, functions=[function], session_key="kernel")
    execute_code = kernel.add_plugin(plugin, "code_interpreter")[NAME]
    code = CODE.replace("tools.add", "tools.numbers_add")
    ours = float(str(await kernel.invoke(execute_code, KernelArguments(code=code))))
    return ours - await measure_call(lambda: kernel.invoke(function, KernelArguments(**ARGUMENTS)))


async def measure_agent_framework(interpreter: CodeInterpreter) -> float:
    plain = FunctionTool(name="add", description="Add.", func=add)
    provider = CodeInterpreterProvider(interpreter, tools=[plain])
    with ScriptedModel(CODE) as model:
        async with AsyncOpenAI(base_url=model.url, api_key=model.key) as client:
            chat = OpenAIChatCompletionClient(model="scripted", async_client=client)
            agent = Agent(chat, context_providers=[provider])
            await agent.run("go", session=agent.create_session())
        ours = float(model.requests[-1][1]["messages"][-1]["content"])
    return ours - await measure_call(lambda: plain.invoke(arguments=ARGUMENTS))


async def measure_openai_agents(interpreter: CodeInterpreter) -> float:
    plain = function_tool(add)
    host = openai_agents.code_interpreter_tool(interpreter, tools=[plain])
    ours = float(str(await invoke(host, {"code": CODE})))
    return ours - await measure_call(lambda: invoke(plain, ARGUMENTS))


async def invoke(one: AgentsTool, arguments: dict[str, object]) -> object:
    """Invoke a function tool as the SDK does."""
    text = json.dumps(arguments)
    context = ToolContext(
        {"session_id": "agents"}, tool_name="tool", tool_call_id="1", tool_arguments=text
    )
    return await one.on_invoke_tool(context, text)

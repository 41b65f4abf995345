"""Whole agents from scripts, threads, many loops and a running loop: nothing is left open."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HEAD = """
    import asyncio, threading
    import agents
    from agent_framework import Agent
    from agent_framework.openai import OpenAIChatCompletionClient
    from langchain.agents import create_agent
    from langchain_openai import ChatOpenAI
    from openai import AsyncOpenAI, DefaultAsyncHttpxClient, DefaultHttpxClient
    from semantic_kernel.agents import ChatCompletionAgent
    from semantic_kernel.connectors.ai.open_ai import OpenAIChatCompletion
    from cci_plugins.testing import Script, ScriptedModel, Turn
    from cci_plugins import CodeInterpreter, LocalSessionPool
    from cci_plugins.agent_framework import CodeInterpreterProvider
    from cci_plugins.langchain import CodeInterpreterTool
    from cci_plugins.openai_agents import code_interpreter_tool
    from cci_plugins.semantic_kernel import CodeInterpreterPlugin

    interpreter = CodeInterpreter(LocalSessionPool(preload=()))
    count = Turn("go", "n = globals().get('n', 0) + 1; print('n =', n)", r"n = (?P<n>.*)", "{n}")
    model = ScriptedModel(Script((count,)))
    model.__enter__()
    options = {"model": "scripted", "base_url": model.url, "api_key": "none-needed"}
    thread = {"configurable": {"thread_id": "alice"}}
    question = {"messages": [("user", "go")]}

    def chain(**clients):
        tools = [CodeInterpreterTool(interpreter=interpreter)]
        return create_agent(ChatOpenAI(**options, **clients), tools=tools)

    def blocking():
        with DefaultHttpxClient() as http:
            return chain(http_client=http).invoke(question, thread)["messages"][-1].text

    async def langchain():
        async with DefaultAsyncHttpxClient() as http:
            state = await chain(http_async_client=http).ainvoke(question, thread)
            return state["messages"][-1].text

    async def kernel():
        async with AsyncOpenAI(base_url=model.url, api_key="none-needed") as client:
            service = OpenAIChatCompletion(ai_model_id="scripted", async_client=client)
            plugins = [CodeInterpreterPlugin(interpreter)]
            agent = ChatCompletionAgent(service=service, plugins=plugins)
            with interpreter.use_session("alice"):
                return str(await agent.get_response("go"))

    async def framework():
        async with AsyncOpenAI(base_url=model.url, api_key="none-needed") as client:
            chat = OpenAIChatCompletionClient(model="scripted", async_client=client)
            agent = Agent(chat, context_providers=[CodeInterpreterProvider(interpreter)])
            session = agent.create_session(session_id="alice")
            return (await agent.run("go", session=session)).text

    async def sdk():
        async with AsyncOpenAI(base_url=model.url, api_key="none-needed") as client:
            chat = agents.OpenAIChatCompletionsModel("scripted", client)
            agent = agents.Agent("analyst", model=chat, tools=[code_interpreter_tool(interpreter)])
            config = agents.RunConfig(tracing_disabled=True, group_id="alice")
            return (await agents.Runner.run(agent, "go", run_config=config)).final_output

    async def all_four():
        return " ".join([await langchain(), await kernel(), await framework(), await sdk()])
"""
PROGRAMS = {
    "a script that closes nothing": """
        print(blocking(), asyncio.run(kernel()), asyncio.run(framework()), asyncio.run(sdk()))
    """,
    "several asyncio.run": """
        print(asyncio.run(langchain()), asyncio.run(kernel()), end=" ")
        print(asyncio.run(framework()), asyncio.run(sdk()), asyncio.run(all_four()))
        asyncio.run(interpreter.aclose())
    """,
    "threads": """
        from semantic_kernel.filters import AutoFunctionInvocationContext
        assert AutoFunctionInvocationContext.__pydantic_complete__
        found = []
        def work(): found.extend([blocking(), *asyncio.run(all_four()).split()])
        threads = [threading.Thread(target=work) for _ in range(2)]
        [each.start() for each in threads]; [each.join() for each in threads]
        print(*sorted(found, key=int))
    """,
    "blocking inside a running loop": """
        async def main(): return blocking(), await all_four()
        print(*asyncio.run(main()))
    """,
}


@pytest.mark.slow
@pytest.mark.full
@pytest.mark.parametrize("name", PROGRAMS)
def test_agents_count_in_one_session_and_nothing_warns(name: str) -> None:
    program = textwrap.dedent(HEAD) + textwrap.dedent(PROGRAMS[name])
    warnings = ("-W", "always::ResourceWarning", "-W", "always::RuntimeWarning")
    done = subprocess.run(
        [sys.executable, *warnings, "-c", program],
        capture_output=True,
        check=False,
        env={**os.environ, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"},
        text=True,
        timeout=280,
    )
    assert done.stderr == ""
    counted = done.stdout.split()
    assert counted == [str(number) for number in range(1, len(counted) + 1)]
    assert len(counted) >= 2
    assert done.returncode == 0
